"""Parquet that is in our RL schema already (the digits, for one) back as questions, to mix or to look at.

    python data_preprocess/rl_parquet.py --input outputs/digits/train.parquet --media-root / \\
        --output outputs/rl_parquet

The paths in such files are absolute, so the media root is /.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("rl_parquet", __doc__))
