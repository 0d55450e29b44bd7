"""Choose questions so that the mix has the size and the shares that a specification asks for.

Two steps. `plan` turns counts of what there is into counts of what to take, by one idea: *water-filling*, raising one
level until the total is reached, so that where a stratum runs short the others rise together. `Selection` then takes
that many questions of each cell, by a random rank that only a question's uid and the seed decide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import (
    Place,
    Rejection,
    Uids,
    check_output,
    fingerprint,
    locate_questions,
    question_at,
    read_questions,
    sole_writer,
    start_anew,
    write_dataset,
)
from cinema_verl.prepare.mix_spec import OTHER, MixError, MixSpec, Stratum
from cinema_verl.utils.files import sha256_of
from cinema_verl.utils.stable_random import rank

PASS_RATE: Final = "pass_rate"
PASS_RATE_UNKNOWN: Final = "pass_rate_unknown"
EXCLUDED: Final = "excluded"
NOT_IN_MIX: Final = "not_in_mix"

_ROUNDS: Final = 1000  # of fitting the dimensions in turn; a handful is enough unless they contradict each other
_SETTLED: Final = 1e-3  # questions of a cell from one round to the next

Cell = tuple[str, ...]
Floats = NDArray[np.float64]


def fill(weights: Floats, low: Floats, high: Floats, total: float) -> Floats:
    """Water-filling: ``clip(level * weights, low, high)`` at the level at which it adds up to `total`.

    Where no level does, the nearest: everything at its lowest or, where it has weight, at its highest.

    Args:
        weights, low, high: float64 (S,), not negative, low <= high.
    """
    bottom, top = 0.0, 1.0
    while np.clip(top * weights, low, high).sum() < total and top < 1e18:
        top *= 2
    for _ in range(200):
        level = (bottom + top) / 2
        if np.clip(level * weights, low, high).sum() < total:
            bottom = level
        else:
            top = level
    return np.clip(top * weights, low, high)


@dataclass(frozen=True, slots=True)
class Line:
    """One stratum in the table: questions that the specification wants, that there are, and that are taken."""

    dimension: str
    stratum: str
    wanted: str
    available: int
    taken: int


def plan(spec: MixSpec, available: Mapping[Cell, int]) -> dict[Cell, int]:
    """How many questions to take of each cell (a stratum of every dimension, `MixSpec.cell_of`).

    Dimensions are fitted in turn until they settle (iterative proportional fitting with caps). Where targets of two
    dimensions contradict each other, the one that stands first in the specification is met.

    Raises:
        MixError: fewer questions than the size, a named source that there is none of, or bounds that cannot hold.
    """
    cells = sorted(cell for cell, count in available.items() if count)
    have = np.array([available[cell] for cell in cells], dtype=np.float64)
    if have.sum() < spec.size:
        raise MixError(f"size is {spec.size:,}, and there are only {int(have.sum()):,} questions to take from")
    members = {
        (place, name): np.array([cell[place] == name for cell in cells], dtype=bool)
        for place, dimension in enumerate(spec.dimensions)
        for name in {cell[place] for cell in cells}
    }
    targets = {
        key: count
        for place, (dimension, strata) in enumerate(spec.dimensions.items())
        for key, count in _targets(spec, place, dimension, strata, have, members).items()
    }
    take = fill(have, np.zeros_like(have), have, spec.size)
    for _ in range(_ROUNDS if spec.dimensions else 0):
        before = take.copy()
        for place in reversed(range(len(spec.dimensions))):
            for (where, name), count in targets.items():
                if where == place:
                    inside = members[where, name]
                    take[inside] = fill(take[inside], np.zeros(inside.sum()), have[inside], count)
        if np.abs(take - before).max() < _SETTLED:
            break
    bounds = {
        (place, stratum.name): stratum
        for place, strata in enumerate(spec.dimensions.values())
        for stratum in strata
        if (place, stratum.name) in members
    }
    counts = _round(take, have, members, bounds, spec.size)
    _check(spec, counts, members, bounds)
    return dict(zip(cells, counts.tolist(), strict=True))


Key = tuple[int, str]  # place of a dimension in the cell, stratum


def _targets(
    spec: MixSpec,
    place: int,
    dimension: str,
    strata: Sequence[Stratum],
    have: Floats,
    members: Mapping[Key, NDArray[np.bool_]],
) -> dict[Key, float]:
    """Questions to take of each stratum that there is, if this were the only dimension."""
    count = {name: float(have[inside].sum()) for (where, name), inside in members.items() if where == place}
    named = {stratum.name: stratum for stratum in strata}
    if dimension == "source" and (missing := [name for name in named if name not in count]):
        there = ", ".join(sorted(set(count) - {OTHER})) or "none of those named"
        raise MixError(
            f"source {missing[0]!r} has no question among the inputs (after the pass-rate window); found: {there}. "
            "Correct the name, or leave it out"
        )
    for name, stratum in named.items():
        if stratum.at_least > count.get(name, 0):
            raise MixError(
                f"{dimension}.{name} wants at least {stratum.at_least:,}, and there are {int(count.get(name, 0)):,}"
            )
    names = sorted(count)
    ask = [named.get(name, Stratum(name)) for name in names]
    available = np.array([count[name] for name in names])
    free = np.array([stratum.target is None for stratum in ask])
    rest = max(0.0, spec.size - sum(stratum.target or 0 for stratum in strata))
    weights = np.array([stratum.target or 0.0 for stratum in ask])
    if free.any():
        weights[free] = rest * available[free] / available[free].sum()
    low = np.array([float(stratum.at_least) for stratum in ask])
    high = np.minimum([stratum.at_most for stratum in ask], available)
    reachable = np.where(weights > 0, high, low).sum()
    if reachable < spec.size - 1e-6:
        raise MixError(
            f"the strata of {dimension} that may grow hold {int(reachable):,} of {spec.size:,} questions. Lower the "
            "size or some targets (what they leave goes to the strata without one), or raise at_most"
        )
    if low.sum() > spec.size:
        raise MixError(f"at_least of {dimension} adds up to more than the size of {spec.size:,}")
    filled = fill(weights, low, high, spec.size)
    return {(place, name): float(value) for name, value in zip(names, filled, strict=True)}


def _round(
    take: Floats,
    have: Floats,
    members: Mapping[Key, NDArray[np.bool_]],
    bounds: Mapping[Key, Stratum],
    size: int,
) -> NDArray[np.int64]:
    """Whole numbers that add up to `size`: rounded down, then one more where the strata of a cell lack most."""
    counts = np.floor(take + 1e-6).astype(np.int64)
    while (missing := size - int(counts.sum())) > 0:
        urgency = take - counts
        allowed = counts < have
        for key, inside in members.items():
            lack = float(take[inside].sum() - counts[inside].sum())
            bound = bounds.get(key, Stratum(""))
            if counts[inside].sum() < bound.at_least:
                lack += size
            if counts[inside].sum() >= bound.at_most:
                allowed = allowed & ~inside
            urgency = urgency + np.where(inside, lack, 0.0)
        if not allowed.any():
            raise MixError(
                f"the bounds of different dimensions leave room for {size - missing:,} of {size:,} questions"
            )
        counts[np.argmax(np.where(allowed, urgency, -np.inf))] += 1
    return counts


def _check(
    spec: MixSpec,
    counts: NDArray[np.int64],
    members: Mapping[Key, NDArray[np.bool_]],
    bounds: Mapping[Key, Stratum],
) -> None:
    for (place, name), stratum in bounds.items():
        taken = int(counts[members[place, name]].sum())
        if not stratum.at_least <= taken <= stratum.at_most:
            bound = f"at least {stratum.at_least:,}" if taken < stratum.at_least else f"at most {stratum.at_most:,}"
            raise MixError(
                f"{list(spec.dimensions)[place]}.{name} wants {bound} and would get {taken:,}: it contradicts the "
                "targets of another dimension. Relax one of the two"
            )


def lines(spec: MixSpec, available: Mapping[Cell, int], taken: Mapping[Cell, int]) -> list[Line]:
    """The table: every stratum that is named, and the others together."""
    result = []
    for place, (dimension, strata) in enumerate(spec.dimensions.items()):
        there, took = Counter[str](), Counter[str]()
        for cell, count in available.items():
            there[cell[place]] += count
            took[cell[place]] += taken.get(cell, 0)
        for stratum in (*strata, *([Stratum(OTHER)] if there[OTHER] else [])):
            wanted = [f"{stratum.target:,.0f}"] if stratum.target is not None else []
            wanted += [f"≥ {stratum.at_least:,}"] if stratum.at_least else []
            wanted += [f"≤ {stratum.at_most:,}"] if stratum.at_most != float("inf") else []
            asked = ", ".join(wanted) or "the rest"
            result.append(Line(dimension, stratum.name, asked, there[stratum.name], took[stratum.name]))
    return result


def table(rows: Sequence[Line]) -> str:
    """Markdown."""
    head = "| dimension | stratum | wanted | available | taken |\n| --- | --- | ---: | ---: | ---: |\n"
    return head + "\n".join(
        f"| {row.dimension} | {row.stratum} | {row.wanted} | {row.available:,} | {row.taken:,} |" for row in rows
    )


class Selection:
    """One run: what there is has been read and planned; `questions` and `rejections` are what to write.

    In memory is where each question stands, some 400 bytes for it, and never more than one question.

    Args:
        inputs: Dataset directories or JSONL files.
        exclude: The same; questions with a uid of these are left out.

    Attributes:
        available, taken: Questions of each cell that may be taken: not of those excluded, of other splits, or with a
            pass rate outside the window.
        read: Questions read.

    Raises:
        MixError: The specification cannot be met.
        FileNotFoundError, ValueError: An input is not one (see `read_questions`), or two questions have the same uid.
    """

    def __init__(self, inputs: Sequence[Path], spec: MixSpec, exclude: Sequence[Path] = ()) -> None:
        self.spec = spec
        elsewhere = Uids()
        for path in exclude:
            for question in read_questions(path):
                if question.uid not in elsewhere:
                    elsewhere.add(question.uid)
        self._outside: list[Rejection] = []
        self._cells: dict[Cell, list[tuple[int, str, Place]]] = defaultdict(list)
        uids = Uids()
        with tqdm(desc="reading", unit=" questions", delay=2) as progress:
            for question, place in chain.from_iterable(map(locate_questions, inputs)):
                progress.update()
                uids.add(question.uid)
                rejection = _outside(question, spec, elsewhere)
                if rejection is not None:
                    self._outside.append(rejection)
                else:
                    entry = rank(spec.seed, question.uid), question.uid, place
                    self._cells[spec.cell_of(question)].append(entry)
        self.read = len(uids)
        self.available = {cell: len(entries) for cell, entries in sorted(self._cells.items())}
        self.taken = plan(spec, self.available)
        for entries in self._cells.values():
            entries.sort()

    def questions(self) -> Iterator[Question]:
        """The mix, shuffled by the seed: the same for the same questions and seed, whatever their order and files."""
        chosen = sorted(entry for cell, entries in self._cells.items() for entry in entries[: self.taken[cell]])
        for _, _, place in tqdm(chosen, desc="taking", unit=" questions", delay=2):
            yield question_at(place)

    def rejections(self) -> Iterator[Rejection]:
        """Everything that was not taken, in the order of uids."""
        surplus = []
        for cell, entries in self._cells.items():
            strata = " ".join(f"{name}={stratum}" for name, stratum in zip(self.spec.dimensions, cell, strict=True))
            surplus += [Rejection(uid, NOT_IN_MIX, strata) for _, uid, _ in entries[self.taken[cell] :]]
        yield from sorted(self._outside + surplus)


def takes(question: Question, spec: MixSpec, elsewhere: Uids) -> bool:
    """Whether a mix may take a question at all; whether it does depends on the others.

    Args:
        elsewhere: Questions of the sets that are excluded.
    """
    return _outside(question, spec, elsewhere) is None


def _outside(question: Question, spec: MixSpec, elsewhere: Uids) -> Rejection | None:
    if question.uid in elsewhere:
        return Rejection(question.uid, EXCLUDED, "in a set that was excluded")
    if question.split not in spec.splits:
        return Rejection(question.uid, NOT_IN_MIX, f"split={question.split}")
    window, rate = spec.window, question.pass_rate
    if rate is None:
        return None if window.keep_unknown else Rejection(question.uid, PASS_RATE_UNKNOWN, "not stated by the source")
    if window.above < rate < window.below:
        return None
    return Rejection(question.uid, PASS_RATE, f"{rate:g} is not over {window.above:g} and under {window.below:g}")


class Mixed(NamedTuple):
    """What became of the questions.

    Attributes:
        read: Questions read.
        taken: Questions in the mix.
        lines: The table of what was wanted, available and taken.
    """

    read: int
    taken: int
    lines: list[Line]


def mix(
    inputs: Sequence[str | Path],
    spec: str | Path,
    output: str | Path | None,
    *,
    exclude: Sequence[str | Path] = (),
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> Mixed:
    """Write the dataset directory of a mix.

    Args:
        inputs: Dataset directories, or JSONL files of canonical questions.
        spec: YAML file (`mix_spec`).
        output: A new dataset directory; None to plan only and write nothing.
        exclude: As `inputs`: what is in these is left out, so that two mixes of the same inputs have nothing in common.
        overwrite: Whether a complete data set that is there is replaced.
        command: What the manifest is to show as the command.

    Raises:
        MixError: The file is not a specification, or cannot be met.
        Locked: Another run is writing to the output.
        FileExistsError: A complete data set is there, and `overwrite` is not set.
        FileNotFoundError, ValueError: An input is no whole dataset directory, or two questions have the same uid.
        OSError: The specification cannot be read, or the output cannot be written.
    """
    wanted, paths = MixSpec.read(spec), [Path(path).absolute() for path in inputs]
    others = [Path(path).absolute() for path in exclude]
    if output is None:
        selection = Selection(paths, wanted, others)
        return Mixed(selection.read, wanted.size, lines(wanted, selection.available, selection.taken))
    with sole_writer(output) as directory:
        check_output(directory, [*paths, *others], overwrite=overwrite)
        read = [fingerprint(path) for path in paths]
        read += [{"excluded": True, **fingerprint(path)} for path in others]
        selection = Selection(paths, wanted, others)
        table_ = lines(wanted, selection.available, selection.taken)
        made_by = {
            "command": list(command),
            "spec": {"sha256": sha256_of(spec), "text": Path(spec).read_text(encoding="utf-8")},
            "input_rows": selection.read,
            "strata": [asdict(line) for line in table_],
        }
        start_anew(directory, overwrite=overwrite)
        write_dataset(directory, selection.questions(), selection.rejections(), made_by, read)
        return Mixed(selection.read, wanted.size, table_)
