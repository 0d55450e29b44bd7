"""One question through the cold start: drafts, a refinement along the student's path, a second path (paper).

    student drafts -> teacher along the path of the first well-formed draft -> wrong: RL pool
                                                                            -> right: retrieve or ask for a second

Nothing here knows of files, HTTP or money: two models are asked for replies, and a `Result` comes out.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from cinema_verl.cold_start.requests import COT_PATH, Calls, Settings, other_paths
from cinema_verl.cold_start.retrieval import Visit, explain, walk
from cinema_verl.cold_start.tree import Path, Sample, pattern, read, verdict
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.data.schema import RowError
from cinema_verl.endpoint.ledger import LEDGERED, Call, Reply

Complete = Callable[[Call, Sequence[ImageRef]], Awaitable[Reply]]
Embed = Callable[[Sequence[Sample]], Awaitable[np.ndarray]]

COLD_START: Final = "cold_start"
RL: Final = "rl"
LEFT_OUT: Final = "left_out"
ROUTES: Final = (COLD_START, RL, LEFT_OUT)

REASONS: Final[dict[str, str]] = {
    # cold start
    "two_paths": "two right trajectories on different paths",
    "single": "one right trajectory: no second right path was found, nor written when asked for",
    "one_wanted": "one right trajectory, and no more were asked for",
    # RL pool
    "teacher_wrong": "the teacher followed the path to a wrong answer",
    # left out, before anything is asked
    "gold_unreadable": "the verifier cannot read the gold answer",
    "bad_row": "the question breaks verl's data contract",
    # left out, after asking
    "student_off_format": "no draft is well formed, so there is no path to follow",
    "teacher_off_path": "no refinement is well formed and follows the path",
    "verifier_abstained": "the judge could not be asked; asked again by the next run",
} | {
    f"{who}_{outcome}": f"the {who}'s last reply: {meaning}"
    for who in ("student", "teacher")
    for outcome, meaning in {
        "truncated": "cut off at max_tokens",
        "refused": "a refusal",
        "filtered": "stopped by the endpoint's content filter",
        "empty": "no text",
        "image_too_large": "none: an image is over the endpoint's limit",
        "bad_image": "none: an image cannot be read",
        "bad_request": "none: the endpoint will not take the request",
        "unavailable": "none: every attempt failed; asked again by the next run",
    }.items()
}
"""Why a question went where it went."""


@dataclass
class Result:
    """What became of a question.

    Attributes:
        route, reason, detail: Where it goes and why: `ROUTES`, `REASONS`, words for a person.
        samples: Every reply with text, in the order of asking: the trajectory database.
        draft: Index of the draft whose path the teacher followed; None without one.
        path: What the teacher was asked to follow.
        refined, second: Indices of the trajectories chosen for SFT.
        visits: The walk of retrieval; indices into `samples`.
        calls: (purpose, outcome) -> number.
        prompt_tokens, completion_tokens, cost: Sums over the calls, as paid whenever they were paid.
        final: Whether another run would find the same: False where an endpoint or the judge could not be asked.
    """

    uid: str
    route: str = LEFT_OUT
    reason: str = ""
    detail: str = ""
    samples: list[Sample] = field(default_factory=list)
    draft: int | None = None
    path: Path = ()
    refined: int | None = None
    second: int | None = None
    visits: list[Visit] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    final: bool = True

    def end(self, route: str, reason: str, detail: str = "") -> "Result":
        REASONS[reason]
        self.route, self.reason, self.detail = route, reason, detail or REASONS[reason]
        return self

    def record(self) -> dict[str, Any]:
        """As JSON: a line of the provenance file, and of the journal."""
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
            "samples": [
                {
                    "origin": sample.origin,
                    "pattern": pattern(sample.path),
                    "correct": sample.correct,
                    "usable": sample.usable,
                    "violations": list(sample.violations),
                    "text": sample.text,
                }
                for sample in self.samples
            ],
            "calls": {f"{purpose}/{outcome}": n for (purpose, outcome), n in sorted(self.calls.items())},
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            "final": self.final,
        }


def unusable(question: Question, settings: Settings) -> tuple[str, str] | None:
    """(reason, detail) when the question could not be used whatever the models say: known before anything is paid."""
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
    """

    calls: Calls
    student: Complete
    teacher: Complete
    embed: Embed

    async def __call__(self, question: Question) -> Result:
        """Never fails for what a model or a question is like: that is a result. What stops the run passes through."""
        settings, result = self.calls.settings, Result(question.uid)
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

    async def _draft(self, question: Question, result: Result) -> tuple[str, str] | None:
        """Ask the student; returns reason and detail when no draft shows a path."""
        calls = [self.calls.draft(question, draw) for draw in range(self.calls.settings.drafts)]
        # One that stops the run does not take the others with it: they are on their way, and will be paid.
        ended = await asyncio.gather(*(self.student(call, question.images) for call in calls), return_exceptions=True)
        replies = [_reply(each) for each in ended]
        for call, reply in zip(calls, replies, strict=True):
            await self._take(question, result, call, reply, f"student/{call.draw}")
        result.draft = next((i for i, sample in enumerate(result.samples) if sample.usable), None)
        if result.draft is None:
            return ("student_off_format", "") if result.samples else _missing("student", replies[-1])
        result.path = result.samples[result.draft].path
        return None

    async def _refine(self, question: Question, result: Result) -> tuple[str, str] | None:
        """Ask the teacher along the path until it follows; returns reason and detail when it never does."""
        written = False
        for draw in range(self.calls.settings.refinements):
            call = self.calls.refine(question, result.path, draw)
            reply = await self.teacher(call, question.images)
            sample = await self._take(question, result, call, reply, f"teacher/{draw}")
            written |= sample is not None
            if sample is not None and sample.usable and sample.path == result.path:
                result.refined = len(result.samples) - 1
                return None
            if reply.outcome not in LEDGERED:
                break  # the endpoint will say the same again
        return ("teacher_off_path", "") if written else _missing("teacher", reply)

    async def _second(self, question: Question, result: Result) -> Result:
        """Retrieve a second path; where none was sampled, ask along others, one at a time."""
        assert result.refined is not None
        paths = other_paths(result.samples, result.path, len(question.images), question.uid)
        for path in [*paths[: self.calls.settings.explorations], None]:
            if await self._retrieve(result):
                return result.end(COLD_START, "two_paths")
            if path is not None:
                call = self.calls.explore(question, path)
                reply = await self.teacher(call, question.images)
                await self._take(question, result, call, reply, f"explore/{pattern(path)}")
        return result.end(COLD_START, "single")

    async def _retrieve(self, result: Result) -> bool:
        """Walk from the least similar sample up; whether a second path was found."""
        assert result.refined is not None
        usable = [i for i, sample in enumerate(result.samples) if sample.usable]
        database = [result.samples[i] for i in usable]
        if not any(sample.correct and sample.path != result.path for sample in database):
            return False  # known without an embedding
        visits = walk(database, usable.index(result.refined), await self.embed(database))
        result.visits = [Visit(usable[visit.index], visit.similarity, visit.verdict) for visit in visits]
        result.second = result.visits[-1].index
        return True

    async def _take(self, question: Question, result: Result, call: Call, reply: Reply, origin: str) -> Sample | None:
        """Count a reply; read it where it is a whole text."""
        result.calls[call.purpose, reply.outcome] += 1
        result.prompt_tokens += reply.prompt_tokens
        result.completion_tokens += reply.completion_tokens
        result.cost += reply.cost
        result.final &= reply.outcome in LEDGERED
        if reply.outcome != "ok":
            return None
        # In a thread: mathematics is compared in another process, a judge answers over the network.
        sample = await asyncio.to_thread(read, origin, reply.text, question)
        result.final &= sample.correct is not None  # the gold can be read: it is the judge that could not be asked
        result.samples.append(sample)
        return sample


def _missing(who: str, reply: Reply) -> tuple[str, str]:
    """(reason, detail) of a last reply without a trajectory: where nothing was answered, its text says why."""
    return f"{who}_{reply.outcome}", "" if reply.outcome in LEDGERED else reply.text


def _reply(ended: Reply | BaseException) -> Reply:
    if isinstance(ended, BaseException):
        raise ended
    return ended
