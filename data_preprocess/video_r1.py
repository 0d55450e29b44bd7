"""Video-R1-260k (Video-R1/Video-R1-data) as questions over videos and images.

    python data_preprocess/video_r1.py --input /data/video_r1 --output outputs/video_r1

Reads Video-R1-260k.json; videos and images lie below the same folder, where their archives unpack them. Videos become
frames. The kind of answer is stated by the rows: letters, numbers, OCR, regression; free-form answers of more than a
few words are rejected as free_text.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("video_r1", __doc__))
