"""What every verifier takes and gives: a :class:`Gold` to be measured against and a :class:`Verdict`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_CHARS: Final = 10_000
"""Longest answer or gold that is read, in characters. Our choice: an answer is a final answer, not the
reasoning, and the longest golds (OCR of a page) are below this; it bounds every rule's work whatever the
policy writes."""


class Gold(NamedTuple):
    """What a question's answer is measured against. A tuple, because one is made for every trajectory.

    Attributes:
        text: the reference answer as the data has it.
        options: the choices in order, with or without their letters ("red" or "A. red").
        aliases: other answers that are as good, for the types whose rule names them.
        tolerance: the type's slack, in the unit its rule states; None for the type's default.
        question: what was asked, for ``judge``.
    """

    text: str
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    tolerance: float | None = None
    question: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``correct`` is None when the gold cannot be read or the judge cannot be asked; ``reason`` says what decided."""

    correct: bool | None
    reason: str


CORRECT: Final = Verdict(True, "equal")
DIFFERENT: Final = Verdict(False, "different")
UNREADABLE: Final = Verdict(False, "answer not readable")
CONTRADICTORY: Final = Verdict(False, "letter and text disagree")
NO_ANSWER: Final = Verdict(False, "no answer")
TOO_LONG: Final = Verdict(False, "answer too long")
ABSTAIN: Final = Verdict(None, "gold not readable")
TIMEOUT: Final = Verdict(False, "timeout")
WALL_CLOCK: Final = Verdict(False, "timeout (wall clock)")
"""The machine gave the worker no CPU time; says nothing of the answer."""
CRASHED: Final = Verdict(False, "crashed")
TIMED_OUT: Final = frozenset({TIMEOUT.reason, WALL_CLOCK.reason})
"""The reasons that say that a limit was reached before anything was decided."""

Checker = Callable[[str, Gold], Verdict]
"""The rule of one answer type, for str of at most MAX_CHARS. Pure and without exceptions, all but ``judge``."""
