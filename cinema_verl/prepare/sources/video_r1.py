"""Video-R1-260k (Video-R1/Video-R1-data): videos and images with typed answers.

Reads Video-R1-260k.json; videos and images lie below the same folder, where their archives unpack them. Videos become
frames. Each row states the kind of its answer: letters, numbers, OCR, regression; free-form answers of more than a few
words are rejected as free_text.
"""

from collections.abc import Callable
from typing import Final

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build

ANSWER_TYPES: Final = {
    "multiple choice": "mcq",
    "numerical": "number",
    "ocr": "ocr",
    "regression": "regression",
    "free-form": "",  # whatever the words are, by the rules of `golds.read`
}
EXAMPLE: Final = {
    "problem_id": 7,
    "problem": "What does the cook add last?",
    **{"data_type": "video", "problem_type": "multiple choice", "options": ["A. salt", "B. oil", "C. rice"]},
    "solution": "<answer>B</answer>",
    "path": "./kitchen/x.mp4",
    "data_source": "kitchen",
}
REQUIRED: Final = ("problem_id", "problem", "data_type", "problem_type", "options", "solution", "path")


def converter(name: str) -> Callable[[fields.Row], Draft]:
    """For the source of that name. One medium a row, no placeholders; the chain of thought of CoT rows is not read."""

    def convert(row: fields.Row) -> Draft:
        if (kind := fields.text(row, "problem_type").casefold()) not in ANSWER_TYPES:
            raise Rejected("answer_type", f"{kind!r}; known are {', '.join(ANSWER_TYPES)}")
        path = fields.text(row, "path")
        if (medium := fields.text(row, "data_type")) not in ("image", "video"):
            raise fields.bad("data_type", "image or video", medium)
        return build(
            source_id=fields.text(row, "problem_id"),
            source=fields.sub_source(name, fields.text(row, "data_source", "")),
            question=fields.text(row, "problem"),
            media=fields.video(path) if medium == "video" else fields.pictures(path, "path"),
            options=fields.texts(row, "options") if kind == "multiple choice" else (),
            answer=fields.text(row, "solution"),
            answer_type=ANSWER_TYPES[kind],
        )

    return convert


ADAPTER = Adapter(
    name="video_r1",
    summary="Video-R1-260k, 263 k questions over videos and images, with the kind of answer stated",
    license="apache-2.0",
    patterns=("**/Video-R1-260k*.json*",),
    example=EXAMPLE,
    required=REQUIRED,
    convert=converter("video_r1"),
    about=__doc__,
)
