"""The tokens of a prompt before it is sent: expected, for estimates, and at most, for budgets.

Text is counted without the model's tokenizer, which an endpoint does not give: a token is expected for four bytes, and
is at most one for each byte, as in byte-level vocabularies. Images are counted by the published rules of the model
families, approximately, from the size of the stored file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

TEMPLATE_TOKENS: Final = 16
"""Tokens that the chat template adds to each message. Our choice: above the common templates' 4 to 10."""


def _squares(side: int, smallest: int, largest: int) -> Any:
    """One token for each square of `side` pixels, between a smallest and a largest number of tokens."""

    def tokens(width: int, height: int) -> int:
        count = math.ceil(width / side) * math.ceil(height / side)
        return min(max(count, smallest), largest)

    return tokens


def _tiles(base: int, tile: int) -> Any:
    """Shrunk into 2048 x 2048 and to a shorter side of 768, then `base` and `tile` for each 512 x 512."""

    def tokens(width: int, height: int) -> int:
        scale = min(1.0, 2048 / max(width, height))
        scale *= min(1.0, 768 / (min(width, height) * scale))
        return base + tile * math.ceil(width * scale / 512 - 1e-9) * math.ceil(height * scale / 512 - 1e-9)

    return tokens


VISION: Final = {
    # Rule: tokens of an image of (width, height) pixels. Limits are those published; an endpoint may have lower ones.
    "qwen2.5": _squares(28, 4, 16384),  # Qwen2.5-VL: 14 px patches merged 2 x 2, at most 12.8 M pixels
    "qwen3": _squares(32, 4, 16384),  # Qwen3-VL: 16 px patches merged 2 x 2, at most 16.8 M pixels
    "tiles": _tiles(85, 170),  # GPT-4o, GPT-4.1
    "tiles-mini": _tiles(2833, 5667),  # GPT-4o-mini, whose images cost what GPT-4o's do, at a lower price of a token
    # GPT-4.1-mini and -nano, o4-mini: patches of 32 px, at most 1536, each charged as 1.62, 2.46 and 1.72 tokens. The
    # largest of these, so that the most is one.
    "patches": lambda width, height: math.ceil(2.46 * _squares(32, 1, 1536)(width, height)),
}


def expected_tokens(text_bytes: int) -> int:
    """Tokens that so many bytes of text usually have. Our choice: four bytes each, as in English prose."""
    return math.ceil(text_bytes / 4)


def text_bytes(messages: Iterable[Mapping[str, Any]]) -> int:
    """UTF-8 bytes of all texts in chat messages."""
    total = 0
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        total += sum(len(part.encode()) for part in parts)
    return total


def prompt_tokens(
    messages: Sequence[Mapping[str, Any]], sizes: Iterable[tuple[int, int]], vision: str
) -> tuple[int, int]:
    """(expected, at most) tokens of a prompt with images of these (width, height) in pixels.

    Raises:
        KeyError: `vision` is not one of `VISION`.
    """
    images = sum(VISION[vision](*size) for size in sizes)
    length = text_bytes(messages)
    other = images + TEMPLATE_TOKENS * len(messages)
    return expected_tokens(length) + other, length + other
