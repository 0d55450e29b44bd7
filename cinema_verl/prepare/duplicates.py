"""Training questions that ask the same as an earlier one.

A question is a `duplicate` of an earlier one (inputs in the order given, then by uid) when both ask the same words with
the same options, and either over the same files in the same order, or over pictures that are the same by their hashes
and by their pixels, with the same gold answer.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cinema_verl.data.canonical import LETTERS, Question
from cinema_verl.data.directory import Uids, read_questions
from cinema_verl.prepare.contamination import Benchmarks, is_particular, pictures_of
from cinema_verl.prepare.near_duplicates import near_hashes, words_of
from cinema_verl.utils.stable_random import stable_hash


@dataclass(slots=True)
class Fingerprints:
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
    def of(cls, inputs: Sequence[Path], benchmarks: Benchmarks) -> Fingerprints:
        """Read the questions once.

        Raises:
            ValueError: Two questions have the same uid, or one has no image.
        """
        found, uids = cls(), Uids()
        for number, question in questions_of(inputs, "reading"):
            uids.add(question.uid)
            if not question.images:
                raise ValueError(f"{question.uid} has no image: {inputs[number]} is not what the pipeline writes")
            words = words_of(question.question)
            found.uids.append(question.uid)
            found.inputs.append(number)
            found.hashes.extend(int(image.phash, 16) for image in question.images)
            found.files.extend(int(image.sha256[:16], 16) for image in question.images)
            found.ends.append(len(found.hashes))
            options = sorted(words_of(option) for option in question.options)
            found.asked.append(stable_hash(words, options, len(question.images)))
            found.golds.append(stable_hash(gold_of(question)))
            prompt = words_of(question.prompt)
            if near := benchmarks.texts_near(prompt) if is_particular(prompt, benchmarks.rules) else ():
                found.texts[len(found.uids) - 1] = list(near)
                for text, _ in near:
                    found.uses[text].add(pictures_of(question))
        return found

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
        candidates: Sorted by the later one's precedence, then the earlier one's (`Fingerprints.candidates`).
        alike: Whether the pictures of two questions, looked at, are the same; asked only where the files differ.
    """
    result: dict[int, int] = {}
    for later, earlier, same_files in candidates:
        # Whether the earlier one stays is known by now. What goes replaces nothing.
        if later not in result and earlier not in result and (same_files or alike(later, earlier)):
            result[later] = earlier
    return result


def gold_of(question: Question) -> str:
    """The gold answer apart from where it stands among the options: an mcq's option text."""
    place = LETTERS.find(question.answer.strip()) if len(question.answer.strip()) == 1 else -1
    gold = question.options[place] if 0 <= place < len(question.options) else question.answer
    return gold.strip().casefold()


def questions_of(inputs: Sequence[Path], doing: str) -> Iterator[tuple[int, Question]]:
    """Every question with the number of its input, under a progress bar that says what is being done."""
    with tqdm(desc=doing, unit=" questions", delay=2) as progress:
        for number, path in enumerate(inputs):
            for question in read_questions(path):
                progress.update()
                yield number, question
