"""Parquet of our own RL schema back as questions, to mix, to deduplicate or to look at; the digits are such files.

    cinema-verl prepare rl_parquet --input outputs/digits/train.parquet --media-root / --output outputs/digits_questions

The paths in such files are absolute, so the media root is /. The prompt is taken as it is. Options that it does not
list are left out: a question shows its options, and the policy would be asked in other words.
"""

import json
from pathlib import PurePosixPath

from cinema_verl.data.canonical import lists_options
from cinema_verl.prepare.draft import Adapter, Draft, Media
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.conversations import only_request


def convert(row: fields.Row) -> Draft:
    info = fields.record(row, "extra_info")
    question = fields.text({"prompt": only_request(fields.items(row, "prompt"), "prompt")}, "prompt")
    options = tuple(json.loads(fields.text(info, "options_json", "[]")))
    source, uid = fields.text(row, "data_source"), fields.text(info, "uid")
    paths = [fields.text(cell, "image") for cell in fields.items(row, "images")]
    return Draft(
        source_id=uid.removeprefix(f"{source}/"),
        split=fields.text(info, "split"),
        source=source,
        modality=fields.text(info, "modality"),
        question=question,
        media=tuple(Media("image", path=str(PurePosixPath(path)).lstrip("/")) for path in paths),
        options=options if lists_options(question, options) else (),
        answer=fields.text(fields.record(row, "reward_model"), "ground_truth"),
        aliases=tuple(json.loads(fields.text(info, "aliases_json", "[]"))),
        answer_type=fields.text(info, "answer_type"),
        tolerance=fields.number(info, "tolerance"),
    )


ADAPTER = Adapter(
    name="rl_parquet",
    summary="Parquet of cinema_verl.data.schema.RL_SCHEMA; give the media root / because its paths are absolute",
    license="as its questions'",
    patterns=("**/*.parquet",),
    example={
        "data_source": "digits/largest",
        "agent_name": "cinema",
        "ability": "multi_image",
        "prompt": [{"role": "user", "content": "Image A: <image>\nImage B: <image>\nWhich shows the larger digit?"}],
        "images": [{"image": f"/data/{n}.png", "min_pixels": 784, "max_pixels": 784} for n in "ab"],
        "reward_model": {"style": "rule", "ground_truth": "B"},
        "extra_info": {"index": 0, "uid": "train-0", "split": "train", "modality": "multi", "num_images": 2}
        | {"answer_type": "mcq", "options_json": '["Image A", "Image B"]', "aliases_json": "[]", "tolerance": None}
        | {"question": "Which shows the larger digit?"},
    },
    required=("data_source", "prompt", "images", "reward_model", "extra_info"),
    convert=convert,
    about=__doc__,
)
