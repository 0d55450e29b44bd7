"""EMMA (luckychao/EMMA): questions that cannot be answered without the pictures.

Reads test*.parquet of each subject, with up to five embedded images in the columns image_1 to image_5. Rows that come
from MathVision and cite several images have one composite file, and get the flag composite.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields, placeholders
from cinema_verl.prepare.sources.build import build


def convert(row: fields.Row) -> Draft:
    texts = [placeholders.without_stale(fields.text(row, name, ""), 5) for name in ("context", "question")]
    options = fields.texts(row, "options")
    media = fields.pictures([image for n in range(1, 6) if (image := row.get(f"image_{n}")) is not None], "image_1")
    # Rows of MathVision: one file shows all the images that are cited.
    composite = len(media) == 1 and bool(placeholders.cited("\n".join([*texts, *options])) - {1})
    return build(
        source_id=fields.text(row, "pid"),
        source=fields.sub_source("emma", fields.text(row, "subject", "")),
        split="test",
        question="\n".join(filter(None, map(str.strip, texts))),
        media=media,
        options=options,
        answer=fields.text(row, "answer"),
        answer_type="mcq" if options else "",
        composite=composite,
        flags=("composite",) if composite else (),
    )


ADAPTER = Adapter(
    name="emma",
    summary="EMMA, 2,788 questions of mathematics, physics, chemistry and coding",
    license="mit",
    patterns=("**/test*.parquet",),
    example={
        "pid": "math_9",
        "question": "Which shape continues <image_1>?",
        "options": ["<image_2>", "<image_3>"],
        "answer": "A",
        "image_1": {"bytes": None, "path": "row.png"},
        "image_2": {"bytes": None, "path": "a.png"},
        "image_3": {"bytes": None, "path": "b.png"},
        "image_4": None,
        "image_5": None,
        "type": "Multiple Choice",
        "subject": "Math",
        "context": "",
    },
    required=("pid", "question", "options", "answer", "image_1"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
