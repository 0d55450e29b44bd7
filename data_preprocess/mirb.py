"""MIRB (VLLMs/MIRB), for evaluation and to decontaminate against.

    python data_preprocess/mirb.py --input /data/mirb --output outputs/mirb

Golds in several words become aliases; titles of papers (subset arxiv) are compared word for word.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mirb", __doc__))
