"""Take out of the training questions what a benchmark asks, and what they ask twice.

What counts as a benchmark's question is in `contamination`, what counts as a duplicate is in `duplicates`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import Rejection, check_output, fingerprint, sole_writer, start_anew, write_dataset
from cinema_verl.prepare.contamination import DUPLICATE, REASONS, Benchmarks, Match, Rules
from cinema_verl.prepare.decontamination_report import write_report
from cinema_verl.prepare.duplicates import Fingerprints, duplicates_of, questions_of
from cinema_verl.prepare.near_duplicates import same_picture
from cinema_verl.utils.stable_random import Sample

SHOWN: Final = 24
"""Pairs of each reason in the report. Our choice: the page stays below about 3 MB."""


def decontaminate(
    inputs: Sequence[str | Path],
    benchmarks: Mapping[str, str | Path],
    output: str | Path,
    rules: Rules | None = None,
    *,
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the dataset directory of the training questions that stay, and the report of those that do not.

    Args:
        inputs: Dataset directories of training questions; where two ask the same, the earlier input's stays.
        benchmarks: Name -> dataset directory. Without one, only duplicates are taken out.
        output: A new dataset directory.
        overwrite: Whether a complete data set that is there is replaced.
        command: What the manifest is to show as the command.

    Returns:
        The numbers of the report (`decontamination_report.summarise`).

    Raises:
        Locked: Another run is writing to the output.
        FileExistsError: A complete data set is there, and `overwrite` is not set.
        FileNotFoundError, ValueError: An input is no whole dataset directory, or two questions have the same uid.
        OSError: A picture cannot be read, or the output cannot be written.
    """
    rules = rules or Rules()
    paths = [Path(path).absolute() for path in inputs]
    against = {name: Path(path).absolute() for name, path in benchmarks.items()}
    with sole_writer(output) as directory:
        check_output(directory, [*paths, *against.values()], overwrite=overwrite)
        read = [fingerprint(path) for path in paths]
        read += [{"benchmark": name, **fingerprint(path)} for name, path in against.items()]
        run = Decontamination(paths, against, rules)
        start_anew(directory, overwrite=overwrite)
        made_by = {"command": list(command), "rules": asdict(rules)}
        write_dataset(directory, run.kept(), run.rejections(), made_by, read)
        return write_report(directory, run)


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
        self.fingerprints = Fingerprints.of(inputs, self.benchmarks)
        self.benchmarks.look_up(np.unique(np.asarray(self.fingerprints.hashes, dtype=np.uint64)))
        self.duplicates = self._find_duplicates()
        self.templates = {text for text, uses in self.fingerprints.uses.items() if len(uses) > self.rules.max_uses}
        self.matches: list[Match] = []
        self.sources: Counter[str] = Counter()
        self.shown: dict[str, Sample[tuple[Match, Question, Question]]] = {reason: Sample(SHOWN) for reason in REASONS}

    def kept(self) -> Iterator[Question]:
        """The questions that stay, in the order of the inputs; to be read once."""
        pairs = self._duplicates_to_show()
        firsts: dict[int, Question] = {}
        waiting: dict[int, tuple[Match, Question]] = {}
        for position, (_, question) in enumerate(questions_of(self.inputs, "comparing")):
            self.sources[question.source] += 1
            texts = [pair for pair in self.fingerprints.texts.get(position, ()) if pair[0] not in self.templates]
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
        candidates = self.fingerprints.candidates(self.rules.distance)
        wanted = {position for pair in candidates if not pair.same_files for position in pair[:2]}
        paths: dict[int, list[str]] = {}
        if (
            wanted
        ):  # `Fingerprints` keeps no paths: those of a million questions would not fit, those of the candidates do
            for position, (_, question) in enumerate(questions_of(self.inputs, "looking")):
                if position in wanted:
                    paths[position] = [image.path for image in question.images]

        def alike(i: int, j: int) -> bool:
            mine, theirs = self.fingerprints.images_of(i), self.fingerprints.images_of(j)
            return all(
                self.fingerprints.files[a] == self.fingerprints.files[b] or same_picture(path, other)
                for a, b, path, other in zip(mine, theirs, paths[i], paths[j], strict=True)
            )

        return duplicates_of(candidates, alike)

    def rejections(self) -> Iterator[Rejection]:
        """What `kept` left out."""
        return (Rejection(match.uid, match.reason, match.detail) for match in self.matches)

    def _duplicate(self, question: Question, position: int, first: int) -> Match:
        hashes, files, golds = self.fingerprints.hashes, self.fingerprints.files, self.fingerprints.golds
        mine, theirs = self.fingerprints.images_of(position), self.fingerprints.images_of(first)
        bits = tuple(
            (n, n, (hashes[i] ^ hashes[j]).bit_count()) for n, (i, j) in enumerate(zip(mine, theirs, strict=True))
        )
        same_files = all(files[i] == files[j] for i, j in zip(mine, theirs, strict=True))
        note = "the same files" if same_files else "near pictures and the same gold"
        note += "" if golds[position] == golds[first] else ", but another gold: one of the two is wrong"
        return Match(question.uid, question.source, DUPLICATE, "", self.fingerprints.uids[first], bits, 1.0, note)

    def _duplicates_to_show(self) -> dict[int, int]:
        """A sample: its questions are met at different times, so it must be known before."""
        chosen: Sample[int] = Sample(SHOWN)
        for position in self.duplicates:
            chosen.offer(self.fingerprints.uids[position], position)
        return {position: self.duplicates[position] for position in chosen.items()}
