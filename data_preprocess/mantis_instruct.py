"""Mantis-Instruct (TIGER-Lab/Mantis-Instruct) as questions.

    python data_preprocess/mantis_instruct.py --input /data/mantis --media-root /data/mantis/images \\
        --output outputs/mantis_instruct

Reads the parquet or JSON of each configuration. The first exchange of a chat becomes a question if its answer is one
that a rule can verify; longer answers are rejected as free_text.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mantis_instruct", __doc__))
