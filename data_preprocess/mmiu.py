"""MMIU (FanqingM/MMIU-Benchmark), for evaluation and to decontaminate against.

    python data_preprocess/mmiu.py --input /data/mmiu --output outputs/mmiu

Reads all.parquet or JSON; unpack the archives of images beside it. Images come first, as the text cites none.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mmiu", __doc__))
