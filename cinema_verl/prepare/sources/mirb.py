"""MIRB (VLLMs/MIRB): how images relate to each other.

Reads the official layout, one JSON file a task with images, questions and answers; files of single concatenated images
and of text alone (*_concat.json, *_text.json) are left out. Each task says in which form to answer, and what that is
stands behind its questions. An <img> in them is HTML that they are about. Golds are letters, numbers, words, titles,
yes or no. One that is given in several wordings keeps them as aliases; titles of papers (task arxiv) are compared word
for word.
"""

import re
from typing import Final

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build

TITLE_WORDS: Final = 30
"""Of a gold. Our choice: task ``arxiv`` asks for the title of a paper, which is copied and not phrased."""
FORMS: Final = {
    "One word is enough.": "analogy attribute domain image_needles places plot plot_code sightseeing visual_chain",
    "Choose one of the options.": "codeu food foods image_jigsaw",
    "Give the title of the paper.": "arxiv",
    "Give one number.": "count",
    "The images show one scene from several sides. Give one number.": "3d_scene",
}
_FORM_OF: Final = {task: form for form, tasks in FORMS.items() for task in tasks.split()}
_HTML = re.compile(r"<(\s?/?\s?img[^<>]{0,200})>", re.IGNORECASE)


def convert(row: fields.Row) -> Draft:
    subset, question = fields.text(row, "subset", fields.stem(row)), fields.text(row, "questions")
    media = fields.pictures(row.get("images") or row.get("image_list"), "images")
    answers = row.get("answers")
    answers = fields.texts(row, "answers") if isinstance(answers, (list, tuple)) else fields.text(row, "answers")
    return build(
        source_id=fields.text(row, "question_id", fields.content_id(subset, question, answers, *media)),
        source=fields.sub_source("mirb", subset),
        split="test",
        question="\n".join(filter(None, (_HTML.sub(r"[\1]", question), _FORM_OF.get(subset)))),
        media=media,
        answer=answers,
        max_words=TITLE_WORDS if subset == "arxiv" else 3,
    )


ADAPTER = Adapter(
    name="mirb",
    summary="MIRB, 925 questions about how images relate",
    license="mit",
    patterns=("**/*.json", "!**/*_concat.json", "!**/*_text.json"),
    otherwise=("**/*.parquet", "**/*.jsonl"),
    example={
        "images": ["count/harbour.jpg", "count/lake.jpg"],
        "questions": "How many boats do the pictures show altogether?",
        "answers": "5",
    },
    required=("questions", "answers"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
