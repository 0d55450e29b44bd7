"""A run of the cold start: what it reads, whom it asks, where its files are, and which worker has which question.

    OUTPUT/work/0-of-1/ledger.sqlite        every paid call, before anything is made of it
    OUTPUT/work/0-of-1/results-ab12….jsonl  what became of each question, under these very settings

Other settings have results of their own and share the ledger; another OUTPUT may name the same work. Several workers
divide the questions by their uids. Each has its own ledger and results: SQLite takes one writer, its log cannot be
shared between machines, and no call then waits for another machine before it may be used.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import cinema_verl
from cinema_verl.cold_start.requests import Calls, SamplingSettings, policy_messages, teacher_messages
from cinema_verl.cold_start.retrieval import DEFAULT_ENCODER
from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import parts_of, read_questions
from cinema_verl.endpoint.settings import Endpoint
from cinema_verl.utils.files import atomic_write, sha256_of
from cinema_verl.utils.stable_random import stable_hash


@dataclass(frozen=True)
class SamplingPlan:
    """A run.

    Attributes:
        questions: A dataset directory or a JSONL file.
        output: Where everything goes; on a file system that all workers share.
        student, teacher: Who is asked. Limits are the run's, not a worker's.
        settings: What is asked.
        encoder: See `retrieval.Encoder`.
        budget: The most to spend in all, runs before this one included; None for no limit.
        limit: Only the first so many questions; None for all.
        work: Ledgers and results; None for OUTPUT/work. Runs that share one, such as ablations, share what is paid.
        workers: Processes that divide the questions; more than one are Ray's.
        ray_address: Of a running cluster; empty for this machine.
    """

    questions: Path
    output: Path
    student: Endpoint
    teacher: Endpoint
    settings: SamplingSettings
    encoder: str = DEFAULT_ENCODER
    budget: float | None = None
    limit: int | None = None
    work: Path | None = None
    workers: int = 1
    ray_address: str = ""

    def read(self) -> Iterator[Question]:
        """The questions of the run, in order."""
        return islice(read_questions(self.questions), self.limit)

    @property
    def calls(self) -> Calls:
        return Calls(self.settings, self.student.model, self.teacher.model)

    @cached_property
    def fingerprint(self) -> str:
        """Names what results depend on: the questions' bytes, the settings, the words, the models, this package."""
        probe = Question("probe", "probe", "0", "train", "none", "multi", "", (), "text", "words")
        identity = {
            "questions": [sha256_of(part) for part in parts_of(self.questions)],
            "settings": asdict(self.settings),
            "words": [policy_messages(probe, self.settings.mode), teacher_messages(probe, ())],
            "models": [self.student.model, self.teacher.model],
            "encoder": self.encoder,
            "version": cinema_verl.__version__,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def _work(self) -> Path:
        return self.work or self.output / "work"

    def shard(self, number: int) -> "Shard":
        folder = self._work / f"{number}-of-{self.workers}"
        return Shard(folder / "ledger.sqlite", folder / f"results-{self.fingerprint[:16]}.jsonl", folder / "lives")

    def owner(self, uid: str) -> int:
        """Which worker has a question."""
        return stable_hash(uid) % self.workers

    def settle_workers(self) -> None:
        """Hold the number of workers to what the work began with: the ledgers are divided by it.

        Raises:
            ValueError: it is another.
        """
        stamp = self._work / "workers.json"
        if not stamp.exists():
            with atomic_write(stamp) as file:
                json.dump({"workers": self.workers}, file)
        begun_with = json.loads(stamp.read_text())["workers"]
        if begun_with != self.workers:
            raise ValueError(
                f"{self._work} was begun with {begun_with} worker(s), whose ledgers hold the paid calls: go on with "
                f"--workers {begun_with}, or give another --output (or --work)"
            )


@dataclass(frozen=True)
class Shard:
    """A worker's files; `lives` is there while it works, with a byte for each time that it was begun."""

    ledger: Path
    results: Path
    lives: Path


def share(plan: SamplingPlan) -> SamplingPlan:
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
