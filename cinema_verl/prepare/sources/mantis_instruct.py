"""Mantis-Instruct (TIGER-Lab/Mantis-Instruct): chats over several images, one configuration in each folder.

    cinema-verl prepare mantis_instruct --input downloads/mantis --media-root downloads/mantis/images \\
        --output outputs/mantis_instruct

Reads the parquet or JSON of each configuration. The first exchange of a chat becomes a question if a rule can verify
its answer; longer answers are rejected as free_text.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.conversations import first_exchange


def convert(row: fields.Row) -> Draft:
    turn = first_exchange(fields.items(row, "conversation"), fields.pictures(row.get("images")))
    return build(
        source_id=fields.text(row, "id"),
        source=fields.sub_source("mantis_instruct", fields.text(row, "source", "")),
        question=turn.question,
        media=turn.media,
        answer=turn.answer,
        flags=turn.flags,
    )


ADAPTER = Adapter(
    name="mantis_instruct",
    summary="Mantis-Instruct, 721 k chats over several images; only answers that a rule can verify are kept",
    license="apache-2.0",
    patterns=("**/train*.parquet", "**/*.json", "**/*.jsonl"),
    example={
        "id": "lrv_4",
        "images": [{"bytes": None, "path": "first.jpg"}, {"bytes": None, "path": "second.jpg"}],
        "conversation": [
            {"role": "user", "content": "<image><image>Which one is larger?\n(A) the first\n(B) the second"},
            {"role": "assistant", "content": "(B) the second"},
        ],
    },
    required=("id", "images", "conversation"),
    convert=convert,
    about=__doc__,
)
