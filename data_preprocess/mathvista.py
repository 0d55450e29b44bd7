"""MathVista testmini (AI4Math/MathVista), for evaluation and to decontaminate against.

    python data_preprocess/mathvista.py --input /data/mathvista --output outputs/mathvista

Reads testmini*.parquet with embedded images. Floats are right within half a unit of their last decimal.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mathvista", __doc__))
