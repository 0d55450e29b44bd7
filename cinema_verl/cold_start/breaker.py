"""A circuit breaker: a run whose replies nearly all fail in the same way stops before its money is gone.

A prompt that a model does not follow, a reasoning block where an action was expected, or too few tokens spoil every
reply alike, and each is paid. Single failures are the method's own business: questions are asked again, or left out.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import Any, Final

from cinema_verl.endpoint.outcomes import Outcome
from cinema_verl.endpoint.settings import StopRun
from cinema_verl.utils.native_reasoning import VIOLATION

FIRST: Final = 30
"""Replies of a model after which it is looked at for the first time. Our choice: where every second reply fails in some
way, chance gives 27 of 30 once in 200,000 runs, and 30 replies cost little beside a run."""
WINDOW: Final = 100
"""Replies that are looked at afterwards, always the latest."""
SHARE: Final = 0.9
"""Least share of them that fails in the same way. Our choice: a student that is well formed once in ten replies still
shows a path for every third question of four drafts."""
SHOWN: Final = 600
"""Characters of a reply that are shown."""

OFF_PATH: Final = "off_path"
"""A reply of the teacher that is well formed and follows another path than the one that was asked for."""
TOO_LONG: Final = "too_long"
"""A well-formed reply that is on no tree: `tree.SampledTrajectory.usable`."""

_ADVICE: Final = {
    str(Outcome.TRUNCATED): "give more --{step}-tokens; a model that reasons spends them on its reasoning, too",
    str(
        Outcome.BAD_REQUEST
    ): "the reply names the parameter: --{who}-max-tokens-field, --no-seeds, --{step}-temperature "
    "1 and --{who}-extra-body change what is sent",
    VIOLATION: "the model reasons on its own: --{who}-native-reasoning strip takes that off, and --{who}-extra-body "
    "may turn it off",
}
_THINKS: Final = (
    "where the model reasons in <think> on its own, say --{who}-native-reasoning strip; otherwise look at the prompt "
    "with --dry-run: the model may be too weak for it, or be served with another chat template"
)
_OTHERWISE: Final = (
    "look at the prompt with --dry-run: the model may be too weak for it, or be served with another chat template"
)


WHO: Final = {"draft": "student", "refine": "teacher"}
"""Purpose of a call -> whose replies are looked at. Further paths are tried out, and may fail."""


class FailingAlike(StopRun):
    """Nearly all replies of a model fail in the same way."""


def failures(sample: Mapping[str, Any], path: str | None) -> list[str]:
    """Why a sample cannot be used; empty where it can be.

    Args:
        sample: A sample of a `sampling.QuestionResult.record`.
        path: The pattern that was asked for; None where any will do.
    """
    if sample["violations"]:
        return [*sample["violations"]]
    if not sample["usable"]:
        return [TOO_LONG]
    return [OFF_PATH] if path is not None and sample["pattern"] != path else []


def asked_for(origin: str, record: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """(whose reply it is, the pattern it was asked for); None for further paths, which are tried out and may fail."""
    who = origin.partition("/")[0]
    if who == "student":
        return who, None
    return (who, record["path"]) if who == "teacher" else None


class Breaker:
    """Notes how replies ended. `share` above 1 never stops anything."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._seen: Counter[str] = Counter()
        self._latest: dict[str, deque[frozenset[str]]] = {}
        self._failing: dict[str, Counter[str]] = {}
        self._shown: dict[tuple[str, str], str] = {}  # the latest reply that failed so

    def note(self, who: str, why: Collection[str], reply: str = "") -> None:
        """Count one reply.

        Args:
            who: "student" or "teacher".
            why: Codes of what is wrong with it; empty for a reply that can be used.
            reply: Its text, to be shown.

        Raises:
            FailingAlike: Of the first `FIRST` replies of this model, or of the latest `WINDOW`, at least the share
                fails in the same way.
        """
        latest = self._latest.setdefault(who, deque())
        failing = self._failing.setdefault(who, Counter())
        latest.append(frozenset(why))
        failing.update(latest[-1])
        self._shown.update({(who, code): reply for code in why})
        if len(latest) > WINDOW:
            failing.subtract(latest.popleft())
        self._seen[who] += 1
        if self._seen[who] != FIRST and self._seen[who] < WINDOW:
            return
        for code, number in failing.most_common(1):
            if number >= self._share * len(latest):
                raise FailingAlike(self._said(who, code, number))

    def replay(self, record: Mapping[str, Any]) -> None:
        """Count the replies of an earlier run, so that the same command stops again before it pays.

        Raises:
            FailingAlike: See `note`.
        """
        for sample in record["samples"]:
            if asked := asked_for(sample["origin"], record):
                self.note(asked[0], failures(sample, asked[1]), sample["text"])
        for call, number in record["calls"].items():
            purpose, _, outcome = call.partition("/")
            if purpose in WHO and outcome not in (Outcome.OK, Outcome.UNAVAILABLE):
                for _ in range(number):
                    self.note(WHO[purpose], [outcome])

    def _said(self, who: str, code: str, number: int) -> str:
        reply = self._shown[who, code]
        which = "first" if self._seen[who] == FIRST else "latest"
        thinks = reply.lstrip().startswith("<think>")
        advice = _ADVICE.get(code, _THINKS if thinks else _OTHERWISE)
        advice = advice.format(who=who, step="draft" if who == "student" else who)
        shown = repr(reply[:SHOWN]) + (
            "…" if len(reply) > SHOWN else ""
        )  # repr: a model's control characters stay inert
        return (
            f"{number} of the {which} {len(self._latest[who])} replies of the {who} fail alike: {code}. One of them:\n"
            f"  {shown}\n"
            f"{advice[0].upper()}{advice[1:]}. The ledger keeps every reply: with other settings, those that are asked "
            "for again are not paid again. After a change of the server itself, give another --output. To go on in "
            "spite of it: --failing-alike 2"
        )
