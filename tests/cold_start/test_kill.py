"""kill -9 at random moments: what comes out is what an undisturbed run makes, and no finished call is made twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cinema_verl.cold_start.outputs import LEFT, PROVENANCE, RL_POOL, SFT, SUMMARY
from cinema_verl.cold_start.trees_page import PAGE

# Imports once, then forks a child for each run: what is killed is a process that works, not one that starts.
NURSERY = """
import importlib.util, os, sys
import pandas
import cinema_verl.endpoint.paid
spec = importlib.util.spec_from_file_location("scripted", sys.argv[1])
scripted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scripted)
scripted.pipeline.Encoder = lambda name: scripted.encode
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            os._exit(scripted.command.main(sys.argv[2:]))
        finally:
            os._exit(70)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def contents(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in (SFT, RL_POOL, PROVENANCE, LEFT, SUMMARY, PAGE)}


def ledger(output: Path) -> tuple[Counter[str], Counter[str]]:
    """(finished calls, requests whose fate nobody knows) by their keys."""
    with sqlite3.connect(output / "work" / "0-of-1" / "ledger.sqlite") as db:
        return tuple(
            Counter(dict(db.execute(f"SELECT key, count(*) FROM {table} GROUP BY key")))
            for table in ("replies", "requests")
        )


@contextmanager
def nursery(run, output: Path) -> Iterator[tuple[Callable[[], int], Callable[[], int]]]:
    """(start a run and say its process, wait for its exit code); runs go on where the one before ended."""
    command = [sys.executable, "-c", NURSERY, str(Path(__file__).with_name("conftest.py"))]
    with subprocess.Popen(
        [*command, *run.arguments(output=output)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip

        def start() -> int:
            print("go", file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield start, lambda: int(process.stdout.readline())


# What is left to do takes longer than a busy machine may take to kill: by latency, or by the number of questions.
@pytest.mark.parametrize(
    ("kills", "questions", "latency"), [(3, 40, 0.2), pytest.param(50, 300, 0.01, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(endpoints, tmp_path, kills, questions, latency):
    quiet = endpoints(questions)
    assert quiet.run() == 0
    run = endpoints(quiet.questions, latency=latency)
    output, rng = tmp_path / "killed", random.Random(kills)
    # By progress, so that a fast machine and a slow one see the same number of kills at work.
    moments = sorted(rng.uniform(0, 0.8 * quiet.paid[0]) for _ in range(kills))
    with nursery(run, output) as (start, ended):
        for moment in moments:
            child = start()
            while run.paid[1] < moment:
                os.kill(child, 0)  # raises when the run has ended
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert ended() == -signal.SIGKILL  # killed at work, not come to its end
    assert run.run(output=output) == 0
    assert contents(output) == contents(quiet.output)
    finished, unknown = ledger(output)
    paid, requests = run.student.paid + run.teacher.paid, run.student.requests + run.teacher.requests
    once = Counter(dict.fromkeys(finished, 1))
    assert finished == once
    assert set(finished) == set(paid) == set(quiet.student.paid + quiet.teacher.paid)
    # A call was asked again only if it was on its way when the process died, and then the ledger says so.
    assert requests - once <= unknown
    assert unknown.total() <= 32 * kills  # no more than can be on their way at a time


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_ends_in_order_and_goes_on(endpoints, tmp_path, how):
    quiet = endpoints(40)
    assert quiet.run() == 0
    run = endpoints(quiet.questions)
    run.teacher.latency = 2.0  # longer than a busy machine takes to interrupt
    with nursery(run, tmp_path / "b") as (start, ended):
        child = start()
        while run.student.stats()["paid"] < 80:  # of 160 drafts
            os.kill(child, 0)
            time.sleep(0.002)
        os.kill(child, how)
        assert ended() == 1
    run.teacher.latency = 0.0
    assert run.run(output=tmp_path / "b") == 0
    assert contents(tmp_path / "b") == contents(quiet.output)
