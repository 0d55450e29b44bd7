"""LLaVA-Video-178K (lmms-lab/LLaVA-Video-178K): captions, open questions and multiple choice over videos.

Unpack each part's archives inside its own folder (0_30_s_academic_v0_1/academic_source/…), or at the root: videos are
looked for below the folder that a row's data_source names, then below the root, where NextQA, YouTube and
PerceptionTest lie. A last sentence about the form of the answer is left out. Multiple choice and short answers are
kept; captions are rejected as free_text. Videos become frames.
"""

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.conversations import first_exchange, without_instruction


def convert(row: fields.Row) -> Draft:
    source = fields.text(row, "data_source", "")
    path = f"{source}/{fields.text(row, 'video')}".lstrip("/")
    media = fields.video(path, places=[fields.text(row, "video")])  # some parts unpack at the root
    turn = first_exchange(fields.items(row, "conversations"), media)
    return build(
        # One video has rows in several of a part's files, under the same id.
        source_id=f"{fields.text(row, 'id')}-{fields.content_id(turn.question)[:8]}",
        source=fields.sub_source("llava_video_178k", source),
        question=without_instruction(turn.question),
        media=turn.media,
        answer=turn.answer,
        flags=turn.flags,
    )


ADAPTER = Adapter(
    name="llava_video_178k",
    summary="LLaVA-Video-178K, 1.6 M exchanges over 178 k videos; captions and long answers are rejected as free_text",
    license="apache-2.0",
    patterns=("**/*.json", "**/*.jsonl"),
    example={
        "id": "v8",
        "data_source": "0_30_s_academic_v0_1",
        "video": "academic_source/kitchen/v8.mp4",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is poured into the bowl?\nA. Milk.\nB. Flour.\nC. Water."},
            {"from": "gpt", "value": "B. Flour."},
        ],
    },
    required=("id", "video", "conversations"),
    convert=convert,
    about=__doc__,
)
