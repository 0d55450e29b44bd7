"""Whether the judge answers, where a run will ask it."""

from __future__ import annotations

import os
from typing import Final

from cinema_verl.checks.finding import Finding
from cinema_verl.checks.survey import Survey
from cinema_verl.verify import judge

JUDGE: Final = "judge"  # the answer type


def inspect_judge(found: Survey | None = None) -> list[Finding]:
    """One call of the judge's endpoint, where rows want it or the environment names one.

    Args:
        found: The rows looked at; None where none were.
    """
    wanted = found is not None and JUDGE in found.answer_types
    if not wanted and not os.environ.get("CINEMA_JUDGE_URL"):
        return []
    try:
        judge.probe(required=wanted)
    except Exception as error:  # whatever keeps it from answering is what is to be said
        advice = "set CINEMA_JUDGE_URL, CINEMA_JUDGE_MODEL and, if it wants one, CINEMA_JUDGE_API_KEY, and see it runs"
        return [Finding(JUDGE, "endpoint", False, f"{type(error).__name__}: {error}", advice)]
    return [Finding(JUDGE, "endpoint", True, "answers, and in one of the two words")]
