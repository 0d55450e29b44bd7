"""All questions through the cold start: a bounded number in flight, each result kept the moment it is known.

    OUTPUT/work/0-of-1/ledger.sqlite        every paid call, before anything is made of it
    OUTPUT/work/0-of-1/results-ab12….jsonl  what became of each question, under these very settings
    OUTPUT/sft.parquet, rl.parquet, …       written from the results, in the order of the questions

Kill it and run it again: finished questions are not looked at, finished calls are not made. Other settings have results
of their own and share the ledger. Several workers (Ray) divide the questions by their uids; each has its own ledger and
results, for SQLite takes one writer and its log cannot be shared between machines, and because no call then waits for
another machine before it may be used.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import cinema_verl
from cinema_verl.cold_start.asking import Calls, Settings, policy_messages, teacher_messages
from cinema_verl.cold_start.client import Client, Endpoint, StopRun
from cinema_verl.cold_start.journal import Journal
from cinema_verl.cold_start.ledger import Ledger
from cinema_verl.cold_start.retrieval import Encode, Encoder, embed
from cinema_verl.cold_start.sampling import Result, Sampler
from cinema_verl.cold_start.tree import Sample
from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import parts_of, read_questions
from cinema_verl.files import atomic_write, sha256_of


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        questions: A dataset directory or a JSONL file.
        output: Where everything goes; on a file system that all workers share.
        student, teacher: Who is asked. Limits are the run's, not a worker's.
        settings: What is asked.
        encoder: See `retrieval.Encoder`.
        budget: The most to spend in all, runs before this one included; None for no limit.
        limit: Only the first so many questions; None for all.
        workers: Processes that divide the questions.
        ray_address: Where they run: a cluster's address, or ``local`` for one on this machine.
    """

    questions: Path
    output: Path
    student: Endpoint
    teacher: Endpoint
    settings: Settings = Settings()
    encoder: str = "packaged"
    budget: float | None = None
    limit: int | None = None
    workers: int = 1
    ray_address: str = ""

    def read(self) -> Iterator[Question]:
        """The questions of the run, in order."""
        return islice(read_questions(self.questions), self.limit)

    @property
    def calls(self) -> Calls:
        return Calls(self.settings, self.student.model, self.teacher.model)

    def fingerprint(self) -> str:
        """Names what results depend on: the questions' bytes, the settings, the words, the models, this package."""
        probe = Question("", "", "", "", "", "multi", "", (), "text", "")
        identity = {
            "questions": [sha256_of(part) for part in parts_of(self.questions)],
            "settings": asdict(self.settings),
            "words": [policy_messages(probe, self.settings.prompt), teacher_messages(probe, ())],
            "models": [self.student.model, self.teacher.model],
            "encoder": self.encoder,
            "version": cinema_verl.__version__,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def shard(self, number: int) -> "Shard":
        folder = self.output / "work" / f"{number}-of-{self.workers}"
        return Shard(folder / "ledger.sqlite", folder / f"results-{self.fingerprint()[:16]}.jsonl")

    def owner(self, uid: str) -> int:
        """Which worker has a question."""
        return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % self.workers

    def settle_workers(self) -> None:
        """Hold the number of workers to what this output began with: the ledgers are divided by it.

        Raises:
            ValueError: it is another.
        """
        stamp = self.output / "work" / "workers.json"
        if not stamp.exists():
            with atomic_write(stamp) as file:
                json.dump({"workers": self.workers}, file)
        begun_with = json.loads(stamp.read_text())["workers"]
        if begun_with != self.workers:
            raise ValueError(
                f"{self.output} was begun with {begun_with} worker(s), whose ledgers hold the paid calls: go on with "
                f"--workers {begun_with}, or give another --output"
            )


@dataclass(frozen=True)
class Shard:
    """A worker's files."""

    ledger: Path
    results: Path


def share(plan: Plan) -> Plan:
    """The plan as one of its workers follows it: an equal part of the limits and of the budget."""

    def part(endpoint: Endpoint) -> Endpoint:
        return replace(
            endpoint,
            requests_per_minute=endpoint.requests_per_minute / plan.workers,
            tokens_per_minute=endpoint.tokens_per_minute / plan.workers,
            concurrency=max(1, endpoint.concurrency // plan.workers),
        )

    budget = None if plan.budget is None else plan.budget / plan.workers
    return replace(plan, student=part(plan.student), teacher=part(plan.teacher), budget=budget)


def work(plan: Plan, number: int = 0, encode: Encode | None = None, progress: Callable[[int], Any] = int) -> None:
    """One worker's questions, from where it stopped.

    Args:
        encode: Instead of the plan's encoder.
        progress: Told how many questions are finished, as they are.

    Raises:
        StopRun: the budget is reached, or an endpoint cannot be used; what was in flight has been finished and kept.
        EncoderError, LedgerError, OSError: before or instead of spending.
    """
    plan, shard = share(plan), plan.shard(number)
    if encode is None and plan.settings.wanted > 1:
        encode = Encoder(plan.encoder)  # before anything is paid
    with ExitStack() as files:
        ledger = files.enter_context(Ledger(shard.ledger))
        journal = Journal(shard.results)
        files.callback(journal.close)
        mine = (question for question in plan.read() if plan.owner(question.uid) == number)
        progress(len(journal.done))
        todo = (question for question in mine if question.uid not in journal.done)
        asyncio.run(_work(plan, ledger, journal, todo, encode, progress))


async def _work(
    plan: Plan,
    ledger: Ledger,
    journal: Journal,
    questions: Iterator[Question],
    encode: Encode | None,
    progress: Callable[[int], Any],
) -> None:
    first = next(questions, None)
    if first is None:
        return  # nothing to ask: the endpoints need not even be there
    with ThreadPoolExecutor(1, thread_name_prefix="encoder") as encoder:

        async def embedded(samples: Sequence[Sample]) -> np.ndarray:
            # A question at a time: its vectors do not depend on who else is waiting.
            assert encode is not None
            run = asyncio.get_running_loop().run_in_executor
            return await run(encoder, embed, samples, encode, plan.settings.similarity)

        async with Client(plan.student, ledger, plan.budget) as student:
            async with Client(plan.teacher, ledger, plan.budget) as teacher:
                if not plan.settings.is_cot:
                    await student.check()
                await teacher.check()
                sampler = Sampler(plan.calls, student.complete, teacher.complete, embedded)

                def keep(result: Result) -> None:
                    journal.append(result.record())
                    progress(1)

                window = plan.student.concurrency + plan.teacher.concurrency
                await in_flight(sampler, _chain(first, questions), window, keep)


def _chain(first: Question, rest: Iterator[Question]) -> Iterator[Question]:
    yield first
    yield from rest


async def in_flight(
    sampler: Callable[[Question], Any], questions: Iterable[Question], window: int, keep: Callable[[Result], None]
) -> None:
    """Run `sampler` over the questions, at most `window` at a time, and hand each result to `keep` as it comes.

    After an error no question is begun; those in flight go on, for their calls are being paid, and are kept. Then the
    first error is raised.
    """
    pending: set[asyncio.Task[Result]] = set()
    error: BaseException | None = None

    async def collect(room: int) -> None:
        nonlocal pending, error
        while len(pending) > room:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if failure := task.exception():
                    error = error or failure
                else:
                    keep(task.result())

    try:
        for question in questions:
            pending.add(asyncio.ensure_future(sampler(question)))
            await collect(window - 1)
            if error:
                break
        await collect(0)
    finally:
        for task in pending:  # only when we are cancelled, or could not keep a result
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if error:
        raise error


class Results:
    """What became of each question, over all workers: `get(uid)` gives the record, or None if it was not reached."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._journals = [Journal(plan.shard(number).results) for number in range(plan.workers)]

    def get(self, uid: str) -> dict[str, Any] | None:
        return self._journals[self._plan.owner(uid)].get(uid)

    @property
    def done(self) -> int:
        return sum(len(journal.done) for journal in self._journals)

    def close(self) -> None:
        for journal in self._journals:
            journal.close()


__all__ = ["Plan", "Results", "StopRun", "in_flight", "share", "work"]
