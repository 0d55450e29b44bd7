"""One self-contained HTML page with a sample of questions, their images and their meta-action trees.

The sample has every route and reason as far as its size allows. Text of models and datasets is escaped.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from cinema_verl.cold_start.sampling import REASONS
from cinema_verl.cold_start.tree import ActionNode, SampledTrajectory, grow
from cinema_verl.data.canonical import Question
from cinema_verl.meta_action import parse
from cinema_verl.utils.files import atomic_write
from cinema_verl.utils.pages import render, thumbnail

PAGE: Final = "trees.html"
SAMPLED: Final = 30  # questions of a page; our choice: one or two MB
_MAX_IMAGES: Final = 16  # shown of one question


@dataclass(frozen=True)
class Entry:
    """A question as the page shows it."""

    question: Question
    record: Mapping[str, Any]

    @property
    def samples(self) -> list[SampledTrajectory]:
        """The record's samples, parsed again; verdicts are the record's, because a judge is not asked twice."""
        return [
            SampledTrajectory(
                each["origin"], each["text"], parse(each["text"]), tuple(each["violations"]), each["correct"]
            )
            for each in self.record["samples"]
        ]

    @property
    def trees(self) -> tuple[ActionNode, ...]:
        return grow(self.samples)

    @property
    def outside(self) -> list[SampledTrajectory]:
        """Samples that are not on a tree."""
        return [sample for sample in self.samples if not sample.usable]

    @property
    def roles(self) -> dict[str, str]:
        """Origin -> role of the sample: "draft", "refined" or "second"."""
        chosen = {name: self.record[name] for name in ("draft", "refined", "second")}
        return {self.record["samples"][index]["origin"]: name for name, index in chosen.items() if index is not None}

    @property
    def thumbnails(self) -> list[str]:
        """``data:`` URIs; "" for an image that cannot be read."""
        return [_thumbnail(image.path) for image in self.question.images[:_MAX_IMAGES]]


def _thumbnail(path: str) -> str:
    try:
        return thumbnail(path)
    except OSError:
        return ""


class Gallery:
    """Collects a sample of questions while the outputs are written, as evenly over the reasons as possible."""

    def __init__(self, size: int = SAMPLED) -> None:
        self._size = size
        self._by_reason: dict[tuple[str, str], list[Entry]] = defaultdict(list)

    def look(self, question: Question, record: Mapping[str, Any]) -> None:
        """Take one question into the sample if there is room for its reason."""
        entries = self._by_reason[record["route"], record["reason"]]
        if len(entries) < self._size:
            entries.append(Entry(question, record))

    @property
    def entries(self) -> list[Entry]:
        """The sample, by route and reason."""
        rounds = zip_longest(*self._by_reason.values())
        taken = [entry for turn in rounds for entry in turn if entry is not None][: self._size]
        return sorted(taken, key=lambda entry: (entry.record["route"], list(REASONS).index(entry.record["reason"])))

    def write(self, output: Path, summary: Mapping[str, Any]) -> Path:
        """Write ``trees.html``."""
        path = output / PAGE
        page = render("trees.html", title="Meta-action trees", entries=self.entries, summary=summary, reasons=REASONS)
        with atomic_write(path) as file:
            file.write(page)
        return path
