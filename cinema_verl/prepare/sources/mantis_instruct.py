"""Mantis-Instruct: interleaved multi-image chats, one configuration a folder."""

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
)
