"""VideoRFT's CoT-102K (QiWang98/VideoRFT-Data) as questions over videos and images.

    python data_preprocess/videorft_cot.py --input /data/videorft --output outputs/videorft_cot

Rows as Video-R1's. Only questions and answers are taken: the chain of thought has none of the five actions.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("videorft_cot", __doc__))
