"""MathVision (MathLLMs/MathVision): competition mathematics.

Reads test-*.parquet with embedded images, or test.jsonl; the rows of testmini are among these. Rows that cite several
images have one composite file: the question keeps the words "Image 1", gets the flag composite and counts as
single-image. Choices A to E may be drawn in the picture.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields, placeholders
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    """A row has one file. Where it cites a later image than the first, that shows them all and tags become words."""
    options = fields.texts(row, "options")
    question = fields.text(row, "question")
    composite = bool(placeholders.cited("\n".join([question, *options])) - {1})
    return build(
        source_id=fields.text(row, "id"),
        source=fields.sub_source("mathvision", fields.text(row, "subject", "")),
        split="test",
        question=question,
        media=fields.pictures(row.get("decoded_image") or row.get("image"), "image"),
        options=options,
        answer=fields.text(row, "answer"),
        answer_type="mcq" if options else "",
        composite=composite,
        flags=("composite",) if composite else (),
    )


ADAPTER = Adapter(
    name="mathvision",
    summary="MathVision, 3,040 questions over one file of one or several images",
    license="mit",
    patterns=("**/test-*.parquet",),  # not testmini, whose rows are among these
    otherwise=("**/test.jsonl",),
    example={
        "id": "77",
        "question": "Five tiles are shown. <image1> Which of them completes the wall? <image2>",
        "options": ["A", "B", "C", "D", "E"],
        "image": "images/77.jpg",
        "answer": "D",
        "solution": None,
        "level": 2,
        "subject": "combinatorial geometry",
    },
    required=("id", "question", "options", "answer", "image"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
