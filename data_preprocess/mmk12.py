"""MMK12 (FanqingM/MMK12) as questions over one image.

    python data_preprocess/mmk12.py --input /data/mmk12 --output outputs/mmk12

Reads train*.parquet with embedded images. Its test split is a benchmark: it is not read.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mmk12", __doc__))
