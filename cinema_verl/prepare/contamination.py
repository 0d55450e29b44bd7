"""Whether a training question is one that a benchmark asks.

A training question is contaminated when

* one of its pictures is a picture of a benchmark (`benchmark_image`; `benchmark_question` if the words match as well):
  the perceptual hashes are near and, because a hash of 64 bits can be wrong, the two pictures themselves correlate. A
  nearly uniform picture (a blank page, a black frame) is no evidence;
* or its words are a particular benchmark question's (`benchmark_text`), exactly or nearly, with the same numbers. Words
  are particular when there are enough of them and neither side uses them over many different sets of pictures:
  "Which is the odd one out?" and templates are no evidence without a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import read_questions
from cinema_verl.prepare.near_duplicates import (
    Hashes,
    TextIndex,
    is_flat,
    jaccard,
    near_hashes,
    same_picture,
    shingles,
    words_of,
)
from cinema_verl.utils.stable_random import stable_hash

QUESTION: Final = "benchmark_question"
IMAGE: Final = "benchmark_image"
TEXT: Final = "benchmark_text"
DUPLICATE: Final = "duplicate"
REASONS: Final = (QUESTION, IMAGE, TEXT, DUPLICATE)
"""Why a question is taken out: the first of these that holds."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as near.

    Attributes:
        distance: Bits in which two hashes of the same picture may differ; it only proposes, the pictures are looked at.
            Our choice, from the pictures of benchmarks/decontamination.py: re-encoded, shrunk, brightened and slightly
            cropped copies differ in 7 at most, watermarked ones of smooth photographs in 11 nine times of ten; and of
            240,000 x 20,000 pairs of random hashes 42 are within 10, which is little to look at.
        similarity: Jaccard similarity of shingles. Our choice: one word changed in thirty stays above.
        min_words: Different words, numbers left out, that a text with its options needs to be particular. Our choice:
            "Which is the odd one out? the first, the second, image 3" has nine.
        max_uses: Sets of pictures over which particular words may be used on either side. Our choice: one question
            comes in a few sources and encodings, a template in tens.
    """

    distance: int = 10
    similarity: float = 0.8
    min_words: int = 10
    max_uses: int = 4


@dataclass(frozen=True, slots=True)
class Match:
    """Why a question is taken out.

    Attributes:
        reason: One of `REASONS`.
        benchmark: Its name; empty for duplicates.
        other: uid of the question that it matches.
        pictures: (position here, position there, bits of difference) of each shared picture, from 0.
        similarity: Of the words, 0 to 1.
    """

    uid: str
    source: str
    reason: str
    benchmark: str
    other: str
    pictures: tuple[tuple[int, int, int], ...]
    similarity: float
    note: str = ""

    @property
    def detail(self) -> str:
        place = f"{self.benchmark}: {self.other}" if self.benchmark else self.other
        pictures = ", ".join(f"image {i + 1} is its image {j + 1} ({bits} bits)" for i, j, bits in self.pictures)
        return "; ".join(part for part in (place, pictures, f"words {self.similarity:.2f} alike", self.note) if part)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a benchmark."""

    benchmark: str
    question: Question
    words: tuple[str, ...]


class Benchmarks:
    """The benchmarks' questions, in memory, to be found by picture and by text.

    Attributes:
        counts: Questions of each benchmark.

    Raises:
        ValueError: A directory that is not a data set (`directory.read_questions`).
    """

    def __init__(self, directories: Mapping[str, Path], rules: Rules) -> None:
        self.rules = rules
        self.asked = [
            Asked(name, question, words_of(question.prompt))
            for name, path in directories.items()
            for question in tqdm(read_questions(path), desc=name, unit=" questions", delay=2)
        ]
        self.counts = {name: 0 for name in directories}
        self._holders: dict[int, list[tuple[int, int]]] = defaultdict(list)  # hash -> (question, image)
        uses: dict[tuple[str, ...], set[int]] = defaultdict(set)
        texts: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, asked in enumerate(self.asked):
            self.counts[asked.benchmark] += 1
            for place, image in enumerate(asked.question.images):
                self._holders[int(image.phash, 16)].append((number, place))
            if is_particular(asked.words, rules):
                uses[asked.words].add(pictures_of(asked.question))
                texts[asked.words].append(number)
        self.particular = {words: texts[words] for words in sorted(texts) if len(uses[words]) <= rules.max_uses}
        self._questions_of_text = list(self.particular.values())
        self._texts = TextIndex(self.particular, rules.similarity)
        self._near: dict[int, list[tuple[int, int]]] = {}
        self.hashes: Hashes = np.array(sorted(self._holders), dtype=np.uint64)

    def look_up(self, hashes: Hashes) -> None:
        """Find the training hashes that `shared` will be asked about: uint64, without repetitions."""
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for query, target in zip(*near_hashes(hashes, self.hashes, self.rules.distance), strict=True):
            mine, theirs = int(hashes[query]), int(self.hashes[target])
            found[mine].append((theirs, (mine ^ theirs).bit_count()))
        self._near = dict(found)

    def texts_near(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Particular texts near this one: (number of the text, similarity)."""
        return self._texts.near(words)

    def match(self, question: Question, texts: Iterable[tuple[int, float]]) -> tuple[Match, Asked] | None:
        """The best reason to call a training question contaminated, and the benchmark's question.

        Args:
            texts: Particular texts that its words are near to, templates left out.
        """
        pictures: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for place, image in enumerate(question.images):
            near = self._near.get(int(image.phash, 16), ())
            for other, bits in () if near and is_flat(image.path) else near:
                for number, position in self._holders[other]:
                    if same_picture(image.path, self.asked[number].question.images[position].path):
                        pictures[number].append((place, position, bits))
        similarity = {number: alike for text, alike in texts for number in self._questions_of_text[text]}
        if pictures:
            text = shingles(words_of(question.prompt))
            similarity = {number: jaccard(text, shingles(self.asked[number].words)) for number in pictures}
        matches = []
        for number, alike in similarity.items():
            asked, shared = self.asked[number], tuple(pictures.get(number, ()))
            reason = TEXT if not shared else QUESTION if alike >= self.rules.similarity else IMAGE
            match = Match(question.uid, question.source, reason, asked.benchmark, asked.question.uid, shared, alike)
            matches.append((match, asked))
        return min(matches, key=lambda found: _preference(found[0]), default=None)


def _preference(match: Match) -> tuple[Any, ...]:
    bits = sum(bits for _, _, bits in match.pictures)
    return REASONS.index(match.reason), -len(match.pictures), bits, -match.similarity, match.benchmark, match.other


def is_particular(words: Sequence[str], rules: Rules) -> bool:
    """Whether a text has enough different words, numbers left out, to be told from others by its words alone."""
    return len({word for word in words if word.isalpha()}) >= rules.min_words


def pictures_of(question: Question) -> int:
    """A number for the set of pictures that a question is about, by their perceptual hashes."""
    return stable_hash(*(image.phash for image in question.images))
