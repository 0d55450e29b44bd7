"""MVBench (OpenGVLab/MVBench): 20 tasks over short videos or folders of frames.

Reads json/*.json, one file a task; the file's name is the task and says in which folder its videos are. Both
distributions are read: full videos, of which start and end cut the part that is asked about, and segments that were cut
before. Videos are looked for where the archives unpack (video/star/Charades_v1_480/…), then in the media root itself.
The gold is an option's text and becomes a letter.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields, layouts
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.options import letter_of


def convert(row: fields.Row) -> Draft:
    task = fields.stem(row)
    task = task if task in layouts.MVBENCH_TASKS else fields.text(row, "task_type", "").casefold().replace(" ", "_")
    name, start, end = fields.text(row, "video"), fields.number(row, "start"), fields.number(row, "end")
    media = fields.video(name, start, end, places=layouts.mvbench_places(name, task, start, end))
    question, candidates = fields.text(row, "question"), fields.texts(row, "candidates")
    return build(
        source_id=fields.content_id(task, question, candidates, *media),
        source=fields.sub_source("mvbench", task),
        split="test",
        question=question,
        media=media,
        options=candidates,
        answer=letter_of(fields.text(row, "answer"), candidates),
        answer_type="mcq",
    )


ADAPTER = Adapter(
    name="mvbench",
    summary="MVBench, 4,000 questions over videos",
    license="mit",
    patterns=("**/*.json",),
    otherwise=("**/*.jsonl", "**/*.parquet"),
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
