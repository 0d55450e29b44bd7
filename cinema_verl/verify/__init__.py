"""Is this answer correct? One registry, one module per answer type, one rule in each module's docstring.

Every rule reads the gold and the answer and compares what they say. It gives one of three verdicts: correct, incorrect,
or none at all because the *gold* cannot be read, so that a broken row is counted as one and never scored as correct. An
answer that cannot be read is incorrect: whatever a policy writes must be one answer, not a text that contains it.
"""

import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cinema_verl.meta_action import TAGS
from cinema_verl.verify import judge, latex, mcq, mcq_multi, number, ocr, ordering, regression, text, yesno
from cinema_verl.verify.registry import CHECKERS, answer_types, find, register
from cinema_verl.verify.verdict import ABSTAIN, MAX_CHARS, NO_ANSWER, TOO_LONG, UNREADABLE, Checker, Gold, Verdict

__all__ = ["MAX_CHARS", "Checker", "Gold", "Verdict", "answer_types", "decide", "register", "verify"]

CHECKERS.update(
    mcq=mcq.check,
    mcq_multi=mcq_multi.check,
    yesno=yesno.check,
    number=number.check,
    latex=latex.check,
    ordering=ordering.check,
    ocr=ocr.check,
    regression=regression.check,
    text=text.check,
    judge=judge.check,
)

if TYPE_CHECKING:
    ANSWER_TYPES: tuple[str, ...]


def __getattr__(name: str) -> Any:
    """``ANSWER_TYPES``: what `answer_types` says now."""
    if name == "ANSWER_TYPES":
        return answer_types()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def decide(
    answer: str | None,
    gold: str,
    answer_type: str,
    *,
    options: Sequence[str] = (),
    aliases: Sequence[str] = (),
    tolerance: float | None = None,
    question: str = "",
) -> Verdict:
    """:func:`verify` with the reason; same arguments, same errors."""
    checker = CHECKERS.get(answer_type) or find(answer_type) if isinstance(answer_type, str) else None
    if checker is None:
        raise ValueError(f"unknown answer type {answer_type!r}; known: {', '.join(answer_types())}")
    if not isinstance(gold, str):
        raise TypeError(f"gold must be str, got {type(gold).__name__}")
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"answer must be str or None, got {type(answer).__name__}")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be finite and not negative, got {tolerance!r}")
    if len(gold) > MAX_CHARS:
        return ABSTAIN
    slack = None if tolerance is None else float(tolerance)
    reference = Gold(gold, tuple(options), tuple(aliases), slack, question)
    if answer is None or len(answer) > MAX_CHARS:
        # The gold is read all the same: whether a row can be scored does not depend on the answer.
        unscored = NO_ANSWER if answer is None else TOO_LONG
        return ABSTAIN if checker("", reference).correct is None else unscored
    if "<" in answer and any(tag in answer for tags in TAGS.values() for tag in tags):
        # A second try inside the first. What stands around the tag must not be read, not even with a rule's slack.
        return ABSTAIN if checker("", reference).correct is None else UNREADABLE
    return checker(answer, reference)


def verify(
    answer: str | None,
    gold: str,
    answer_type: str,
    *,
    options: Sequence[str] = (),
    aliases: Sequence[str] = (),
    tolerance: float | None = None,
    question: str = "",
) -> bool | None:
    """Whether ``answer`` is correct.

    Args:
        answer: What stands in the answer tags; None (no single answer) is incorrect.
        gold: The reference answer.
        answer_type: One of `answer_types`.
        options: The choices in order, for ``mcq`` and ``mcq_multi``; with or without their letters.
        aliases: Other correct answers, for ``text`` and ``judge``.
        tolerance: Absolute for ``number``, relative to the gold for ``regression`` and ``ocr``; None for the default.
        question: What was asked, for ``judge``; the other rules need no more than the gold.

    Returns:
        True or False; None when the gold cannot be read, whatever the answer, and when ``judge`` cannot be asked.

    Raises:
        ValueError: An unknown answer type (the known ones are listed), or a tolerance that is negative or not finite.
        TypeError: Answer or gold of another type than str.
        RuntimeError: An unknown answer type, and an installed distribution's cannot be loaded (see `registry`).
    """
    return decide(
        answer, gold, answer_type, options=options, aliases=aliases, tolerance=tolerance, question=question
    ).correct


class _Callable(ModuleType):
    """This package as `cinema_verl.verify`, an attribute that is a module whatever was imported before, and a function.

    `from cinema_verl import verify` and `import cinema_verl.verify` give one and the same object.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> bool | None:
        """:func:`verify`."""
        return verify(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
