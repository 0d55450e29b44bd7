"""Take out of the training questions what a benchmark asks, and what they ask twice.

**The rule.** A training question is contaminated when

* one of its pictures is a picture of a benchmark (`benchmark_image`; `benchmark_question` if the words match as well):
  the perceptual hashes are near, and, because a hash of 64 bits can err, the two pictures, looked at, correlate. A
  nearly uniform picture (a blank page, a black frame) is no evidence for anything;
* or its words are a particular benchmark question's (`benchmark_text`), exactly or nearly and with the same numbers.
  Words are particular when there are enough of them and neither side uses them over many different sets of pictures:
  "Which is the odd one out?" and templates are no evidence without a picture.

A question is a `duplicate` of an earlier one (inputs in the order given, then by uid) when both ask the same words with
the same options, over the same files in the same order, or over pictures that hashes and eyes call the same, with the
same gold answer.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from tqdm import tqdm

from cinema_verl.data.canonical import LETTERS, Question
from cinema_verl.data.directory import Rejection, read_questions
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
from cinema_verl.utils.stable_random import Sample

QUESTION: Final = "benchmark_question"
IMAGE: Final = "benchmark_image"
TEXT: Final = "benchmark_text"
DUPLICATE: Final = "duplicate"
REASONS: Final = (QUESTION, IMAGE, TEXT, DUPLICATE)
"""In this order where several hold."""

SHOWN: Final = 24
"""Pairs of each reason in the report. Our choice: the page stays below about 3 MB."""


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


# --- The benchmarks --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A benchmark's question."""

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
            _Asked(name, question, words_of(question.prompt))
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
            if _different(asked.words) >= rules.min_words:
                uses[asked.words].add(_pictures(asked.question))
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

    def match(self, question: Question, texts: Iterable[tuple[int, float]]) -> tuple[Match, _Asked] | None:
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


# --- The training questions -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Survey:
    """What one pass over the training questions leaves in memory: numbers, and no texts or paths.

    Attributes:
        uids: Of each question.
        hashes, files: Perceptual hash, and the first 64 bits of the file's SHA-256, of each image of all questions.
        ends: Of each question, the end of its images in the two.
        order: Of each question, its place by (input, uid).
        asked, golds: Digests of what each question asks, over how many images, and of its gold answer.
        texts: Of some questions, the particular benchmark texts near theirs.
        uses: Of those texts, the sets of pictures over which training uses them.
    """

    uids: list[str] = field(default_factory=list)
    inputs: array[int] = field(default_factory=lambda: array("q"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    files: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    asked: array[int] = field(default_factory=lambda: array("Q"))
    golds: array[int] = field(default_factory=lambda: array("Q"))
    texts: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    uses: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, inputs: Sequence[Path], benchmarks: Benchmarks) -> Survey:
        """Read the questions once.

        Raises:
            ValueError: Two questions have the same uid, or one has no image.
        """
        survey = cls()
        for number, question in _questions(inputs, "reading"):
            if not question.images:
                raise ValueError(f"{question.uid} has no image: {inputs[number]} is not what the pipeline writes")
            words = words_of(question.question)
            survey.uids.append(question.uid)
            survey.inputs.append(number)
            survey.hashes.extend(int(image.phash, 16) for image in question.images)
            survey.files.extend(int(image.sha256[:16], 16) for image in question.images)
            survey.ends.append(len(survey.hashes))
            options = sorted(words_of(option) for option in question.options)
            survey.asked.append(_digest((words, options, len(question.images))))
            survey.golds.append(_digest(gold_of(question)))
            prompt = words_of(question.prompt)
            if near := benchmarks.texts_near(prompt) if _different(prompt) >= benchmarks.rules.min_words else ():
                survey.texts[len(survey.uids) - 1] = list(near)
                for text, _ in near:
                    survey.uses[text].add(_pictures(question))
        if len(set(survey.uids)) < len(survey.uids):
            seen: set[str] = set()
            twice = next(uid for uid in survey.uids if uid in seen or seen.add(uid))  # type: ignore[func-returns-value]
            raise ValueError(
                f"two questions have the uid {twice!r}: give each input once, and each source its own name"
            )
        return survey

    def candidates(self, distance: int) -> list[Candidate]:
        """Pairs of questions that ask the same over as many images, the files the same or the hashes near."""
        order = np.array(sorted(range(len(self.uids)), key=lambda i: (self.inputs[i], self.uids[i])), dtype=np.int64)
        asked = np.asarray(self.asked)[order]
        by_text = np.argsort(asked, kind="stable")
        edges = np.flatnonzero(np.diff(asked[by_text])) + 1
        groups = [group for group in np.split(order[by_text], edges) if len(group) > 1]
        return [candidate for group in groups for candidate in self._candidates_among(group, distance)]

    def _candidates_among(self, group: np.ndarray, distance: int) -> Iterator[Candidate]:
        """The same for questions that ask the same over as many images; `group` is in the order of precedence."""
        images = [self.images_of(i) for i in group.tolist()]
        hashes = np.array([[self.hashes[at] for at in places] for places in images], dtype=np.uint64)
        files = np.array([[self.files[at] for at in places] for places in images], dtype=np.uint64)
        # Near in all columns is near in the one that tells most of them apart, whose join is the smallest.
        column = max(range(hashes.shape[1]), key=lambda c: len(np.unique(hashes[:, c])))
        late, early = near_hashes(hashes[:, column], hashes[:, column], distance)
        late, early = late[early < late], early[early < late]
        near = (np.bitwise_count(hashes[late] ^ hashes[early]) <= distance).all(axis=1)
        golds = np.asarray(self.golds)[group]
        same_files = (files[late] == files[early]).all(axis=1)
        chosen = (near & (golds[late] == golds[early])) | same_files
        for i, j, same in zip(late[chosen].tolist(), early[chosen].tolist(), same_files[chosen].tolist(), strict=True):
            yield Candidate(int(group[i]), int(group[j]), same)

    def images_of(self, position: int) -> range:
        """Where a question's images are in `hashes` and `files`."""
        return range(self.ends[position - 1] if position else 0, self.ends[position])


class Candidate(NamedTuple):
    """Two questions that may be one, by position: the later one goes if they are."""

    later: int
    earlier: int
    same_files: bool


def duplicates_of(candidates: Iterable[Candidate], alike: Callable[[int, int], bool]) -> dict[int, int]:
    """Questions to take out -> the one that stays in place of each.

    Args:
        candidates: Sorted by the later one's precedence, then the earlier one's (`Survey.candidates`).
        alike: Whether the pictures of two questions, looked at, are the same; asked only where the files differ.
    """
    result: dict[int, int] = {}
    for later, earlier, same_files in candidates:
        # Whether the earlier one stays is known by now. What goes replaces nothing.
        if later not in result and earlier not in result and (same_files or alike(later, earlier)):
            result[later] = earlier
    return result


class Decontamination:
    """One run: the questions that stay, as a stream, and after it why the others do not.

    Args:
        inputs: Dataset directories of training questions; where two ask the same, the earlier input's stays.
        benchmarks: Name -> dataset directory.

    Attributes:
        matches: One for each question taken out, once `kept` is exhausted; in the order of the inputs.
        sources: Questions read of each source, as the matches.
        shown: By reason, a sample of pairs (the match, the question taken out, the one that it matches).

    Raises:
        ValueError: An input that is not a data set, or a uid that two questions have.
    """

    def __init__(self, inputs: Sequence[Path], benchmarks: Mapping[str, Path], rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.inputs = inputs
        self.benchmarks = Benchmarks(benchmarks, self.rules)
        self.survey = Survey.of(inputs, self.benchmarks)
        self.benchmarks.look_up(np.unique(np.asarray(self.survey.hashes, dtype=np.uint64)))
        self.duplicates = self._find_duplicates()
        self.templates = {text for text, uses in self.survey.uses.items() if len(uses) > self.rules.max_uses}
        self.matches: list[Match] = []
        self.sources: Counter[str] = Counter()
        self.shown: dict[str, Sample[tuple[Match, Question, Question]]] = {reason: Sample(SHOWN) for reason in REASONS}

    def kept(self) -> Iterator[Question]:
        """The questions that stay, in the order of the inputs; to be read once."""
        pairs = self._duplicates_to_show()
        firsts: dict[int, Question] = {}
        waiting: dict[int, tuple[Match, Question]] = {}
        for position, (_, question) in enumerate(_questions(self.inputs, "comparing")):
            self.sources[question.source] += 1
            texts = [pair for pair in self.survey.texts.get(position, ()) if pair[0] not in self.templates]
            if position in pairs.values():
                firsts[position] = question
            if found := self.benchmarks.match(question, texts):
                self.matches.append(found[0])
                self.shown[found[0].reason].offer(question.uid, (found[0], question, found[1].question))
            elif position in self.duplicates:
                first = self.duplicates[position]
                self.matches.append(self._duplicate(question, position, first))
                if position in pairs:
                    waiting[position] = (self.matches[-1], question)
            else:
                yield question
        for position, (match, question) in waiting.items():
            self.shown[DUPLICATE].offer(question.uid, (match, question, firsts[pairs[position]]))

    def _find_duplicates(self) -> dict[int, int]:
        candidates = self.survey.candidates(self.rules.distance)
        wanted = {position for pair in candidates if not pair.same_files for position in pair[:2]}
        paths: dict[int, list[str]] = {}
        if wanted:  # the survey keeps no paths: those of a million questions would not fit, those of the candidates do
            for position, (_, question) in enumerate(_questions(self.inputs, "looking")):
                if position in wanted:
                    paths[position] = [image.path for image in question.images]

        def alike(i: int, j: int) -> bool:
            mine, theirs = self.survey.images_of(i), self.survey.images_of(j)
            return all(
                self.survey.files[a] == self.survey.files[b] or same_picture(path, other)
                for a, b, path, other in zip(mine, theirs, paths[i], paths[j], strict=True)
            )

        return duplicates_of(candidates, alike)

    def rejections(self) -> Iterator[Rejection]:
        """What `kept` left out."""
        return (Rejection(match.uid, match.reason, match.detail) for match in self.matches)

    def _duplicate(self, question: Question, position: int, first: int) -> Match:
        hashes, files, golds = self.survey.hashes, self.survey.files, self.survey.golds
        mine, theirs = self.survey.images_of(position), self.survey.images_of(first)
        bits = tuple(
            (n, n, (hashes[i] ^ hashes[j]).bit_count()) for n, (i, j) in enumerate(zip(mine, theirs, strict=True))
        )
        same_files = all(files[i] == files[j] for i, j in zip(mine, theirs, strict=True))
        note = "the same files" if same_files else "near pictures and the same gold"
        note += "" if golds[position] == golds[first] else ", but another gold: one of the two is wrong"
        return Match(question.uid, question.source, DUPLICATE, "", self.survey.uids[first], bits, 1.0, note)

    def _duplicates_to_show(self) -> dict[int, int]:
        """A sample: its questions are met at different times, so it must be known before."""
        chosen: Sample[int] = Sample(SHOWN)
        for position in self.duplicates:
            chosen.offer(self.survey.uids[position], position)
        return {position: self.duplicates[position] for position in chosen.items()}


def gold_of(question: Question) -> str:
    """The gold answer apart from where it stands among the options: an mcq's option text."""
    place = LETTERS.find(question.answer.strip()) if len(question.answer.strip()) == 1 else -1
    gold = question.options[place] if 0 <= place < len(question.options) else question.answer
    return gold.strip().casefold()


def _questions(inputs: Sequence[Path], doing: str) -> Iterator[tuple[int, Question]]:
    with tqdm(desc=doing, unit=" questions", delay=2) as progress:
        for number, path in enumerate(inputs):
            for question in read_questions(path):
                progress.update()
                yield number, question


def _different(words: Sequence[str]) -> int:
    return len({word for word in words if word.isalpha()})


def _pictures(question: Question) -> int:
    return _digest([image.phash for image in question.images])


def _digest(value: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "big")
