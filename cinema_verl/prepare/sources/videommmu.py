"""Video-MMMU (lmms-lab/VideoMMMU): questions about lectures, in three tracks.

Reads the parquet of the three tracks, whose folders (Perception, Comprehension, Adaptation) name the tasks. Videos are
DISCIPLINE/ID.mp4 (Science/validation_Physics_2.mp4), as their archives unpack, in the media root or in videos/.
Questions of the adaptation track are about a picture that the video ends with: the frames then include the last, and
the picture of the column image, which they cite as <image 1>, is shown behind them.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields, layouts, placeholders
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    """One video has a question in each track, under one id; only the file's folder, or ``qa_type``, says which."""
    name, track = fields.text(row, "id"), layouts.videommmu_track(row)
    question, options = fields.text(row, "question"), fields.texts(row, "options")
    picture, cited = fields.pictures(row.get("image"), "image"), placeholders.cited("\n".join([question, *options]))
    path, *places = layouts.videommmu_paths(name)
    shown = "\nImage 1: <image>" if picture else "\nImage 1 is shown at the end of the video." if cited else ""
    return build(
        source_id=f"{name}-{track}",
        source=fields.sub_source("videommmu", track),
        split="test",
        question=f"<image>\n{placeholders.in_words(question)}{shown}",
        media=(*fields.video(path, places=places, to_end=bool(picture or cited)), *picture),
        options=[placeholders.in_words(option) for option in options],
        answer=fields.text(row, "answer"),
        answer_type="mcq" if options else "",
        flags=("image_at_end",) if picture or cited else (),
    )


ADAPTER = Adapter(
    name="videommmu",
    summary="Video-MMMU, 900 questions over 300 lectures",
    license="mit",
    patterns=("**/*.parquet", "**/*.json", "**/*.jsonl"),
    example={
        "id": "dev_Accounting_9",
        "question": "With the method of the lecture, which entry of <image 1> is wrong?",
        "options": ["the first", "the second", "the third"],
        "answer": "C",
        "question_type": "multiple-choice",
        "qa_type": "Adaptation",
        "image": {"bytes": None, "path": "ledger.png"},
    },
    required=("id", "question", "options", "answer", "question_type"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
