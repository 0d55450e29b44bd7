"""MUIRBench (MUIRBENCH/MUIRBENCH), for evaluation and to decontaminate against.

    python data_preprocess/muirbench.py --input /data/muirbench --output outputs/muirbench

Reads test*.parquet with embedded images. Options that are images are listed as "A. Image 2: <image>".
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("muirbench", __doc__))
