"""MMR1-RL (MMR1/MMR1-RL) as questions over one image.

    python data_preprocess/mmr1.py --input /data/mmr1 --output outputs/mmr1

Reads the parquet with embedded images. Rows have no id: it is made of their content.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mmr1", __doc__))
