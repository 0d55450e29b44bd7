"""MM-Eureka's data set (FanqingM/MM-Eureka-Dataset): mathematics over images, as the chats of its trainer.

    cinema-verl prepare mm_eureka --input downloads/mm_eureka --media-root downloads/mm_eureka \\
        --output outputs/mm_eureka

Images are named by file:// URLs: file:///a/b.png is looked for as a/b.png below the media root (give / if the URLs hold
your own absolute paths). Rows without an image are rejected as no_images.
"""

import json
from collections.abc import Mapping
from typing import Any

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build
from cinema_verl.prepare.sources.conversations import as_text, only_request


def convert(row: fields.Row) -> Draft:
    """``message`` is a chat as a JSON string that holds its images; or ``conversations`` beside ``image_urls``."""
    chat = row.get("message", row.get("conversations"))
    if isinstance(chat, str):
        try:
            chat = json.loads(chat)
        except ValueError as error:
            raise fields.bad("message", f"a chat in JSON ({error})", chat) from None
    content = only_request(fields.items({"message": chat}, "message"), "message")
    question = as_text(content, "message")
    parts: list[Mapping[str, Any]] = [] if isinstance(content, str) else content
    images = [fields.text(part, "image") for part in parts if part.get("type") == "image"]
    return build(
        source_id=fields.text(row, "id"),
        question=question,
        media=fields.pictures(images or row.get("image_urls"), "image_urls"),
        answer=fields.text(row, "answer"),
    )


ADAPTER = Adapter(
    name="mm_eureka",
    summary="MM-Eureka, 54 k mathematical questions over images; its text-only rows are rejected as no_images",
    license="apache-2.0",
    patterns=("**/*.jsonl",),
    example={
        "id": "41",
        "message": json.dumps(
            [
                {"role": "system", "content": "Reason first."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "file:///geo/41.png"},
                        {"type": "text", "text": "Find $x$."},
                    ],
                },
            ]
        ),
        "answer": "$\\frac{3}{2}$",
    },
    required=("id", "answer"),
    convert=convert,
    about=__doc__,
)
