"""MMIU (FanqingM/MMIU-Benchmark): 52 tasks over 2 to 32 images.

Reads all.parquet or JSON; unpack the archives of images beside it. The images come first in the question,
because no tag in the text says where one belongs.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    """``context`` is what is said before the options, and often lists them: then they are not shown twice."""
    question = "\n".join(filter(None, (fields.text(row, "question"), fields.text(row, "context", ""))))
    media = fields.pictures(row.get("input_image_path"), "input_image_path")
    options = fields.text(row, "options")
    return build(
        source_id=fields.content_id(fields.text(row, "task"), question, options, *media),
        source=fields.sub_source("mmiu", fields.text(row, "task")),
        split="test",
        question=question,
        media=media,
        options=[line for line in options.splitlines() if line.strip()],
        answer=fields.text(row, "output"),
        answer_type="mcq",
    )


ADAPTER = Adapter(
    name="mmiu",
    summary="MMIU, 11,698 questions over several images",
    license="cc-by-4.0",
    patterns=("all.parquet", "all.json", "all.jsonl"),
    otherwise=("**/*.json", "**/*.jsonl", "**/*.parquet"),
    example={
        "task": "spot_the_diff",
        "visual_input_component": "natural image",
        "source": "made up",
        "question": "What changed between the two pictures?",
        "context": "Select from the following choices.\nA: a door opened\nB: a lamp went out",
        "options": "A: a door opened\nB: a lamp went out",
        "input_image_path": ["./spot/before.jpg", "./spot/after.jpg"],
        "output": "B",
    },
    required=("task", "options", "question", "input_image_path", "output"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
