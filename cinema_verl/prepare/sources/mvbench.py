"""MVBench: 20 tasks over short videos or folders of frames; the gold is the text of an option, and rows have no id."""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.options import letter_of


def convert(row: fields.Row) -> Draft:
    """Each task's videos lie in a folder of their own that the row does not name: one run and one media root a task."""
    media = fields.video(fields.text(row, "video"), fields.number(row, "start"), fields.number(row, "end"))
    question, answer = fields.text(row, "question"), fields.text(row, "answer")
    candidates = fields.texts(row, "candidates")
    return build(
        source_id=fields.content_id(question, candidates, *media),
        source=fields.sub_source("mvbench", fields.text(row, "task_type", "")),
        split="test",
        question=question,
        media=media,
        options=candidates,
        answer=letter_of(answer, candidates),
        answer_type="mcq",
    )


ADAPTER = Adapter(
    name="mvbench",
    summary="MVBench, 4,000 questions over videos (evaluation only)",
    license="mit",
    patterns=("**/*.json", "**/*.jsonl", "**/*.parquet"),
    example={
        "video": "shell/42.mp4",
        "question": "Under which cup does the ball end?",
        "candidates": ["the left one", "the middle one", "the right one"],
        "answer": "the middle one",
        "start": 1.5,
        "end": 9.0,
    },
    required=("video", "question", "candidates", "answer"),
    convert=convert,
)
