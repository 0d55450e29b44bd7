"""Video-MME (lmms-lab/Video-MME): multiple choice over short, medium and long videos.

Videos are files VIDEOID.mp4 in data/, where the archives unpack them, in videos/ or in the media root itself. They
become frames.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    video, question = fields.text(row, "videoID"), fields.text(row, "question")
    return build(
        source_id=fields.text(row, "question_id", fields.content_id(video, question)),
        source=fields.sub_source("video_mme", fields.text(row, "duration", "")),
        split="test",
        question=question,
        media=fields.video(f"{video}.mp4", places=[f"data/{video}.mp4", f"videos/{video}.mp4", f"video/{video}.mp4"]),
        options=fields.texts(row, "options"),
        answer=fields.text(row, "answer"),
        answer_type="mcq",
    )


ADAPTER = Adapter(
    name="video_mme",
    summary="Video-MME, 2,700 questions over 900 videos",
    license="academic use only, as its card states",
    patterns=("**/test*.parquet",),
    otherwise=("**/*.json", "**/*.jsonl"),
    example={
        "question_id": "004-2",
        "videoID": "aB3_xyz",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "task_type": "Counting Problem",
        "question": "How many moons are named?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
    },
    required=("videoID", "question", "options", "answer"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
