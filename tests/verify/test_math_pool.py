"""Worker processes: what hangs, crashes or is killed costs one answer, and nothing is left behind."""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cinema_verl.verify import decide, math_pool
from cinema_verl.verify.math_pool import EQUIVALENT, MathPool
from cinema_verl.verify.verdict import DIFFERENT, TIMEOUT, WALL_CLOCK

BOMB = "9^{9^{9^{9}}}+x"


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    pool = MathPool(workers=4, cpu_seconds=0.5, wall_seconds=10.0)
    yield pool
    pool.close()


def children(pid: int) -> list[int]:
    """The processes below ``pid`` that live."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(") ")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    found, known = [], {pid}
    while new := {child for child, parent in parents.items() if parent in known and child not in known}:
        known |= new
        found += list(new)
    return found


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_verdicts(pool: MathPool) -> None:
    assert pool.ask("x+1", "1+x") == EQUIVALENT
    assert pool.ask("x+1", "x-1") == DIFFERENT
    assert pool.ask(r"\frac{", "x") is None
    assert pool.ask("\ud800", "x") is None
    assert pool.ask(r"10^{-20}\pi", r"10^{-21}\pi") == DIFFERENT, "both are zero to fifteen places"


def test_relations_to_zero_are_multiples_of_each_other(pool: MathPool) -> None:
    assert pool.ask("2x-6=0", "x-3=0") == EQUIVALENT
    assert pool.ask("6-2x=0", "x-3=0") == EQUIVALENT
    assert pool.ask("2x-6<0", "x-3<0") == EQUIVALENT
    assert pool.ask("6-2x<0", "x-3<0") == DIFFERENT, "the other direction"
    assert pool.ask("(x-3)^2=0", "x-3=0") == DIFFERENT
    assert pool.ask("x-x=0", "x-3=0") == DIFFERENT


def test_a_letter_at_the_end_is_no_unit_and_a_division_by_zero_no_value(pool: MathPool) -> None:
    assert pool.ask("2ab", "2ba") == EQUIVALENT
    assert pool.ask("2m", "2") == DIFFERENT
    verdict = pool.ask(r"\frac{1}{0}x", r"\frac{2}{0}x")
    assert verdict is None or verdict == DIFFERENT


@pytest.mark.parametrize("bomb", [BOMB, "{" * 5000 + "x" + "}" * 5000, r"\sqrt{" * 100 + "x" + "}" * 100])
def test_a_bomb_costs_its_own_answer_only(pool: MathPool, bomb: str) -> None:
    start = time.monotonic()
    verdict = pool.ask(bomb, "x")
    assert verdict in (TIMEOUT, DIFFERENT, None)
    assert time.monotonic() - start < 60, "it would take years; a busy machine may take a while to stop it"
    assert pool.ask("x+2", "2+x") == EQUIVALENT


def test_the_limit_is_a_time_out_by_name(pool: MathPool) -> None:
    assert pool.ask(BOMB, "x") == TIMEOUT


def test_memory_is_bounded() -> None:
    pool = MathPool(workers=1, cpu_seconds=5.0, memory_bytes=200 << 20)
    try:
        assert pool.ask("x+1", "1+x") == EQUIVALENT
        # 2^(10^10) would be 1.25 GB.
        verdict = pool.ask("2^{10000000000}+x", "x")
        assert verdict is None or not verdict.correct
        assert pool.ask("x+3", "3+x") == EQUIVALENT
    finally:
        pool.close()


def test_others_do_not_wait_for_a_bomb(pool: MathPool) -> None:
    pool.ask("x", "y")
    with ThreadPoolExecutor(4) as threads:
        bombs = [threads.submit(pool.ask, BOMB, "x") for _ in range(2)]
        done_before = 0
        for i in range(20):
            assert pool.ask(f"x+{i}", f"{i}+x") == EQUIVALENT
            done_before += not all(bomb.done() for bomb in bombs)
        assert [bomb.result() for bomb in bombs] == [TIMEOUT, TIMEOUT]
    assert done_before > 0


def test_the_limit_is_the_reason_though_the_clock_is_behind_the_kernels_timer(
    pool: MathPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = math_pool._Worker._cpu_seconds
    monkeypatch.setattr(math_pool._Worker, "_cpu_seconds", lambda worker: 0.5 * exact(worker))
    assert pool.ask(BOMB, "x") == TIMEOUT


def test_a_killed_worker_costs_nothing(pool: MathPool) -> None:
    assert pool.ask("x+1", "1+x") == EQUIVALENT
    assert pool._process is not None
    for pid in children(pool._process.pid):
        with contextlib.suppress(ProcessLookupError):  # one that stepped aside ends by itself
            os.kill(pid, signal.SIGKILL)
    assert pool.ask("x+4", "4+x") == EQUIVALENT


def test_the_process_that_forks_may_die_too(pool: MathPool) -> None:
    assert pool.ask("x+1", "1+x") == EQUIVALENT
    assert pool._process is not None
    first, workers = pool._process.pid, children(pool._process.pid)
    for pid in [first, *workers]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert pool.ask("x+5", "5+x") == EQUIVALENT
    assert pool._process.pid != first


def test_any_thread_may_ask(pool: MathPool) -> None:
    """Twenty threads, four workers."""

    def ask(i: int) -> bool:
        verdict = pool.ask(f"x+{i}", f"{i % 7}+x")
        assert verdict is not None
        return verdict.correct is True

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(ask, range(60))) == [i == i % 7 for i in range(60)]


def test_the_wall_clock_is_the_last_resort(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that gets no CPU time, by which the kernel would limit it: stopped here by a signal."""
    pool = MathPool(workers=1, cpu_seconds=5.0, wall_seconds=0.5)
    try:
        assert pool.ask("x+1", "1+x") == EQUIVALENT
        worker = pool._idle[0].pid
        os.kill(worker, signal.SIGSTOP)
        assert pool.ask("x+2", "2+x") == WALL_CLOCK
        assert WALL_CLOCK.reason != TIMEOUT.reason
        assert "wall clock" in caplog.text
        assert "overloaded" in caplog.text
        assert gone([worker], seconds=20), "it is not left behind"
        assert pool.ask("x+2", "2+x") == EQUIVALENT, "and is no verdict on the answer"
    finally:
        pool.close()


def test_a_slow_machine_changes_no_verdict() -> None:
    """A worker that is stopped again and again takes long and little CPU time: its answer is judged all the same."""
    pool = MathPool(workers=1, cpu_seconds=0.5)
    try:
        assert pool.ask("x+1", "1+x") == EQUIVALENT
        worker = pool._idle[0].pid
        os.kill(worker, signal.SIGSTOP)
        wake = threading.Timer(1.5, os.kill, (worker, signal.SIGCONT))
        wake.start()
        assert pool.ask("x+2", "2+x") == EQUIVALENT, "three times its CPU limit, on the wall clock"
        wake.join()
    finally:
        pool.close()


def test_what_takes_long_steps_aside(pool: MathPool) -> None:
    assert pool.ask("x+1", "1+x") == EQUIVALENT
    assert pool._process is not None
    asked = threading.Thread(target=pool.ask, args=(BOMB, "x"))
    asked.start()
    seen: set[int] = set()
    while asked.is_alive():
        for pid in children(pool._process.pid):
            with contextlib.suppress(OSError):
                seen.add(os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0))
    asked.join()
    assert max(seen) > 0


# ---- whose turn it is ----------------------------------------------------------------------------------------------


def test_turns_are_served_in_the_order_of_coming() -> None:
    turns, served, arrived = math_pool._Turns(1), [], []

    def wait(i: int) -> None:
        with turns:
            served.append(i)

    with turns:
        for i in range(32):
            thread = threading.Thread(target=wait, args=(i,))
            thread.start()
            while len(turns._waiting) <= i:  # until it waits
                time.sleep(0.001)
            arrived.append(thread)
    for thread in arrived:
        thread.join()
    assert served == list(range(32))


@pytest.mark.parametrize("count", [1, 3])
def test_nobody_starves_and_no_more_than_the_bound_are_in(count: int) -> None:
    """Greedy threads that come back at once, as those of an executor do; nobody is overtaken more than once a round."""
    turns, lock, inside, most = math_pool._Turns(count), threading.Lock(), 0, 0
    log: list[int] = []
    start = threading.Barrier(12)

    def come(i: int) -> None:
        nonlocal inside, most
        start.wait()
        for _ in range(40):
            with turns:
                with lock:
                    inside += 1
                    most = max(most, inside)
                    log.append(i)
                time.sleep(0.0005)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=come, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= count
    assert sorted(log) == sorted(i for i in range(12) for _ in range(40))
    for i in range(12):  # a semaphore lets one thread run all of its forty first
        at = [place for place, who in enumerate(log) if who == i]
        assert max(b - a for a, b in itertools.pairwise(at)) <= 4 * 12


def test_an_interrupted_wait_passes_its_turn_on() -> None:
    turns = math_pool._Turns(1)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    with turns:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(math_pool.threading, "Event", Interrupted)
            with pytest.raises(KeyboardInterrupt), turns:
                raise AssertionError("not its turn")
        assert not turns._waiting
    with turns:
        pass


def test_what_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(math_pool.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="math-verify"):
        MathPool().ask("x+1", "1+x")


def test_decided_is_remembered_and_a_time_out_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Fake:
        def ask(self, answer: str, gold: str) -> object:
            asked.append(answer)
            return TIMEOUT if answer == "bomb" else EQUIVALENT

    monkeypatch.setattr(math_pool, "_pool", Fake())
    math_pool._decided.cache_clear()
    for _ in range(3):
        assert math_pool.equivalent("fine", "g") == EQUIVALENT
        assert math_pool.equivalent("bomb", "g") == TIMEOUT
    math_pool._decided.cache_clear()
    assert asked == ["fine", "bomb", "bomb", "bomb"]


def test_a_forked_child_has_its_own() -> None:
    assert decide("x+6", "6+x", "latex").correct
    pid = os.fork()
    if pid == 0:
        os._exit(0 if math_pool.equivalent("x+7", "7+x") == EQUIVALENT else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert decide("x+8", "8+x", "latex").correct


LAZY = """
from cinema_verl.verify import math_pool, verify
for answer, gold in [("0.5", "1/2"), ("x", "x"), ("$x$", "x"), ("41", "42"), ("1,200", "1200"), ("17*23", "391")]:
    verify(answer, gold, "latex")
assert math_pool._pool._process is None
assert verify("x+1", "1+x", "latex")
assert math_pool._pool._process is not None
"""


def test_numbers_and_equal_strings_start_no_process(run) -> None:
    result = run("-c", LAZY)
    assert result.returncode == 0, result.stderr


MAIN = """
import sys, threading
print("main runs", flush=True)
import os, time
from cinema_verl.verify import math_pool, verify
answers = []
thread = threading.Thread(target=lambda: answers.append(verify("x+1", "1+x", "latex")))
thread.start(); thread.join()
print(answers[0], math_pool._pool._process.pid, flush=True)
bomb = threading.Thread(target=verify, args=("9^{9^{9^{9}}}+x", "2x", "latex"), daemon=True)
bomb.start(); time.sleep(0.3)
if "die" in sys.argv: os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["die", "exit"])
def test_nothing_is_left_and_main_is_not_imported_again(run, tmp_path: Path, how: str) -> None:
    """By exit and by kill -9, with a bomb going off in both."""
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    result = run(str(script), how)
    assert result.stdout.count("main runs") == 1, "the workers do not import the program that asks"
    assert "True" in result.stdout, result.stderr
    pid = int(result.stdout.split()[-1])
    assert gone([pid, *children(pid)], seconds=20)


def test_threads_of_a_process_without_a_main_thread_loop() -> None:
    """Signal-based time-outs fail here; ours is somebody else's signal."""
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(decide("x+9", "9+x", "latex").correct))
    thread.start()
    thread.join()
    assert verdicts == [True]
