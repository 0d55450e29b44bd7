"""All questions through the cold start: a bounded number in flight, each result kept as soon as it is known.

After a kill, the next run skips finished questions, repeats no finished call, and gives the same output. Memory grows
with the number of questions only by their uids.
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

from cinema_verl.cold_start.breaker import WINDOW, Breaker, FailingAlike
from cinema_verl.cold_start.journal import Journal
from cinema_verl.cold_start.plan import SamplingPlan, Shard, share
from cinema_verl.cold_start.retrieval import Encode, Encoder, EncoderError, embed
from cinema_verl.cold_start.sampling import ROUTES, QuestionResult, Sampler
from cinema_verl.cold_start.tree import SampledTrajectory
from cinema_verl.data.canonical import Question
from cinema_verl.endpoint.ledger import Ledger, LedgerError
from cinema_verl.endpoint.paid import PaidClient
from cinema_verl.endpoint.settings import StopRun
from cinema_verl.utils.ray_map import spread

LIVES: Final = 3
"""Most starts of a worker in a run. Our choice: a first death may be chance (a lost machine, memory that others took);
a third is caused by the questions or by the machine."""


def work(plan: SamplingPlan, number: int = 0, encode: Encode | None = None) -> None:
    """Do one worker's questions that are not done yet.

    Args:
        encode: Used instead of the plan's encoder.

    Raises:
        StopRun: The budget is reached, or an endpoint or the judge cannot be used. Calls in flight have been finished
            and kept.
        EncoderError, LedgerError, OSError: The encoder, the ledger or a file cannot be used.
    """
    plan, shard = share(plan), plan.shard(number)
    with ExitStack() as files:
        ledger = files.enter_context(Ledger(shard.ledger))
        journal = files.enter_context(closing(Journal(shard.results)))
        mine = (question for question in plan.read() if plan.owner(question.uid) == number)
        todo = (question for question in mine if not journal.done(question.uid))
        first = next(todo, None)
        if first is None:
            return  # nothing to ask, so the endpoints need not be running
        asyncio.run(_work(plan, shard, ledger, journal, chain([first], todo), encode))


async def _work(
    plan: SamplingPlan,
    shard: Shard,
    ledger: Ledger,
    journal: Journal,
    questions: Iterable[Question],
    encode: Encode | None,
) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="encoder") as encoder:

        async def embedded(samples: Sequence[SampledTrajectory]) -> np.ndarray:
            # One question at a time, so that its vectors do not depend on other questions.
            assert encode is not None
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(encoder, embed, samples, encode, plan.settings.similarity)

        async with (
            PaidClient(plan.student, ledger, plan.budget) as student,
            PaidClient(plan.teacher, ledger, plan.budget) as teacher,
        ):
            breaker = Breaker(plan.failing_alike)
            for record in journal.latest(WINDOW):  # so that a command in a loop does not pay for thirty more each time
                breaker.replay(record)
            if plan.model_check:
                if not plan.settings.is_cot:
                    await student.check()
                await teacher.check()
            if encode is None and plan.settings.wanted > 1:
                with loading(shard):
                    encode = Encoder(plan.encoder)  # takes seconds, or a download; nothing is paid yet
            sampler = Sampler(plan.calls, student.complete, teacher.complete, embedded, breaker)

            async def one(question: Question) -> QuestionResult:
                try:
                    return await sampler(question)
                except FailingAlike as error:
                    for client in (student, teacher):  # those in flight ask for nothing more
                        client.stop(error)
                    raise

            window = plan.student.concurrency + plan.teacher.concurrency
            await in_flight(one, questions, window, lambda result: journal.append(result.record()))


async def in_flight(
    sampler: Callable[[Question], Any],
    questions: Iterable[Question],
    window: int,
    keep: Callable[[QuestionResult], None],
) -> None:
    """Run `sampler` over the questions, at most `window` at a time, and pass each result to `keep`.

    After an error no further question is begun. Those in flight are finished and kept, because their calls are being
    paid; then the first error is raised.
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
        for task in pending:  # only if this coroutine is cancelled, or a result cannot be kept
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if error:
        raise error


class Results:
    """The results of all workers."""

    def __init__(self, plan: SamplingPlan) -> None:
        self._plan = plan
        self._journals = [Journal(plan.shard(number).results) for number in range(plan.workers)]

    def get(self, uid: str) -> dict[str, Any] | None:
        """The record of a question, or None if no run has reached it."""
        return self._journals[self._plan.owner(uid)].get(uid)

    def __len__(self) -> int:
        return sum(map(len, self._journals))

    def close(self) -> None:
        for journal in self._journals:
            journal.close()


class WorkerFailed(RuntimeError):
    """A ledger, an encoder or a file of a worker cannot be used; the message says which, and why."""


@contextmanager
def _alive(lives: Path, number: int) -> Iterator[None]:
    """Count the starts of a worker and stop after too many, because Ray restarts one that dies without end."""
    with open(lives, "ab") as file:
        file.write(b"+")
    try:
        if lives.stat().st_size > LIVES:
            raise StopRun(
                f"worker {number} died {LIVES} times ({lives.parent}); the others continued. Either memory ran out: "
                "give fewer --workers or a lower concurrency; or a question crashes the encoder or an image decoder. "
                "The same command continues the run"
            )
        yield
    finally:
        lives.unlink(missing_ok=True)


def _worker(item: Mapping[str, Any], plan: SamplingPlan) -> dict[str, Any]:
    """Run one worker. Why it stopped early is returned, so that it does not stop the others."""
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
    """Do all questions: in this process with one worker, under Ray with several or where an address is given.

    Returns:
        Why workers stopped early, each reason once; empty if all questions are done.

    Raises:
        WorkerFailed: A ledger, an encoder or a file cannot be used.
        ClusterFailed: Ray cannot be used.
        ValueError: The output was begun with another number of workers.
    """
    plan.settle_workers()
    with watching(plan):
        items = [{"worker": number} for number in range(plan.workers)]
        for number in range(plan.workers):
            for left in (plan.shard(number).lives, plan.shard(number).loading):  # by a run that was killed
                left.unlink(missing_ok=True)
        ended = [
            *spread(partial(_worker, plan=plan), items, workers=plan.workers, ray_address=plan.ray_address or None)
        ]
    if failed := sorted({item["failed"] for item in ended} - {""}):
        raise WorkerFailed("; ".join(failed))
    return sorted({item["stopped"] for item in ended} - {""})


@contextmanager
def loading(shard: Shard) -> Iterator[None]:
    """Within it the progress bar, which may be another process's, says that the encoder is loading."""
    shard.loading.touch()
    try:
        yield
    finally:
        shard.loading.unlink(missing_ok=True)


@contextmanager
def watching(plan: SamplingPlan) -> Iterator[None]:
    """Show a progress bar over the results of all workers."""
    paths = [plan.shard(number).results for number in range(plan.workers)]
    loads = [plan.shard(number).loading for number in range(plan.workers)]
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
                ending = stop.wait(0.5)  # read once more after the end
                for file in files:
                    while (line := file.readline()).endswith(b"\n"):
                        routes[json.loads(line)["route"]] += 1
                    file.seek(-len(line), os.SEEK_CUR)
                now = f"cold start, loading encoder {plan.encoder}" if any(map(Path.exists, loads)) else "cold start"
                if f"{now}: " != bar.desc:
                    bar.set_description(now)
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
