"""EMMA (luckychao/EMMA), for evaluation and to decontaminate against.

    python data_preprocess/emma.py --input /data/emma --output outputs/emma

Reads test*.parquet of each subject, with embedded images.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("emma", __doc__))
