"""Your own questions: a row of JSONL, CSV or a Hugging Face dataset each, with columns that say what they hold."""

from typing import Any, Final

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.options import check_one_meaning

COLUMNS: Final = (
    *("question", "answer", "images", "image", "video", "options", "answer_type", "aliases", "tolerance"),
    *("id", "split", "source", "pass_rate"),
)


def convert(row: fields.Row) -> Draft:
    """Lists are lists, or texts with ``;`` between the items. Columns that are not known are refused: a typing error
    in ``tolerance`` would go unnoticed. Names that begin with ``_`` are yours."""
    if unknown := [name for name in row if name not in COLUMNS and not name.startswith("_")]:
        raise Rejected("bad_record", f"unknown field(s) {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
    media = fields.pictures(_list(row, "images")) + fields.pictures(row.get("image") or None, "image")
    if path := fields.text(row, "video", ""):
        media += fields.video(path)
    question, answer = fields.text(row, "question"), fields.text(row, "answer")
    options, aliases = (fields.texts({name: _list(row, name)}, name) for name in ("options", "aliases"))
    check_one_meaning(answer.strip(), options)
    return build(
        source_id=fields.text(row, "id", fields.content_id(question, answer, *options, *media)),
        split=fields.text(row, "split", "train"),
        source=fields.sub_source("own", fields.text(row, "source", "")),
        question=question,
        media=media,
        options=options,
        answer=[answer, *aliases],
        answer_type=fields.text(row, "answer_type", ""),
        tolerance=fields.number(row, "tolerance"),
        pass_rate=fields.number(row, "pass_rate"),
    )


def _list(row: fields.Row, name: str) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str):
        items = [item.strip() for item in value.split(";")]
        return items if items[-1] else items[:-1]  # an empty one between others is a mistake, and is found as one
    return fields.items(row, name)


ADAPTER = Adapter(
    name="own",
    summary="Your own images or videos; only question, answer and one of images, image, video are needed",
    license="yours",
    patterns=("*.jsonl", "*.json", "*.csv", "*.parquet"),
    example={"question": "Which was taken later?", "images": ["a.jpg", "b.jpg"], "options": ["the first", "the second"]}
    | {"answer": "the second"},
    required=("question", "answer"),
    convert=convert,
)
