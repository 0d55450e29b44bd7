"""A random choice that depends on names and a seed alone: not on the order, the number of files or the machine."""

from __future__ import annotations

import hashlib
import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


def stable_hash(*parts: object) -> int:
    """A 64-bit number that depends on the parts alone, in every process and on every machine, unlike `hash`.

    It is the first 8 bytes, big-endian, of the SHA-256 of the parts' texts joined by "/". The numbers of different
    names are as if drawn at random.
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def rank(seed: int, name: str) -> int:
    """A 64-bit number for a name, as if drawn at random; the names with the lowest ranks are a uniform sample."""
    return stable_hash(seed, name)


class Sample(Generic[T]):
    """At most `size` of the items that it is offered: those whose names rank lowest. Memory is that of `size` items."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed, self.seen = size, seed, 0
        self._heap: list[tuple[int, str, int, T]] = []  # (-rank, name, order of arrival, item)

    def offer(self, name: str, item: T) -> None:
        self.seen += 1
        entry = (-rank(self.seed, name), name, self.seen, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif self.size:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[T]:
        """The items in the order of their names."""
        return [item for _, _, _, item in sorted(self._heap, key=lambda entry: (entry[1], entry[2]))]
