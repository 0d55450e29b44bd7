"""LLaVA-Video-178K (lmms-lab/LLaVA-Video-178K) as questions over frames.

    python data_preprocess/llava_video_178k.py --input /data/llava_video --output outputs/llava_video_178k

Unpack each part's archives inside its own folder (0_30_s_academic_v0_1/academic_source/…): videos are looked for below
the folder that a row's data_source names. Multiple choice and short answers are kept, captions rejected as free_text.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("llava_video_178k", __doc__))
