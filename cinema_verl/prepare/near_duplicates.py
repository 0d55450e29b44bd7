"""What is nearly the same: hashes that differ in few bits, pictures that look alike, texts that share most words.

Both searches first collect candidates that every near neighbour must be among (an equal band of the hash; one of a
text's rarest shingles) and then compare in full: they find what comparing everything with everything would find.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BITS: Final = 64
_PAIRS_AT_ONCE: Final = 1 << 21
"""Candidates compared in one piece. Our choice: some 80 MB of temporary arrays."""

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


def near_hashes(queries: Hashes, targets: Hashes, distance: int) -> tuple[Indices, Indices]:
    """All pairs of a query and a target that differ in at most `distance` bits: multi-index hashing.

    Cut into ``distance + 1`` bands, two such hashes agree in at least one whole band (Norouzi, Punjani and Fleet,
    "Fast Search in Hamming Space with Multi-Index Hashing", 2012), so that only pairs with an equal band are compared.

    Args:
        queries, targets: uint64 (Q,) and (T,). Best without repetitions: equal hashes multiply the result.
        distance: Bits, 0 to 63.

    Returns:
        Indices into queries and into targets, int64 (P,) each; sorted by query, then target; each pair once.

    Raises:
        ValueError: `distance` is out of range.
    """
    if not 0 <= distance < _BITS:
        raise ValueError(f"a distance of {distance} bits between hashes of {_BITS} bits: use 0 to {_BITS - 1}")
    if not len(queries) or not len(targets):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    edges = np.linspace(0, _BITS, distance + 2).astype(int)
    found = [np.empty((0, 2), np.int64)]
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        bands, wanted = (targets >> np.uint64(low)) & mask, (queries >> np.uint64(low)) & mask
        order = np.argsort(bands, kind="stable")
        first, last = (np.searchsorted(bands[order], wanted, side) for side in ("left", "right"))
        for start, end in _blocks(last - first):
            counts = (last - first)[start:end]
            query = np.repeat(np.arange(start, end), counts)
            step = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
            target = order[np.repeat(first[start:end], counts) + step]
            close = np.bitwise_count(queries[query] ^ targets[target]) <= distance
            if close.any():
                found.append(np.stack([query[close], target[close]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _blocks(counts: Indices) -> Iterator[tuple[int, int]]:
    """Ranges of queries whose candidates, `counts` for each, fit into one piece; at least one query each."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
        yield start, end
        start = end


# --- Pictures ------------------------------------------------------------------------------------------------

CORRELATION: Final = 0.95
"""Of two pictures as 32x32 grey. Our choice, from the pictures of benchmarks/decontamination.py: re-encoded, resized,
brightened and watermarked copies stay at 0.951 and above, different photographs, drawings and charts at 0.88 and below;
crops of one photograph that overlap reach 0.97."""
FLAT: Final = 1.0
"""Standard deviation in grey levels (of 255) at 32x32 below which a picture is nearly uniform, and its hash that of its
noise. Our choice: a page with one thin triangle has over 2, compression noise on a blank one under 0.3."""
_REMEMBERED: Final = 65_536  # pictures, 1 KB each


@lru_cache(maxsize=_REMEMBERED)
def _glance(path: str) -> bytes:
    """The picture as 32x32 grey."""
    try:
        with Image.open(path) as image:
            return image.convert("L").resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=2.0).tobytes()
    except OSError as error:
        raise OSError(
            f"{path}, a picture of a question, cannot be read ({error}): its data set is not whole"
        ) from error


def is_flat(path: str) -> bool:
    """Whether a picture is nearly uniform: a blank page, a black frame.

    Raises:
        OSError: it cannot be read.
    """
    return float(_pixels(path).std()) < FLAT


def _pixels(path: str) -> NDArray[np.float32]:
    return np.frombuffer(_glance(path), np.uint8).astype(np.float32)


@lru_cache(maxsize=_REMEMBERED)
def same_picture(path: str, other: str) -> bool:
    """Whether two pictures show the same, neither being flat; to be asked of pictures whose hashes are near.

    Raises:
        OSError: one of the two cannot be read.
    """
    if is_flat(path) or is_flat(other):
        return False
    centred = [pixels - pixels.mean() for pixels in (_pixels(path), _pixels(other))]
    a, b = (pixels / np.linalg.norm(pixels) for pixels in centred)
    return float(a @ b) >= CORRELATION


# --- Texts ---------------------------------------------------------------------------------------------------

_IMAGE: Final = re.compile(r"(?:\b(?:image|frame)\s*\d+\s*[:.]?\s*)?<image>", re.IGNORECASE)
_OPTION_LETTER: Final = re.compile(r"(?<!\S)\(?[A-Z][.):]\s")
_CJK: Final = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: each character counts as a word
_WORD: Final = re.compile(rf"[{_CJK}]|\d+(?:[.,]\d+)*|[^\W\d_{_CJK}]+|[+=<>^]")


def words_of(text: str) -> tuple[str, ...]:
    """The words that make a text what it is.

    Left out: case, punctuation, ``<image>`` and what numbers it ("Image 2:"), letters before options. Kept: numbers.
    """
    text = _OPTION_LETTER.sub(" ", _IMAGE.sub(" ", unicodedata.normalize("NFKC", text)))
    return tuple(_WORD.findall(text.casefold()))


SHINGLE: Final = 3
"""Words in a row that are compared as one. Our choice: enough that word order counts, and few."""


def shingles(words: Sequence[str]) -> frozenset[str]:
    """All runs of `SHINGLE` words; a shorter text is one run."""
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared shingles over all shingles of both, 0 to 1."""
    return len(a & b) / len(a | b)


class TextIndex:
    """Texts to be found again by others that share most of their shingles and exactly their numbers.

    Numbers must agree because templates ("How many … in image 3?") differ in nothing else.

    Args:
        texts: Words of each text (`words_of`).
        similarity: Jaccard similarity of shingles from which two texts count as near, over 0 and up to 1.
    """

    def __init__(self, texts: Iterable[Sequence[str]], similarity: float) -> None:
        if not 0 < similarity <= 1:
            raise ValueError(f"a similarity of {similarity}: use a number over 0, up to 1")
        self.similarity = similarity
        self._numbers: list[tuple[str, ...]] = []
        self._shingles: list[frozenset[str]] = []
        for words in texts:
            self._numbers.append(_numbers(words))
            self._shingles.append(shingles(words))
        self._frequency = Counter(shingle for text in self._shingles for shingle in text)
        self._holders: dict[str, list[int]] = defaultdict(list)
        for number, text in enumerate(self._shingles):
            for shingle in self._rarest(text):
                self._holders[shingle].append(number)

    def _rarest(self, text: frozenset[str]) -> list[str]:
        """The shingles of which a near text must share at least one: all but ``similarity`` of them, rarest first."""
        spare = len(text) - math.ceil(self.similarity * len(text) - 1e-9) + 1
        return sorted(text, key=lambda shingle: (self._frequency[shingle], shingle))[:spare]

    def near(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Texts near this one, as (number, similarity), in the order of their numbers."""
        text, numbers = shingles(words), _numbers(words)
        candidates = {number for shingle in self._rarest(text) for number in self._holders.get(shingle, ())}
        return [
            (number, similarity)
            for number in sorted(candidates)
            if self._numbers[number] == numbers
            and (similarity := jaccard(text, self._shingles[number])) >= self.similarity
        ]


def _numbers(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(word for word in words if word[0].isdigit()))
