"""Your own questions over images or videos: rows of JSONL, JSON, CSV, parquet or a saved Hugging Face dataset.

    cinema-verl prepare own --input mine --output outputs/own

A row has `question`, `answer`, and one of `images` (a list; in CSV separated by `;`), `image` or `video`. Paths are
relative to the media root, which is the input's folder unless you name another (--media-root). Absolute paths are
taken below it, and below each folder that --allow-root names. A `data:` URI holds the file itself. Everything else is
optional:

    options      choices, in order; `answer` is then a letter or a choice's text (list, or separated by `;`)
    answer_type  mcq, mcq_multi, yesno, number, latex, ordering, ocr, regression, text, or judge, which asks a model;
                 inferred if absent. Prose is rejected as free_text, because a correct answer in other words would be
                 scored as incorrect; stating text takes it word for word all the same
    aliases      other ways to say a text answer (list, or separated by `;`)
    tolerance    of a number (absolute), or of regression and ocr (relative)
    id           unique; made of the row's content if absent
    split        train, val or test
    source       reported apart as own/SOURCE
    pass_rate    share of a reference model's tries that were correct, 0 to 1

An order is written as [3, 2, 1], "3, 2, 1" or "CBA", several choices as ["A", "C"] or "A, C". Where the type is not
stated and the question does not ask for an order, a gold that may be either is rejected as answer_type.

Write <image> where an image belongs, or nothing: the images then come first, as "Image 1: …". Fields that are not known
are refused, because a typing error in `tolerance` would go unnoticed; names that begin with _ are yours.
"""

from typing import Final

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import cells, fields, sequences
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.options import check_one_meaning

COLUMNS: Final = (
    *("question", "answer", "images", "image", "video", "options", "answer_type", "aliases", "tolerance"),
    *("id", "split", "source", "pass_rate"),
)

_FREE_TEXT: Final = (
    "a correct answer in other words would be scored as incorrect: shorten it, or state answer_type: text to compare "
    "word for word, or judge to ask a model"
)


def convert(row: fields.Row) -> Draft:
    if unknown := [name for name in row if name not in COLUMNS and not name.startswith("_")]:
        raise Rejected("bad_record", f"unknown field(s) {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
    media = cells.media(row)
    question, stated = fields.text(row, "question"), fields.text(row, "answer_type", "")
    options, aliases = (cells.texts(row, name) for name in ("options", "aliases"))
    answer, answer_type = sequences.gold_of(
        row.get("answer"), question=question, options=options, answer_type=stated, images=len(media)
    )
    check_one_meaning(answer.strip(), options)
    try:
        return build(
            source_id=fields.text(row, "id", fields.content_id(question, answer, *options, *media)),
            split=fields.text(row, "split", "train"),
            source=fields.sub_source("own", fields.text(row, "source", "")),
            question=question,
            media=media,
            options=options,
            answer=[answer, *aliases],
            answer_type=answer_type,
            tolerance=fields.number(row, "tolerance"),
            pass_rate=fields.number(row, "pass_rate"),
        )
    except Rejected as rejected:
        if rejected.reason != "free_text":
            raise
        raise Rejected("free_text", f"{rejected.detail}; {_FREE_TEXT}") from rejected


ADAPTER = Adapter(
    name="own",
    summary="Your own images or videos; only question, answer and one of images, image, video are needed",
    license="yours",
    patterns=("*.jsonl", "*.json", "*.csv", "*.parquet"),
    example={"question": "Which was taken later?", "images": ["a.jpg", "b.jpg"], "options": ["the first", "the second"]}
    | {"answer": "the second"},
    required=("question",),
    convert=convert,
    about=__doc__,
)
