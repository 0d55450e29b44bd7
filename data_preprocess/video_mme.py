"""Video-MME (lmms-lab/Video-MME), for evaluation.

    python data_preprocess/video_mme.py --input /data/video_mme --media-root /data/video_mme/data \\
        --output outputs/video_mme

Videos are files VIDEOID.mp4 in the media root.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("video_mme", __doc__))
