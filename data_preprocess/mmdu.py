"""MMDU-45k (laolao77/MMDU): what of it a rule can verify, which is next to nothing.

    python data_preprocess/mmdu.py --input /data/mmdu --output outputs/mmdu

Its dialogues are answered in free text, so nearly every row is rejected as free_text, counted and named in
rejected.jsonl. Use it for supervised training, not here.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mmdu", __doc__))
