"""MV-MATH (PeijieWang/MV-MATH): school mathematics over 2 to 8 images, cited as <image_2>, often twice.

Reads MV-MATH.json and not the files of its parts, which hold the same rows. Pictures are bare names in images/. The 100
multi-step questions have several answers each and are rejected as multi_part. Alternatives (A ## B) are kept if the
rule of their answer type finds them equal.
"""

import re

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build

_CHINESE = re.compile(r"[\u3400-\u9fff]{1,4}")


def convert(row: fields.Row) -> Draft:
    """Golds may be alternatives, times, or a Chinese word that the picture shows (真 is no yes): a text."""
    kind, answer = fields.text(row, "answer_type"), fields.text(row, "answer")
    if kind.startswith("multi"):
        raise Rejected("multi_part", f"answer_type {kind!r}")
    return build(
        source_id=fields.text(row, "problem_id"),
        source=fields.sub_source("mv_math", fields.text(row, "subject", "")),
        split="test",
        question=fields.text(row, "question"),
        media=fields.with_places(fields.pictures(row.get("input_image"), "input_image"), "images", "data/images"),
        options=fields.texts(row, "options"),
        answer=answer,
        answer_type="mcq" if kind == "choice" else "text" if _CHINESE.fullmatch(answer.strip()) else "",
    )


ADAPTER = Adapter(
    name="mv_math",
    summary="MV-MATH, 2,009 mathematical questions over several images",
    license="mit",
    patterns=("**/MV-MATH.json",),
    otherwise=("**/MV-MATH-*.json", "**/*.parquet", "**/*.jsonl", "*.json"),
    example={
        "problem_id": "31",
        "question": "The cube in <image_1> is unfolded. Which of <image_2> and <image_3> is the net of <image_1>?\n"
        "A. <image_2>\nB. <image_3>",
        "input_image": ["31_1.png", "31_2.png", "31_3.png"],
        "answer": "B",
        "answer_type": "choice",
        "difficulty": "Low",
        "grade": "Junior",
        "subject": "Solid Geometry",
        "image_relavance": "1",
    },
    required=("problem_id", "question", "input_image", "answer", "answer_type"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
