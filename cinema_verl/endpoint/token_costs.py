"""What a call will take, before it is made: expected for estimates, at most for budgets.

Text is counted without the model's tokenizer, which an endpoint does not tell: four bytes a token are expected, and a
token for each byte is the most that a byte-level vocabulary can make of it. Images are counted by the published rules
of the model families, approximately; the size that is used is the stored file's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

TEMPLATE_TOKENS: Final = 16
"""For each message, of the chat template's own. Our choice: above those of the common templates (4 to 10)."""


def _squares(side: int, smallest: int, largest: int) -> Any:
    """One token for each square of `side` pixels, of an area kept between two numbers of tokens."""

    def tokens(width: int, height: int) -> int:
        count = math.ceil(width / side) * math.ceil(height / side)
        return min(max(count, smallest), largest)

    return tokens


def _tiles(base: int, tile: int) -> Any:
    """Fitted into 2048 x 2048, the shorter side brought to 768, then so much and for each tile of 512 x 512."""

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
    """Tokens that so much text usually has: our choice, four bytes each, as English prose under BPE vocabularies."""
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
