"""The same results by forks of this process; what dies is done again, and nothing outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from cinema_verl.utils.fork_map import forked


def square(item):
    return {"number": item["number"], "square": item["number"] ** 2, "process": os.getpid()}


def fail(item):
    raise LookupError(f"item {item['number']}")


def die(item, *, traces, times):
    """Kills its worker the first so many times that it gets number 3."""
    if item["number"] == 3 and len(list(traces.iterdir())) < times:
        (traces / str(time.monotonic_ns())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(item)


ITEMS = [{"number": number} for number in range(12)]


def test_without_workers_items_are_done_here_in_their_order():
    results = list(forked(square, ITEMS, workers=0))
    assert [result["square"] for result in results] == [number**2 for number in range(12)]
    assert {result["process"] for result in results} == {os.getpid()}


@pytest.mark.parametrize("items", [[], ITEMS[:1]])
def test_one_item_is_not_worth_a_fork(items):
    assert [result["process"] for result in forked(square, items, workers=2)] == [os.getpid()] * len(items)


@pytest.mark.parametrize("workers", [1, 2, 30])
def test_workers_give_the_same_results(workers):
    results = sorted(forked(square, ITEMS, workers=workers), key=lambda result: result["number"])
    assert [result["square"] for result in results] == [number**2 for number in range(12)]
    assert os.getpid() not in {result["process"] for result in results}
    assert len({result["process"] for result in results}) <= workers


@pytest.fixture
def workers():
    """The processes that were not there when the test began."""
    before = set(psutil.Process().children())
    return lambda: set(psutil.Process().children()) - before


def test_what_the_work_raises_ends_it(workers):
    with pytest.raises(LookupError, match="item 0"):
        list(forked(fail, ITEMS, workers=0))
    with pytest.raises(RuntimeError, match="LookupError: item"):
        list(forked(fail, ITEMS, workers=2))
    assert workers() == set()


@pytest.mark.parametrize("times", [1, 4])
def test_the_item_of_a_worker_that_was_killed_is_done_by_another(tmp_path, times):
    results = list(forked(partial(die, traces=tmp_path, times=times), ITEMS, workers=2))
    assert sorted(result["number"] for result in results) == list(range(12))
    assert len(list(tmp_path.iterdir())) == times


def test_who_stops_asking_leaves_no_process(workers):
    results = forked(square, ITEMS, workers=2)
    next(results)
    assert len(workers()) == 2
    results.close()
    assert workers() == set()


PROGRAM = """
import signal, time
from cinema_verl.utils.fork_map import forked
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
for _ in forked(lambda item: print(flush=True) or time.sleep(600), [{}, {}], workers=2): pass
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(how):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(2):
            process.stdout.readline()
        workers = psutil.Process(process.pid).children()
        process.send_signal(how)
        assert process.wait() != 0
        _, alive = psutil.wait_procs(workers, timeout=30)
    assert len(workers) == 2
    assert alive == []
