"""MathVista (AI4Math/MathVista), testmini: mathematics over one picture.

Reads testmini*.parquet with embedded images, or the repository's testmini.json, whose rows stand under their pid, with
its images/. Options that are repeated are shown once. Golds are option texts, integers, lists, and floats. For a float
an answer is correct within half a unit of the gold's last decimal; for a list it is correct item by item, in order, or,
if it repeats one, as it is written.
"""

from typing import Any, Final

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.gold_parts import as_list
from cinema_verl.prepare.sources.options import letter_of

ANSWER_TYPES: Final = {"text": "", "integer": "number", "float": "number", "list": "ordering"}


def convert(row: fields.Row) -> Draft:
    kind = fields.text(row, "answer_type")
    if kind not in ANSWER_TYPES:
        raise Rejected("answer_type", f"{kind!r}; known are {', '.join(ANSWER_TYPES)}")
    unit, precision = fields.text(row, "unit", ""), fields.number(row, "precision")
    choices = list(dict.fromkeys(choice.strip() for choice in fields.texts(row, "choices")))
    answer: Any = letter_of(fields.text(row, "answer", ""), choices)
    extra: dict[str, Any] = (
        {"options": choices, "answer_type": "mcq"} if choices else {"answer_type": ANSWER_TYPES[kind]}
    )
    if kind == "float" and not choices and precision is not None:
        extra["tolerance"] = float(f"5e-{int(precision) + 1}")
    if kind == "list" and not choices and len(set(items := as_list(answer) or [])) < len(items):
        answer, extra["answer_type"] = [answer, ", ".join(items), ",".join(items), " and ".join(items)], "text"
    return build(
        source_id=fields.text(row, "pid"),
        split="test",
        question=fields.text(row, "question") + (f" (Unit: {unit})" if unit else ""),
        media=fields.pictures(row.get("decoded_image") or row.get("image"), "image"),
        answer=answer,
        **extra,
    )


ADAPTER = Adapter(
    name="mathvista",
    summary="MathVista, 1,000 questions of testmini; the test split has no answers",
    license="cc-by-sa-4.0",
    patterns=("**/testmini*.parquet",),
    otherwise=("**/testmini.json",),  # annot_testmini.json beside it has the same rows
    example={
        "pid": "12",
        "question": "How long is the shorter side?",
        "image": "images/12.jpg",
        "choices": None,
        "unit": "m",
        "precision": 1.0,
        "answer": "2.4",
        "question_type": "free_form",
        "answer_type": "float",
    },
    required=("pid", "question", "answer", "answer_type"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
