"""What the paper-sized sets are made of, as one YAML file says it: `cinema_sets.yaml` beside this module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from cinema_verl.data import sources
from cinema_verl.prepare.mix_spec import MixError, MixSpec

SHIPPED: Final = Path(__file__).with_name("cinema_sets.yaml")
"""The choices of this package, with a reason for each."""
RL: Final = "rl"
COLD_START: Final = "cold_start"
SETS: Final = (RL, COLD_START)
"""In the order in which they are made."""
_KEYS: Final = {"sources", "benchmarks", "val_fraction", "sets"}


class ChoicesError(ValueError):
    """The file of choices cannot be used. The message names the part, and what to change."""


@dataclass(frozen=True, slots=True)
class Download:
    """A source or benchmark that may be there.

    Attributes:
        name: Of its adapter, and of its folder among the downloads.
        get_from: Name of the data set where it is published.
        media: Folders below its own, one of which may hold its images and videos instead.
    """

    name: str
    get_from: str
    media: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choices:
    """A file of choices that has been read.

    Attributes:
        training: In the order of precedence.
        sets: Name -> specification of the mix, as `MixSpec.of` takes it.
        val_fraction: Share of the RL set that is held out.
        text: Of the file, reasons included.
    """

    training: tuple[Download, ...]
    benchmarks: tuple[Download, ...]
    sets: Mapping[str, Mapping[str, Any]]
    val_fraction: float
    text: str

    @classmethod
    def read(cls, path: str | Path = SHIPPED) -> Choices:
        """Read a YAML file.

        Raises:
            ChoicesError: The file is not one of choices.
            OSError: It cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            values = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ChoicesError(f"{path} is not YAML: {error}") from error
        if not isinstance(values, Mapping) or set(values) != _KEYS:
            raise ChoicesError(f"{path} must have exactly {', '.join(sorted(_KEYS))}: begin with a copy of {SHIPPED}")
        sets = values["sets"]
        if not isinstance(sets, Mapping) or set(sets) != set(SETS):
            raise ChoicesError(f"{path}: sets must be {' and '.join(SETS)}")
        for name in SETS:
            try:
                MixSpec.of(sets[name])
            except (MixError, AttributeError, TypeError) as error:
                raise ChoicesError(f"{path}: sets.{name}: {error}") from error
        share = values["val_fraction"]
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ChoicesError(f"{path}: val_fraction is {share!r}: give a number from 0, and under 1")
        return cls(
            _downloads(path, "sources", values["sources"], sources.TRAIN),
            _downloads(path, "benchmarks", values["benchmarks"], sources.BENCHMARK),
            {name: dict(sets[name]) for name in SETS},
            float(share),
            text,
        )

    def resized(self, sizes: Mapping[str, int]) -> Choices:
        """The same with sets of other sizes: shares scale with them."""
        return replace(
            self, sets={name: {**spec, "size": sizes.get(name, spec["size"])} for name, spec in self.sets.items()}
        )


def _downloads(path: str | Path, part: str, values: Any, kind: str) -> tuple[Download, ...]:
    if not isinstance(values, Mapping) or not values:
        raise ChoicesError(f"{path}: {part} must name at least one")
    known = sources.names(kind)
    found = []
    for name, value in values.items():
        if name not in known:
            raise ChoicesError(f"{path}: {part}.{name} is not known; known are {', '.join(known)}")
        if not isinstance(value, Mapping) or set(value) - {"from", "media"} or not isinstance(value.get("from"), str):
            raise ChoicesError(f"{path}: {part}.{name} must be {{from: NAME, media: [FOLDER, …]}}, media may be absent")
        media = value.get("media", [])
        if not isinstance(media, list) or not all(isinstance(item, str) and ".." not in item for item in media):
            raise ChoicesError(f"{path}: {part}.{name}.media must be a list of folders below the download's")
        found.append(Download(name, value["from"], tuple(media)))
    return tuple(found)
