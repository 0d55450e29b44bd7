"""One question through the cold start: drafts, a refinement along the student's path, a second path (paper).

    student drafts -> teacher along the path of the first well-formed draft -> incorrect: RL pool
                                                                            -> correct: retrieve or ask for a second

This module knows nothing of files, HTTP or cost: it asks two models for replies and returns a `QuestionResult`.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from cinema_verl.cold_start.breaker import WHO, Breaker, failures
from cinema_verl.cold_start.requests import COT_PATH, Calls, SamplingSettings, other_paths
from cinema_verl.cold_start.retrieval import Visit, explain, walk
from cinema_verl.cold_start.tree import Path, SampledTrajectory, pattern, read, verdict
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.data.schema import RowError
from cinema_verl.endpoint.ledger import Call
from cinema_verl.endpoint.outcomes import Outcome, Reply

Complete = Callable[[Call, Sequence[ImageRef]], Awaitable[Reply]]
Embed = Callable[[Sequence[SampledTrajectory]], Awaitable[np.ndarray]]

COLD_START: Final = "cold_start"
RL: Final = "rl"
LEFT_OUT: Final = "left_out"
ROUTES: Final = (COLD_START, RL, LEFT_OUT)

REASONS: Final[dict[str, str]] = {
    # cold start
    "two_paths": "two correct trajectories on different paths",
    "single": "one correct trajectory: no second correct path was sampled, nor written when asked for",
    "one_wanted": "one correct trajectory, and no more were asked for",
    # RL pool
    "teacher_wrong": "the teacher followed the path to an incorrect answer",
    # left out, before anything is asked
    "gold_unreadable": "the verifier cannot read the gold answer",
    "bad_row": "the question breaks verl's data contract",
    # left out, after asking
    "student_off_format": "no draft is well formed, so there is no path to follow",
    "teacher_off_path": "no refinement is well formed and follows the path",
    "verifier_abstained": "the judge did not answer; asked again by the next run",
} | {
    f"{who}_{outcome}": f"the {who}'s last reply: {outcome.meaning}"
    for who in ("student", "teacher")
    for outcome in Outcome
    if outcome is not Outcome.OK
}
"""Why a question is on its route."""


@dataclass
class QuestionResult:
    """The result for one question.

    Attributes:
        route, reason: Where the question goes and why: one of `ROUTES`, a key of `REASONS`.
        detail: The reason in words.
        samples: Every whole reply, in the order of asking: the paper's trajectory database.
        draft: Index of the draft whose path the teacher was asked to follow, or None.
        path: The path that the teacher was asked to follow.
        refined, second: Indices of the trajectories chosen for SFT.
        visits: The steps of retrieval, with indices into `samples`.
        calls: (purpose, outcome) -> number of calls.
        prompt_tokens, completion_tokens, cost: Sums over the calls, those of earlier runs included.
        final: Whether another run would find the same. False if an endpoint or the judge did not answer.
    """

    uid: str
    route: str = LEFT_OUT
    reason: str = ""
    detail: str = ""
    samples: list[SampledTrajectory] = field(default_factory=list)
    draft: int | None = None
    path: Path = ()
    refined: int | None = None
    second: int | None = None
    visits: list[Visit] = field(default_factory=list)
    calls: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    final: bool = True

    def end(self, route: str, reason: str, detail: str = "") -> "QuestionResult":
        REASONS[reason]
        self.route, self.reason, self.detail = route, reason, detail or REASONS[reason]
        return self

    def record(self) -> dict[str, Any]:
        """The result as JSON: a line of the provenance file and of the journal."""
        return {
            "uid": self.uid,
            "route": self.route,
            "reason": self.reason,
            "detail": self.detail,
            "path": pattern(self.path),
            "draft": self.draft,
            "refined": self.refined,
            "second": self.second,
            "why_second": explain(self.visits),
            "retrieval": [
                {"sample": visit.index, "similarity": visit.similarity, "verdict": visit.verdict}
                for visit in self.visits
            ],
            "samples": [sample.record() for sample in self.samples],
            "calls": {f"{purpose}/{outcome}": n for (purpose, outcome), n in sorted(self.calls.items())},
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            "final": self.final,
        }


def unusable(question: Question, settings: SamplingSettings) -> tuple[str, str] | None:
    """(reason, detail) if the question cannot be used whatever the models reply; known before anything is paid."""
    if verdict(None, question) is None:
        return "gold_unreadable", f"the rule of {question.answer_type!r} cannot read the gold {question.answer[:200]!r}"
    try:
        question.rl_row(0, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    except (RowError, ValueError) as error:
        return "bad_row", str(error)
    return None


@dataclass(frozen=True)
class Sampler:
    """The procedure, with the models it asks.

    Attributes:
        calls: What is asked.
        student, teacher: `client.Client.complete` of each.
        embed: Usable samples -> unit vectors.
        breaker: Notes how replies end.
    """

    calls: Calls
    student: Complete
    teacher: Complete
    embed: Embed
    breaker: Breaker = field(default_factory=Breaker)

    async def __call__(self, question: Question) -> QuestionResult:
        """Take one question through the procedure. A bad question or reply is a result.

        Raises:
            StopRun: No call can succeed, or nearly all replies fail alike (`breaker.FailingAlike`).
        """
        settings, result = self.calls.settings, QuestionResult(question.uid)
        if problem := await asyncio.to_thread(unusable, question, settings):
            return result.end(LEFT_OUT, *problem)
        if settings.is_cot:
            result.path = COT_PATH
        elif missing := await self._draft(question, result):
            return result.end(LEFT_OUT, *missing)
        if missing := await self._refine(question, result):
            return result.end(LEFT_OUT, *missing)
        assert result.refined is not None
        refined = result.samples[result.refined]
        if refined.correct is None:
            return result.end(LEFT_OUT, "verifier_abstained")
        if not refined.correct:
            return result.end(RL, "teacher_wrong")
        if settings.wanted == 1:
            return result.end(COLD_START, "one_wanted")
        return await self._second(question, result)

    async def _draft(self, question: Question, result: QuestionResult) -> tuple[str, str] | None:
        """Ask the student. Returns reason and detail if no draft shows a path."""
        calls = [self.calls.draft(question, draw) for draw in range(self.calls.settings.drafts)]
        # A call that stops the run does not cancel the others, which are sent already and will be paid.
        ended = await asyncio.gather(*(self.student(call, question.images) for call in calls), return_exceptions=True)
        replies = [_reply(each) for each in ended]
        for call, reply in zip(calls, replies, strict=True):
            await self._take(question, result, call, reply, f"student/{call.draw}")
        result.draft = next((i for i, sample in enumerate(result.samples) if sample.usable), None)
        if result.draft is None:
            return ("student_off_format", "") if result.samples else _missing("student", replies[-1])
        result.path = result.samples[result.draft].path
        return None

    async def _refine(self, question: Question, result: QuestionResult) -> tuple[str, str] | None:
        """Ask the teacher until it follows the path. Returns reason and detail if it never does."""
        written = False
        for draw in range(self.calls.settings.refinements):
            call = self.calls.refine(question, result.path, draw)
            reply = await self.teacher(call, question.images)
            sample = await self._take(question, result, call, reply, f"teacher/{draw}")
            written |= sample is not None
            if sample is not None and sample.usable and sample.path == result.path:
                result.refined = len(result.samples) - 1
                return None
            if not reply.outcome.ledgered:
                break  # the endpoint would answer the same again
        return ("teacher_off_path", "") if written else _missing("teacher", reply)

    async def _second(self, question: Question, result: QuestionResult) -> QuestionResult:
        """Retrieve a second path. If none was sampled, ask the teacher to follow others, one at a time."""
        assert result.refined is not None
        settings = self.calls.settings
        paths = other_paths(result.samples, result.path, len(question.images), question.uid, settings.removed)
        for path in [*paths[: settings.explorations], None]:
            if await self._retrieve(result):
                return result.end(COLD_START, "two_paths")
            if path is not None:
                call = self.calls.explore(question, path)
                reply = await self.teacher(call, question.images)
                await self._take(question, result, call, reply, f"explore/{pattern(path)}")
        return result.end(COLD_START, "single")

    async def _retrieve(self, result: QuestionResult) -> bool:
        """Look for a second path, from the least similar sample upwards. Returns whether there is one."""
        assert result.refined is not None
        usable = [i for i, sample in enumerate(result.samples) if sample.usable]
        database = [result.samples[i] for i in usable]
        if not any(sample.correct and sample.path != result.path for sample in database):
            return False  # known without an embedding
        visits = walk(database, usable.index(result.refined), await self.embed(database))
        result.visits = [Visit(usable[visit.index], visit.similarity, visit.verdict) for visit in visits]
        result.second = result.visits[-1].index
        return True

    async def _take(
        self, question: Question, result: QuestionResult, call: Call, reply: Reply, origin: str
    ) -> SampledTrajectory | None:
        """Count a reply, and read it if it is whole."""
        result.calls[call.purpose, reply.outcome] += 1
        result.prompt_tokens += reply.prompt_tokens
        result.completion_tokens += reply.completion_tokens
        result.cost += reply.cost
        result.final &= reply.outcome.ledgered
        who = WHO.get(call.purpose)
        if reply.outcome is not Outcome.OK:
            if who and reply.outcome is not Outcome.UNAVAILABLE:
                self.breaker.note(who, [str(reply.outcome)], reply.text)
            return None
        settings = self.calls.settings
        declared = settings.student_native_reasoning if who == "student" else settings.teacher_native_reasoning
        # In a thread, because mathematics is compared in another process, and a judge is asked over the network.
        sample = await asyncio.to_thread(
            read, origin, reply.text, question, settings.removed, declared, reply.reasoning
        )
        result.final &= sample.correct is not None  # the gold can be read, so it is the judge that did not answer
        result.samples.append(sample)
        if who:
            path = pattern(result.path) if who == "teacher" else None
            self.breaker.note(who, failures(sample.record(), path), reply.text)
        return sample


def _missing(who: str, reply: Reply) -> tuple[str, str]:
    """(reason, detail) if the last reply has no trajectory. If there was no answer, its text says why."""
    return f"{who}_{reply.outcome}", "" if reply.outcome.ledgered else reply.text


def _reply(ended: Reply | BaseException) -> Reply:
    if isinstance(ended, BaseException):
        raise ended
    return ended
