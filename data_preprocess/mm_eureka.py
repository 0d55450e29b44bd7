"""MM-Eureka's dataset (FanqingM/MM-Eureka-Dataset) as questions.

    python data_preprocess/mm_eureka.py --input /data/mm_eureka --media-root /data/mm_eureka \\
        --output outputs/mm_eureka

Images are named by file:// URLs: file:///a/b.png is looked for as a/b.png below the media root (give / if the URLs hold
your own absolute paths). Text-only rows are rejected as no_images.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mm_eureka", __doc__))
