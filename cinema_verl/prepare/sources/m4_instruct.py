"""M4-Instruct (lmms-lab/M4-Instruct-Data), the training data of LLaVA-NeXT-Interleave: chats over images and videos.

    cinema-verl prepare m4_instruct --input downloads/m4 --media-root downloads/m4/images --output outputs/m4_instruct

Unpack the archives of images into one folder, as the data set's card says. The first exchange of a chat becomes a
question if a rule can verify its answer: a letter, a number, yes or no, up to three words. Longer answers are rejected
as free_text, and later turns are left out. The set shares tasks with MUIRBench and MMIU: decontaminate it.
"""

from cinema_verl.prepare.draft import Adapter, Draft, Media
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.conversations import first_exchange


def convert(row: fields.Row) -> Draft:
    dataset = fields.text(fields.record(row, "metadata"), "dataset", "")
    paths = [row["video"]] if row.get("video") else row.get("image")
    turn = first_exchange(fields.items(row, "conversations"), media_of(paths))
    return build(
        source_id=fields.text(row, "id" if "id" in row else "sample_id"),
        source=fields.sub_source("m4_instruct", dataset),
        question=turn.question,
        media=turn.media,
        answer=turn.answer,
        options=fields.texts(row, "choice_list"),
        flags=turn.flags,
    )


def media_of(value: object) -> tuple[Media, ...]:
    """Images; or the one video of the rows that have one, under either field's name."""
    return tuple(
        fields.video(medium.path)[0] if fields.is_video(medium.path) else medium
        for medium in fields.pictures(value, "image")
    )


ADAPTER = Adapter(
    name="m4_instruct",
    summary="M4-Instruct (LLaVA-NeXT-Interleave), 1.2 M chats; only answers that a rule can verify are kept",
    license="cc-by-4.0",
    patterns=("**/*.json", "**/*.jsonl"),
    example={
        "id": "17",
        "image": ["nlvr2/left.jpg", "nlvr2/right.jpg"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nDo both pictures show a lake?"},
            {"from": "gpt", "value": "Yes"},
        ],
        "metadata": {"dataset": "nlvr2"},
    },
    required=("conversations",),
    convert=convert,
    about=__doc__,
)
