"""All questions through the cold start: a bounded number in flight, each result kept the moment it is known.

Kill it and run it again: finished questions are not looked at, finished calls are not made, and what comes out is the
same. Memory does not grow with the number of questions, but for their uids.
"""

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from cinema_verl.cold_start.journal import Journal
from cinema_verl.cold_start.plan import SamplingPlan, share
from cinema_verl.cold_start.retrieval import Encode, Encoder, EncoderError, embed
from cinema_verl.cold_start.sampling import ROUTES, QuestionResult, Sampler
from cinema_verl.cold_start.tree import SampledTrajectory
from cinema_verl.data.canonical import Question
from cinema_verl.endpoint.ledger import Ledger, LedgerError
from cinema_verl.endpoint.paid import PaidClient
from cinema_verl.endpoint.settings import StopRun
from cinema_verl.utils.ray_map import spread

LIVES: Final = 3
"""Times that Ray may begin a worker in a run. Our choice: the first death may be bad luck (a machine that goes, memory
that others took); the third is the questions' doing, or the machine's as a whole."""


def work(plan: SamplingPlan, number: int = 0, encode: Encode | None = None) -> None:
    """One worker's questions, from where it stopped.

    Args:
        encode: Instead of the plan's encoder.

    Raises:
        StopRun: the budget is reached, or an endpoint cannot be used; what was in flight has been finished and kept.
        EncoderError, LedgerError, OSError: before or instead of spending.
    """
    plan, shard = share(plan), plan.shard(number)
    with ExitStack() as files:
        ledger = files.enter_context(Ledger(shard.ledger))
        journal = files.enter_context(closing(Journal(shard.results)))
        mine = (question for question in plan.read() if plan.owner(question.uid) == number)
        todo = (question for question in mine if not journal.done(question.uid))
        first = next(todo, None)
        if first is None:
            return  # nothing to ask: the endpoints need not even be there
        asyncio.run(_work(plan, ledger, journal, chain([first], todo), encode))


async def _work(
    plan: SamplingPlan, ledger: Ledger, journal: Journal, questions: Iterable[Question], encode: Encode | None
) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="encoder") as encoder:

        async def embedded(samples: Sequence[SampledTrajectory]) -> np.ndarray:
            # A question at a time: its vectors do not depend on who else is waiting.
            assert encode is not None
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(encoder, embed, samples, encode, plan.settings.similarity)

        async with (
            PaidClient(plan.student, ledger, plan.budget) as student,
            PaidClient(plan.teacher, ledger, plan.budget) as teacher,
        ):
            if not plan.settings.is_cot:
                await student.check()
            await teacher.check()
            if encode is None and plan.settings.wanted > 1:
                encode = Encoder(plan.encoder)  # takes seconds, and is still before anything is paid
            sampler = Sampler(plan.calls, student.complete, teacher.complete, embedded)
            window = plan.student.concurrency + plan.teacher.concurrency
            await in_flight(sampler, questions, window, lambda result: journal.append(result.record()))


async def in_flight(
    sampler: Callable[[Question], Any],
    questions: Iterable[Question],
    window: int,
    keep: Callable[[QuestionResult], None],
) -> None:
    """Run `sampler` over the questions, at most `window` at a time, and hand each result to `keep` as it comes.

    After an error no question is begun; those in flight go on, for their calls are being paid, and are kept. Then the
    first error is raised.
    """
    pending: set[asyncio.Task[QuestionResult]] = set()
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
    """What became of each question, over all workers."""

    def __init__(self, plan: SamplingPlan) -> None:
        self._plan = plan
        self._journals = [Journal(plan.shard(number).results) for number in range(plan.workers)]

    def get(self, uid: str) -> dict[str, Any] | None:
        """The record of a question, or None if it was not reached."""
        return self._journals[self._plan.owner(uid)].get(uid)

    def __len__(self) -> int:
        return sum(map(len, self._journals))

    def close(self) -> None:
        for journal in self._journals:
            journal.close()


class WorkerFailed(RuntimeError):
    """What a worker needs cannot be used; the message says which ledger, encoder or file, and why."""


@contextmanager
def _alive(lives: Path, number: int) -> Iterator[None]:
    """Ray begins a worker that died anew, for as long as it dies: count, and make an end of it."""
    with open(lives, "ab") as file:
        file.write(b"+")
    try:
        if lives.stat().st_size > LIVES:
            raise StopRun(
                f"worker {number} died {LIVES} times over its questions ({lives.parent}); the others went on. Either "
                "memory ran out: give fewer --workers or a lower concurrency; or a question crashes the encoder or an "
                "image decoder. The same command goes on"
            )
        yield
    finally:
        lives.unlink(missing_ok=True)


def _worker(item: Mapping[str, Any], plan: SamplingPlan) -> dict[str, Any]:
    """A worker's whole life; why it ended early is a result, so that one does not take the others with it."""
    stopped = failed = ""
    try:
        with _alive(plan.shard(item["worker"]).lives, item["worker"]):
            work(plan, item["worker"])
    except StopRun as error:
        stopped = str(error)
    except (EncoderError, LedgerError, OSError) as error:  # through Ray they would come as a traceback
        failed = str(error)
    return {"stopped": stopped, "failed": failed}


def work_all(plan: SamplingPlan) -> list[str]:
    """Every worker's questions: in this process for one worker, by Ray for several or where an address is given.

    Returns:
        Why workers stopped early, each reason once; empty when all questions are done.

    Raises:
        WorkerFailed: a ledger, an encoder or a file cannot be used.
        ClusterFailed: by Ray.
        ValueError: the output was begun with another number of workers.
    """
    plan.settle_workers()
    with watching(plan):
        items = [{"worker": number} for number in range(plan.workers)]
        for number in range(plan.workers):
            plan.shard(number).lives.unlink(missing_ok=True)  # of a run that was killed
        ended = [
            *spread(partial(_worker, plan=plan), items, workers=plan.workers, ray_address=plan.ray_address or None)
        ]
    if failed := sorted({item["failed"] for item in ended} - {""}):
        raise WorkerFailed("; ".join(failed))
    return sorted({item["stopped"] for item in ended} - {""})


@contextmanager
def watching(plan: SamplingPlan) -> Iterator[None]:
    """A progress bar over the workers' results, wherever they run."""
    paths = [plan.shard(number).results for number in range(plan.workers)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()

    def watch(bar: Any) -> None:
        routes: Counter[str] = Counter()
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, "ab+")) for path in paths]
            for file in files:
                file.seek(0)
            ending = False
            while not ending:
                ending = stop.wait(0.5)  # once more after the end: nothing is left unread
                for file in files:
                    while (line := file.readline()).endswith(b"\n"):
                        routes[json.loads(line)["route"]] += 1
                    file.seek(-len(line), os.SEEK_CUR)
                bar.set_postfix({route: routes[route] for route in ROUTES}, refresh=False)
                bar.update(routes.total() - bar.n)

    with tqdm(total=sum(1 for _ in plan.read()), unit="question", desc="cold start") as bar:
        thread = threading.Thread(target=watch, args=(bar,), name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
