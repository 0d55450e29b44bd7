"""Video-MMMU (lmms-lab/VideoMMMU), for evaluation.

    python data_preprocess/videommmu.py --input /data/videommmu --media-root /data/videommmu/videos \\
        --output outputs/videommmu

Videos are DISCIPLINE/ID.mp4 below the media root (Science/validation_Physics_2.mp4), as their archives unpack.
Questions of the adaptation track that cite <image 1> mean a picture at the video's end; they are flagged image_at_end.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("videommmu", __doc__))
