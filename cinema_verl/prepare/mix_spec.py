"""What a mix should look like, as a small YAML file says it: `data_preprocess/mix_example.yaml` shows all of it.

    size: 58000                     questions in the mix
    seed: 0                         another seed takes other questions for the same table
    splits: [train]                 which questions may be taken at all (default: all)
    pass_rate_window: {above: 0.0, below: 1.0, unknown: keep}
    source:     {virl39k: 0.4, m4_instruct: {at_most: 0.2}}
    num_images: {"1": 0.2, "2-4": 0.5, "5+": {at_least: 5000}}

Under each of the dimensions (`DIMENSIONS`) stand strata. A number with a point is a share of the size, a whole number
is a count; ``at_most`` and ``at_least`` are bounds that hold, the rest are targets. Strata without a target, and all
that is not named, share what the targets leave.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import yaml

from cinema_verl.data.canonical import SPLITS, Question
from cinema_verl.data.schema import MODALITIES
from cinema_verl.verify import answer_types

DIMENSIONS: Final = ("source", "modality", "answer_type", "num_images", "pass_rate")
OTHER: Final = "(other)"
UNKNOWN: Final = "unknown"
_RANGE: Final = re.compile(r"(?P<low>\d+(?:\.\d+)?)(?:-(?P<high>\d+(?:\.\d+)?)|(?P<open>\+))?")


class MixError(ValueError):
    """A mix cannot be made. The message names the part of the specification, why, and what to change."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """One stratum of a dimension.

    Attributes:
        target: Questions wanted; None where only bounds are given.
        at_least, at_most: Questions.
    """

    name: str
    target: float | None = None
    at_least: int = 0
    at_most: float = math.inf


@dataclass(frozen=True, slots=True)
class Window:
    """Pass rates that are let into the mix: over `above` and under `below`, and with `keep_unknown` unknown ones."""

    above: float = -math.inf
    below: float = math.inf
    keep_unknown: bool = True


@dataclass(frozen=True, slots=True)
class MixSpec:
    """A specification that has been read and does not contradict itself."""

    size: int
    seed: int
    window: Window
    dimensions: Mapping[str, tuple[Stratum, ...]]
    splits: tuple[str, ...] = SPLITS

    @classmethod
    def read(cls, path: str | Path) -> MixSpec:
        """Read a YAML file.

        Raises:
            MixError: the file is not a specification, or cannot be read.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MixError(
                f"--spec {path}: there is no such file. Begin with a copy of data_preprocess/mix_example.yaml, which "
                "explains each key; the least is `size: 1000`"
            ) from error
        except OSError as error:
            raise MixError(f"--spec {path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MixError(f"{path} is not YAML: {error}") from error
        if not isinstance(values, Mapping):
            raise MixError(f"{path} is not a mapping of size, seed and dimensions")
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> MixSpec:
        """The same from a mapping.

        Raises:
            MixError: an unknown key, a value of another kind, or targets that no data could meet.
        """
        known = ("size", "seed", "splits", "pass_rate_window", *DIMENSIONS)
        if unknown := sorted(set(map(str, values)) - set(known)):
            raise MixError(f"unknown keys {', '.join(unknown)}: use {', '.join(known)}")
        size, seed = values.get("size"), values.get("seed", 0)
        if type(size) is not int or size <= 0:
            raise MixError(f"size is {size!r}: give a whole number of questions, at least 1")
        if type(seed) is not int:
            raise MixError(f"seed is {seed!r}: give a whole number")
        dimensions = {name: _strata(name, values[name], size) for name in values if name in DIMENSIONS}
        window, splits = _window(values.get("pass_rate_window", {})), _splits(values.get("splits", SPLITS))
        return cls(size, seed, window, dimensions, splits)

    def stratum_of(self, dimension: str, question: Question) -> str:
        """The name of the stratum that a question belongs to, or `OTHER`."""
        names = [stratum.name for stratum in self.dimensions[dimension]]
        if dimension == "num_images":
            return next((name for name in names if _contains(name, len(question.images))), OTHER)
        if dimension == "pass_rate":
            rate = question.pass_rate
            if rate is None:
                return UNKNOWN if UNKNOWN in names else OTHER
            return next((name for name in names if name != UNKNOWN and _contains(name, rate, half_open=True)), OTHER)
        value = getattr(question, dimension)
        if dimension != "source":
            return value if value in names else OTHER
        parents = [name for name in names if value == name or value.startswith(f"{name}/")]
        return max(parents, key=len, default=OTHER)

    def cell_of(self, question: Question) -> tuple[str, ...]:
        """Its stratum in each dimension of the specification, in that order."""
        return tuple(self.stratum_of(dimension, question) for dimension in self.dimensions)


def _splits(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not values or set(map(str, values)) - set(SPLITS):
        raise MixError(f"splits is {values!r}: give a list of {', '.join(SPLITS)}")
    return tuple(map(str, values))


def _window(values: Any) -> Window:
    if not isinstance(values, Mapping) or set(values) - {"above", "below", "unknown"}:
        raise MixError(
            f"pass_rate_window is {values!r}: use {{above: 0.0, below: 1.0, unknown: keep}}, each may be absent"
        )
    unknown = values.get("unknown", "keep")
    if unknown not in ("keep", "drop"):
        raise MixError(f"pass_rate_window.unknown is {unknown!r}: use keep or drop")
    limits = {}
    for name in ("above", "below"):
        if name in values:
            limit = values[name]
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
                raise MixError(f"pass_rate_window.{name} is {limit!r}: give a number from 0 to 1")
            limits[name] = float(limit)
    window = Window(**limits, keep_unknown=unknown == "keep")
    if window.above >= window.below:
        raise MixError(f"pass_rate_window leaves nothing between {window.above} and {window.below}")
    return window


def _strata(dimension: str, values: Any, size: int) -> tuple[Stratum, ...]:
    if not isinstance(values, Mapping) or not values:
        raise MixError(f"{dimension} is {values!r}: give a mapping of strata, for example {{a: 0.5}}")
    strata = tuple(_stratum(f"{dimension}.{name}", str(name), value, size) for name, value in values.items())
    _check_names(dimension, [stratum.name for stratum in strata])
    if (wanted := sum(stratum.target or 0 for stratum in strata)) > size * (1 + 1e-9):
        raise MixError(f"the targets of {dimension} add up to {wanted:,.0f}, more than the size of {size:,}")
    if (least := sum(stratum.at_least for stratum in strata)) > size:
        raise MixError(f"at_least of {dimension} adds up to {least:,}, more than the size of {size:,}")
    return strata


def _stratum(where: str, name: str, value: Any, size: int) -> Stratum:
    if not isinstance(value, Mapping):
        return Stratum(name, target=_questions(where, value, size))
    if not value or set(value) - {"target", "at_least", "at_most"}:
        raise MixError(f"{where} is {value!r}: use target, at_least and at_most")
    given = {key: _questions(f"{where}.{key}", number, size) for key, number in value.items()}
    stratum = Stratum(
        name,
        target=given.get("target"),
        at_least=math.ceil(given.get("at_least", 0) - 1e-9),
        at_most=math.floor(given["at_most"] + 1e-9) if "at_most" in given else math.inf,
    )
    if stratum.at_least > stratum.at_most:
        raise MixError(f"{where}: at_least {stratum.at_least:,} is over at_most {stratum.at_most:,}")
    return stratum


def _questions(where: str, value: Any, size: int) -> float:
    if type(value) is int and value >= 0:
        return value
    if type(value) is float and 0 <= value <= 1:
        return value * size
    raise MixError(f"{where} is {value!r}: give a share (0.0 to 1.0, with a point) or a count (a whole number)")


def _check_names(dimension: str, names: list[str]) -> None:
    if dimension in ("modality", "answer_type"):
        known = MODALITIES if dimension == "modality" else answer_types()
        if unknown := [name for name in names if name not in known]:
            raise MixError(f"{dimension} {unknown[0]!r} does not exist: use {', '.join(known)}")
    if dimension in ("num_images", "pass_rate"):
        ranges = [_range(dimension, name) for name in names if not (dimension == "pass_rate" and name == UNKNOWN)]
        ends = sorted(ranges)
        for (_, high), (low, _) in pairwise(ends):
            if low < high or (dimension == "num_images" and low == high):
                raise MixError(f"ranges of {dimension} overlap: {', '.join(names)}")


def _range(dimension: str, name: str) -> tuple[float, float]:
    match = _RANGE.fullmatch(name)
    if match is None or (dimension == "pass_rate" and not match["high"]) or (dimension == "num_images" and "." in name):
        example = '"1", "2-4", "5+"' if dimension == "num_images" else '"0-0.5", "0.5-1", "unknown"'
        raise MixError(f"{dimension} {name!r} is no range: write {example}")
    low = float(match["low"])
    high = math.inf if match["open"] else float(match["high"] or low)
    if low > high:
        raise MixError(f"{dimension} {name!r} ends before it begins")
    return low, high


def _contains(name: str, value: float, half_open: bool = False) -> bool:
    """Whether a range holds a value; pass rates: its end not included, but for 1."""
    match = _RANGE.fullmatch(name)
    assert match is not None  # `_check_names` has read it
    low = float(match["low"])
    high = math.inf if match["open"] else float(match["high"] or low)
    return low <= value and (value < high or (value == high and (not half_open or high == 1)))
