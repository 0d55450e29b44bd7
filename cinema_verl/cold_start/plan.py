"""A run of the cold start: its questions, its endpoints, its files, and which worker has which question.

    OUTPUT/work/0-of-1/ledger.sqlite        every paid call, before its reply is used
    OUTPUT/work/0-of-1/results-ab12….jsonl  the result of each question, under these settings

Runs with other settings have results of their own and share the ledger; another OUTPUT may name the same work. Several
workers divide the questions by their uids, and each has its own ledger and results: SQLite has one writer at a time,
its log cannot be shared between machines, and this way no call waits for another machine.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import cinema_verl
from cinema_verl.cold_start.breaker import SHARE
from cinema_verl.cold_start.requests import Calls, SamplingSettings, policy_messages, teacher_messages
from cinema_verl.cold_start.retrieval import DEFAULT_ENCODER
from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import parts_of, read_questions
from cinema_verl.endpoint.settings import Endpoint
from cinema_verl.utils.files import atomic_write, sha256_of
from cinema_verl.utils.stable_random import stable_hash


@dataclass(frozen=True)
class SamplingPlan:
    """A run of the cold start.

    Attributes:
        questions: A dataset directory or a JSONL file.
        output: Directory of the run, on a file system that all workers share.
        student, teacher: The endpoints. Their limits are those of the whole run.
        settings: What is asked.
        encoder: See `retrieval.Encoder`.
        budget: The most to spend, earlier runs included; None for no limit.
        failing_alike: Share of replies that stops the run when they fail in the same way; see `breaker.Breaker`.
        model_check: Whether each endpoint is asked for its model before the run.
        limit: Number of questions to take from the start; None for all.
        work: Directory of ledgers and results; None for OUTPUT/work. Runs that share one, such as ablations, share what
            is paid.
        workers: Number of processes that divide the questions; more than one run under Ray.
        ray_address: Address of a running cluster; "" for this machine.
    """

    questions: Path
    output: Path
    student: Endpoint
    teacher: Endpoint
    settings: SamplingSettings
    encoder: str = DEFAULT_ENCODER
    budget: float | None = None
    failing_alike: float = SHARE
    model_check: bool = True
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
        """Hex SHA-256 of all that results depend on: questions, settings, prompts, models, encoder, package version."""
        probe = Question("probe", "probe", "0", "train", "none", "multi", "", (), "text", "words")
        identity = {
            "questions": [sha256_of(part) for part in parts_of(self.questions)],
            "settings": asdict(self.settings),
            "words": [policy_messages(probe, self.settings.mode), teacher_messages(probe, (), self.settings)],
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
        results = folder / f"results-{self.fingerprint[:16]}.jsonl"
        return Shard(folder / "ledger.sqlite", results, folder / "lives", folder / "loading")

    def owner(self, uid: str) -> int:
        """Which worker has a question."""
        return stable_hash(uid) % self.workers

    def settle_workers(self) -> None:
        """Keep the number of workers that the work was begun with, because it divides the ledgers.

        Raises:
            ValueError: The plan has another number.
        """
        stamp = self._work / "workers.json"
        if not stamp.exists():
            with atomic_write(stamp) as file:
                json.dump({"workers": self.workers}, file)
        begun_with = json.loads(stamp.read_text())["workers"]
        if begun_with != self.workers:
            raise ValueError(
                f"{self._work} was begun with {begun_with} worker(s), whose ledgers hold the paid calls: continue with "
                f"--workers {begun_with}, or give another --output (or --work)"
            )


@dataclass(frozen=True)
class Shard:
    """A worker's files. `lives` exists while it runs, and has a byte for each time it was started; `loading` while it
    loads the encoder."""

    ledger: Path
    results: Path
    lives: Path
    loading: Path


def share(plan: SamplingPlan) -> SamplingPlan:
    """The plan of one worker, with an equal part of the limits and of the budget."""

    def part(endpoint: Endpoint) -> Endpoint:
        return replace(
            endpoint,
            requests_per_minute=endpoint.requests_per_minute / plan.workers,
            tokens_per_minute=endpoint.tokens_per_minute / plan.workers,
            concurrency=max(1, endpoint.concurrency // plan.workers),
        )

    budget = None if plan.budget is None else plan.budget / plan.workers
    return replace(plan, student=part(plan.student), teacher=part(plan.teacher), budget=budget)
