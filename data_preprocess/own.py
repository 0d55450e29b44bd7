"""Your own questions over images or videos.

    python data_preprocess/own.py --input /data/mine --output outputs/own

A row has `question`, `answer`, and one of `images` (a list; in CSV separated by `;`), `image` or `video`. Paths are
relative to the media root, which is the input's folder if you do not say. Everything else is optional:

    options      choices, in order; `answer` is then a letter or a choice's text (list, or separated by `;`)
    answer_type  mcq, mcq_multi, yesno, number, latex, ordering, ocr, regression, text, or judge, which asks a model;
                 inferred if absent
    aliases      other ways to say a text answer (list, or separated by `;`)
    tolerance    slack of a number (absolute) or of regression and ocr (relative)
    id           unique; made of the row's content if absent
    split        train, val or test
    source       reported apart as own/SOURCE
    pass_rate    share of a reference model's tries that were right, 0 to 1

Write <image> where an image belongs, or nothing, and the images come first as "Image 1: …".
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("own", __doc__))
