"""Video-MMMU (lmms-lab/VideoMMMU): questions about lectures, in three tracks.

    cinema-verl prepare videommmu --input downloads/videommmu --media-root downloads/videommmu/videos \\
        --output outputs/videommmu

Videos are DISCIPLINE/ID.mp4 below the media root (Science/validation_Physics_2.mp4), as their archives unpack.
Questions of the adaptation track that cite <image 1> mean a picture at the video's end; they get the flag image_at_end.
"""

from typing import Final

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields, placeholders
from cinema_verl.prepare.sources.build import build

FOLDERS: Final = {
    "Art": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials "
    "Mechanical_Engineering",
    "Humanities": "History Literature Psychology Sociology",
    "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Science": "Biology Chemistry Geography Math Physics",
}
_FOLDER_OF: Final = {subject: f"{folder}/" for folder, names in FOLDERS.items() for subject in names.split()}


def convert(row: fields.Row) -> Draft:
    """One video has a question in each track, under one id. ``<image 1>`` is a picture that the video ends with."""
    name, kind = fields.text(row, "id"), fields.text(row, "question_type")
    question = fields.text(row, "question")
    subject = "_".join(name.split("_")[1:-1])
    shown = placeholders.cited(question)
    if shown:
        question = f"{placeholders.in_words(question)}\nImage 1 is shown at the end of the video."
    options = [placeholders.in_words(option) for option in fields.texts(row, "options")]
    return build(
        source_id=f"{name}-{kind}",
        source=fields.sub_source("videommmu", kind),
        split="test",
        question=question,
        media=fields.video(f"{_FOLDER_OF.get(subject, '')}{name}.mp4"),
        options=options,
        answer=fields.text(row, "answer"),
        answer_type="mcq" if options else "",
        flags=("image_at_end",) if shown else (),
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
        "image": None,
    },
    required=("id", "question", "options", "answer", "question_type"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
