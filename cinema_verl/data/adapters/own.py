"""Your own questions: a row of JSONL, CSV or a Hugging Face dataset each, with columns that say what they hold."""

from typing import Any, Final

from cinema_verl.data.adapters import fields
from cinema_verl.data.adapters.build import build
from cinema_verl.data.adapters.options import letter_of
from cinema_verl.data.canonical import LETTERS, Rejected
from cinema_verl.data.draft import Adapter, Draft

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
    question, answer, options = fields.text(row, "question"), fields.text(row, "answer"), _texts(row, "options")
    _check_one_meaning(answer.strip(), options)
    return build(
        source_id=fields.text(row, "id", fields.content_id(question, answer, *options, *media)),
        split=fields.text(row, "split", "train"),
        source=fields.sub_source("own", fields.text(row, "source", "")),
        question=question,
        media=media,
        options=options,
        answer=[answer, *_texts(row, "aliases")],
        answer_type=fields.text(row, "answer_type", ""),
        tolerance=fields.number(row, "tolerance"),
        pass_rate=fields.number(row, "pass_rate"),
    )


def _check_one_meaning(answer: str, options: list[str]) -> None:
    """Of "C", "A", "B", the answer "A" may be the first or the second: it is not guessed which."""
    letters = LETTERS[: len(options)]
    if answer.upper() in tuple(letters) and letter_of(answer, options) not in (answer, answer.upper()):
        raise Rejected(
            "not_an_option",
            f"{answer!r} is one option's letter and another's text: write letters before all options, as in "
            f"'A. {options[0]}', and answer with a letter",
        )


def _list(row: fields.Row, name: str) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str):
        items = [item.strip() for item in value.split(";")]
        return items if items[-1] else items[:-1]  # an empty one between others is a mistake, and is found as one
    return fields.items(row, name)


def _texts(row: fields.Row, name: str) -> list[str]:
    return fields.texts({name: _list(row, name)}, name)


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
