"""MVBench (OpenGVLab/MVBench): 20 tasks over short videos or folders of frames.

    cinema-verl prepare mvbench --input downloads/mvbench/json/action_count.json \\
        --media-root downloads/mvbench/video/perception/videos --output outputs/mvbench/action_count

The rows of a task do not say in which folder its videos are: run once for each task, with its own media root and
output. The gold is an option's text and becomes a letter; start and end cut the video; folders of frames are read,
too.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.options import letter_of


def convert(row: fields.Row) -> Draft:
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
    summary="MVBench, 4,000 questions over videos",
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
    about=__doc__,
    benchmark=True,
)
