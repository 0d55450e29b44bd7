"""Video-R1-COT-165k (Video-R1/Video-R1-data) as questions over videos and images.

    python data_preprocess/video_r1_cot.py --input /data/video_r1 --output outputs/video_r1_cot

Reads Video-R1-COT-165k.json. Only questions and answers are taken: the chain of thought has none of the five
actions. The same questions are in the 260k set: deduplicate if you mix the two.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("video_r1_cot", __doc__))
