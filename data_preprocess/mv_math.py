"""MV-MATH (PeijieWang/MV-MATH), for evaluation and to decontaminate against.

    python data_preprocess/mv_math.py --input /data/mv_math --output outputs/mv_math

The 100 multi-step questions have several answers each and are rejected as multi_part. Alternatives (A ## B) are kept if
the rule finds them equal.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mv_math", __doc__))
