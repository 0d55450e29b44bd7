"""A finding: one statement about a run or a machine, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from cinema_verl.training.refusal import Refusal


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        where: What was looked at: a process, the recipe, the files, ….
        what: The question.
        ok: True: well. False: the run would fail, or train something else. None: worth knowing, nothing to do.
        detail: What was found.
        advice: What to do; shown unless all is well.
    """

    where: str
    what: str
    ok: bool | None
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {True: "✓", False: "✗", None: "-"}[self.ok]
        advice = f"\n    → {self.advice}" if self.advice and not self.ok else ""
        return f"{mark} {self.what}: {self.detail}{advice}"

    @classmethod
    def of(cls, where: str, refusal: Refusal) -> Finding:
        """A reason for which the run itself would refuse to start."""
        return cls(where, refusal.key, False, refusal.what, refusal.advice)
