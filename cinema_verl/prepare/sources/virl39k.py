"""ViRL39K (TIGER-Lab/ViRL39K): verified questions, the best verifiable source of those over several images.

Unpack images.zip beside the parquet. The pass rate of the trained 32B model, the one that every row has, is kept for
mixes by difficulty; -1 means that it was not measured.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    rate = fields.number(row, "PassRate_32BTrained")
    return build(
        source_id=fields.text(row, "qid"),
        question=fields.text(row, "question"),
        media=fields.pictures(row.get("image"), "image"),
        answer=fields.text(row, "answer"),
        pass_rate=rate if rate is not None and 0 <= rate <= 1 else None,
    )


ADAPTER = Adapter(
    name="virl39k",
    summary="ViRL39K, 38,870 verifiable questions, about 9,978 of them over several images",
    license="mit",
    patterns=("**/*.parquet", "**/*.json", "**/*.jsonl"),
    example={
        "qid": "Puzzle-12",
        "question": "<image><image> Which of the two fits the gap?\n(A) the first\n(B) the second",
        "answer": "\\boxed{A}",
        "image": ["images/puzzle-12-0.png", "images/puzzle-12-1.png"],
        "PassRate_32BTrained": 0.5,
        "PassRate_7BBase": -1.0,
        "category": "(GradeSchool) Geometric",
        "source": "Puzzle",
    },
    required=("qid", "question", "answer", "image", "PassRate_32BTrained"),
    convert=convert,
    about=__doc__,
)
