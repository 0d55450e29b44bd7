"""Geometry3K (hiyouga/geometry3k) as questions over one diagram.

    python data_preprocess/geometry3k.py --input /data/geometry3k --output outputs/geometry3k

Reads train*.parquet with embedded images; validation and test are left alone. Rows have no id: it is made of their
content.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("geometry3k", __doc__))
