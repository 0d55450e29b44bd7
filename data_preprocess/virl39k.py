"""ViRL39K (TIGER-Lab/ViRL39K), the best verifiable source of questions over several images.

    python data_preprocess/virl39k.py --input /data/virl39k --output outputs/virl39k

Unpack images.zip beside the parquet. The pass rate of the trained 32B model is kept, for mixes by difficulty.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("virl39k", __doc__))
