"""MMK12 (FanqingM/MMK12): school questions over one image, the later release of MM-Eureka's data.

Reads train*.parquet with embedded images. Its test split is a benchmark and is not read.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    return build(
        source_id=fields.text(row, "id"),
        source=fields.sub_source("mmk12", fields.text(row, "subject", "")),
        question=fields.text(row, "question"),
        media=fields.pictures(row.get("image"), "image"),
        answer=fields.text(row, "answer"),
    )


ADAPTER = Adapter(
    name="mmk12",
    summary="MMK12, 15.6 k school questions over one image: mathematics, physics, chemistry, biology",
    license="apache-2.0",
    patterns=("**/train*.parquet",),
    example={
        "id": "k3",
        "question": "As shown in <image1>, the beam rests on two supports. What is the force at the left one, in N?",
        "answer": "120",
        "subject": "physics",
        "image": {"bytes": None, "path": "k3.png"},
    },
    required=("id", "question", "answer", "image"),
    convert=convert,
    about=__doc__,
)
