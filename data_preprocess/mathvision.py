"""MathVision (MathLLMs/MathVision), for evaluation and to decontaminate against.

    python data_preprocess/mathvision.py --input /data/mathvision --output outputs/mathvision

Reads test-*.parquet with embedded images; the rows of testmini are among these. Rows that cite several images ship one
composite file: the question keeps the words "Image 1", is flagged composite and counts as single-image. Choices A to E
may be drawn in the picture.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mathvision", __doc__))
