"""VideoRFT's RL-310K (QiWang98/VideoRFT-Data) as questions over videos and images.

    python data_preprocess/videorft_rl.py --input /data/videorft --output outputs/videorft_rl

Rows as Video-R1's, with the kind of answer stated.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("videorft_rl", __doc__))
