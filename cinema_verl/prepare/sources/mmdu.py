"""MMDU-45k (laolao77/MMDU): long dialogues over many images, of which a rule can verify next to nothing.

Answers are free text, so nearly every row is rejected as free_text, counted and named in rejected.jsonl. The dialogues
are material for supervised training, not for rewards that a rule gives.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.conversations import first_exchange


def convert(row: fields.Row) -> Draft:
    turn = first_exchange(fields.items(row, "conversations"), fields.pictures(row.get("image"), "image"))
    return build(
        source_id=fields.text(row, "id"),
        question=turn.question,
        media=turn.media,
        answer=turn.answer,
        flags=turn.flags,
    )


ADAPTER = Adapter(
    name="mmdu",
    summary="MMDU-45k, dialogues over up to 20 images; free text, so almost all rows are rejected as free_text",
    license="cc-by-nc-4.0",
    patterns=("**/*.json", "**/*.jsonl"),
    example={
        "id": "d1",
        "image": ["one.jpg", "two.jpg"],
        "conversations": [
            {"from": "user", "value": "Image1: <ImageHere>. Image2: <ImageHere>. What sets these bridges apart?"},
            {"from": "assistant", "value": "The first is a suspension bridge of steel, the second an arch of stone."},
        ],
    },
    required=("id", "image", "conversations"),
    convert=convert,
    about=__doc__,
)
