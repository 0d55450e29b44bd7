"""OpenMMReasoner-RL-74K (OpenMMReasoner/OpenMMReasoner-RL-74K): verl's own parquet, mixed from several sets.

Reads verl's parquet with embedded images; a prompt's content is text or a list of parts. System messages are dropped:
training asks with its own. Golds may be lists that were written as text. The set contains ViRL39K and MMK12:
deduplicate if you mix them.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields, gold_parts
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.conversations import as_text, only_request


def convert(row: fields.Row) -> Draft:
    content = only_request(fields.items(row, "prompt"), "prompt")
    question = as_text(content, "prompt")
    media = fields.pictures(row.get("images"))
    gold = fields.text(fields.record(row, "reward_model"), "ground_truth")
    source = fields.text(row, "data_source", "")
    return build(
        source_id=fields.content_id(source, question, gold, *media),
        source=fields.sub_source("openmmreasoner", source),
        question=fields.text({"prompt": question}, "prompt"),
        media=media,
        answer=gold_parts.as_list(gold) or gold,
    )


ADAPTER = Adapter(
    name="openmmreasoner",
    summary="OpenMMReasoner-RL-74K, verl parquet over several sets (it contains ViRL39K and MMK12: deduplicate)",
    license="apache-2.0",
    patterns=("**/*.parquet",),
    example={
        "data_source": "tqa_train",
        "prompt": [
            {"role": "system", "content": "Think first."},
            {"role": "user", "content": "<image>Which layer lies below the crust?"},
        ],
        "images": [{"bytes": None, "path": "earth.png"}],
        "reward_model": {"style": "rule", "ground_truth": "['mantle', 'the mantle']"},
        "extra_info": {"index": 3},
    },
    required=("prompt", "images", "reward_model"),
    convert=convert,
    about=__doc__,
)
