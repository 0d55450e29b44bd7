"""MV-MATH (PeijieWang/MV-MATH): school mathematics over 2 to 8 images, cited as <image_2>, often twice.

The 100 multi-step questions have several answers each and are rejected as multi_part. Alternatives (A ## B) are kept
if the rule of their answer type finds them equal.
"""

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    """Golds may be alternatives joined by ``##``, times, 真 or 假; 100 multi-step rows have several answers each."""
    kind = fields.text(row, "answer_type")
    if kind.startswith("multi"):
        raise Rejected("multi_part", f"answer_type {kind!r}")
    return build(
        source_id=fields.text(row, "problem_id"),
        source=fields.sub_source("mv_math", fields.text(row, "subject", "")),
        split="test",
        question=fields.text(row, "question"),
        media=fields.pictures(row.get("input_image"), "input_image"),
        options=fields.texts(row, "options"),
        answer=fields.text(row, "answer"),
        answer_type="mcq" if kind == "choice" else "",
    )


ADAPTER = Adapter(
    name="mv_math",
    summary="MV-MATH, 2,009 mathematical questions over several images",
    license="mit",
    patterns=("**/*.json", "**/*.jsonl", "**/*.parquet"),
    example={
        "problem_id": "31",
        "question": "The cube in <image_1> is unfolded. Which of <image_2> and <image_3> is the net of <image_1>?\n"
        "A. <image_2>\nB. <image_3>",
        "input_image": ["images/31_1.png", "images/31_2.png", "images/31_3.png"],
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
