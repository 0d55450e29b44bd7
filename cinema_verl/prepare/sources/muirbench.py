"""MUIRBench (MUIRBENCH/MUIRBENCH): multiple choice over 2 to 9 images; half of the questions cannot be answered.

Reads test*.parquet with embedded images. Options that are images are listed as "A. Image 2: <image>".
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    return build(
        source_id=fields.text(row, "idx"),
        source=fields.sub_source("muirbench", fields.text(row, "task", "")),
        split="test",
        question=fields.text(row, "question"),
        media=fields.pictures(row.get("image_list"), "image_list"),
        options=fields.texts(row, "options"),
        answer=fields.text(row, "answer"),
        answer_type="mcq",
    )


ADAPTER = Adapter(
    name="muirbench",
    summary="MUIRBench, 2,600 questions over several images",
    license="mit",
    patterns=("**/test*.parquet",),
    otherwise=("**/*.jsonl",),
    example={
        "idx": 5,
        "task": "Visual Retrieval",
        "image_relation": "Partial Similarity",
        "image_type": "Photography",
        "question": "Which picture shows the tower of this one? <image>",
        "options": ["<image>", "<image>", "None of the choices provided"],
        "answer": "B",
        "image_list": [{"bytes": None, "path": f"{n}.jpg"} for n in range(3)],
    },
    required=("idx", "question", "options", "answer", "image_list"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
