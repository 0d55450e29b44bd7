"""MIRB (VLLMs/MIRB): how images relate to each other.

Golds are letters, numbers, words, titles, yes or no. One that is given in several wordings keeps them as aliases;
titles of papers (subset arxiv) are compared word for word.
"""

from typing import Final

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build

TITLE_WORDS: Final = 30
"""Of a gold. Our choice: subset ``arxiv`` asks for the title of a paper, which is copied and not phrased."""


def convert(row: fields.Row) -> Draft:
    subset, question = fields.text(row, "subset"), fields.text(row, "questions")
    media = fields.pictures(row.get("image_list"), "image_list")
    answers = row.get("answers")
    answers = fields.texts(row, "answers") if isinstance(answers, (list, tuple)) else fields.text(row, "answers")
    return build(
        source_id=fields.text(row, "question_id", fields.content_id(subset, question, answers, *media)),
        source=fields.sub_source("mirb", subset),
        split="test",
        question=question,
        media=media,
        answer=answers,
        max_words=TITLE_WORDS if subset == "arxiv" else 3,
    )


ADAPTER = Adapter(
    name="mirb",
    summary="MIRB, 925 questions about how images relate",
    license="mit",
    patterns=("**/*.parquet", "**/*.json", "**/*.jsonl"),
    example={
        "question_id": 3,
        "subset": "count",
        "questions": "How many boats do the pictures show altogether?",
        "answers": "5",
        "image_list": [{"bytes": None, "path": "harbour.jpg"}, {"bytes": None, "path": "lake.jpg"}],
    },
    required=("subset", "questions", "answers", "image_list"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
