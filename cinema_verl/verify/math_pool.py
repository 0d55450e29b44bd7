"""Mathematics at arm's length: :func:`equivalent` asks a worker process, and survives whatever happens to it.

Expressions that a policy writes can hang or exhaust whoever evaluates them (``9^{9^{9^{9}}}``), inside one C call
that no exception reaches. So nothing is evaluated here. Every caller has a worker of its own, up to a bound, beyond
which callers are served in the order in which they came. A worker that dies or is killed costs the answer that it was
judging, nothing else: the next caller gets a fork of the process that :mod:`cinema_verl.verify.math_worker` keeps
ready. This process needs no signals, threads or multiprocessing; any thread of it may ask, in a Ray actor too. The
others start with the first question and end with this one, however it ends.

What decides is the worker's CPU time, which the kernel limits, so that a slow machine changes no verdict. The limit on
the wall clock is the last resort against a worker that gets no CPU time at all; it is logged, and its verdict says so.
"""

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from functools import lru_cache
from typing import Final

from cinema_verl.verify.verdict import CRASHED, DIFFERENT, TIMEOUT, WALL_CLOCK, Verdict

CPU_SECONDS: Final = 1.0
"""A worker's CPU time for one answer. Our choice: a hundred times what ordinary answers take."""
WALL_SECONDS: Final = 120.0
"""Wall-clock time after which a worker is given up. Our choice: a hundred and twenty CPU limits, which only a machine
reaches that is many times overloaded."""
COUNTED_SHARE: Final = 0.5
"""Share of the CPU limit from which on the death of a worker is the limit's doing. Our choice: the kernel's timer
counts whole ticks, and on a busy machine it is ahead of the clock that is read here."""
PATIENCE_SECONDS: Final = 0.2
"""CPU time after which a worker gets a lower priority, so that bombs do not slow down ordinary answers, which take a
tenth of it. Such a worker is not asked again: an unprivileged process cannot get its priority back."""
NICENESS: Final = 10
"""By how much. Our choice: a ninth of a process's usual share (sched(7)), so that even beside a busy training run the
CPU limit is reached before the wall-clock limit; at the lowest priority, a seventieth, it was not."""
EXIT_SECONDS: Final = 2.0
"""For how long we wait for the process that forks to end by itself before we kill it."""
MEMORY_BYTES: Final = 1 << 30
"""A worker's address space. Our choice: it starts with less than a tenth of this, and ordinary answers add little."""
WORKERS: Final = min(32, (os.cpu_count() or 1) + 4)
"""Most workers at a time: as many as Python's default thread executor, in which verl calls reward functions, has
threads, so that nobody there waits for somebody else's bomb. They are forks that share their memory, made when
needed."""
START_SECONDS: Final = 120.0
"""For a new worker, which waits for the imports if it is the first, while a training run starts around it."""
CACHED: Final = 4096
"""Decided pairs that are kept, by content. Our choice: some training steps' worth."""

EQUIVALENT: Final = Verdict(True, "equivalent")

_logger = logging.getLogger(__name__)


class _Turns:
    """A semaphore that serves those who wait in the order in which they came.

    ``threading.Semaphore`` lets whoever asks next overtake them: the thread that gave its turn back is running, and
    they have yet to wake up. Here a turn is handed from one to the next.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            self._waiting.append(mine)
        try:
            mine.wait()
        except BaseException:  # Ctrl-C: the turn goes to the next
            with self._lock:
                if not mine.is_set():
                    self._waiting.remove(mine)
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class _Worker:
    """A forked process at the other end of a socket."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.pid = 0  # it says so when it is ready
        self.stepped_aside = False
        self.may_have_used = 0.0
        """Most CPU seconds that the last question can have taken: what was seen, and the time since."""

    def converse(self, line: bytes, seconds: float) -> bytes | None:
        """Send a line and return the line that comes back; None when the worker is gone.

        Raises:
            TimeoutError: the worker was silent for so many seconds.
        """
        deadline, reply = time.monotonic() + seconds, b""
        used, looked = 0.0, time.monotonic()
        try:
            before = self._cpu_seconds()
            self.channel.settimeout(PATIENCE_SECONDS)
            self.channel.sendall(line)
            while not reply.endswith(b"\n"):
                try:
                    part = self.channel.recv(64)
                except TimeoutError:
                    if time.monotonic() >= deadline:
                        raise
                    used, looked = self._cpu_seconds() - before, time.monotonic()
                    if used > PATIENCE_SECONDS and not self.stepped_aside:
                        self._step_aside()
                    continue
                if not part:
                    reply = b""
                    break
                reply += part
        except TimeoutError:
            raise
        except OSError:
            reply = b""
        self.may_have_used = used + time.monotonic() - looked
        return reply or None

    def _cpu_seconds(self) -> float:
        # Linux: the clock that clock_getcpuclockid(3) returns for a process.
        return time.clock_gettime((~self.pid << 3) | 2) if self.pid else 0.0

    def _step_aside(self) -> None:
        """A lower priority, for good: the others' answers, and the training around them, come first."""
        self.stepped_aside = True
        os.setpriority(os.PRIO_PROCESS, self.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS))

    def give_up(self) -> None:
        """Let go of a worker that is gone or silent; it must not stay behind."""
        self.channel.close()
        if self.pid:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


class MathPool:
    """Workers that are forked when needed and kept; see the module for the limits."""

    def __init__(
        self,
        workers: int = WORKERS,
        cpu_seconds: float = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        self._memory_bytes = memory_bytes
        self._turns = _Turns(workers)
        self._idle: list[_Worker] = []  # the one used last is used next: it is warm
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def ask(self, answer: str, gold: str) -> Verdict | None:
        """Whether two expressions are equivalent; None when one of them cannot be read.

        Raises:
            RuntimeError: no worker could be started.
        """
        question = json.dumps([answer, gold]).encode() + b"\n"
        with self._turns:
            # A crash may be somebody else's doing (an out-of-memory killer's): asked once more, of a new worker.
            for worker_from in (self._take, self._fork):
                worker = worker_from()
                try:
                    reply = worker.converse(question, self._wall_seconds)
                except TimeoutError:
                    worker.give_up()
                    _logger.warning(
                        "a math worker got too little CPU time for %.0f s and was given up; the verdict is %r and says "
                        "nothing of the answer: the machine is overloaded",
                        self._wall_seconds,
                        WALL_CLOCK.reason,
                    )
                    return WALL_CLOCK
                if reply is not None:
                    if not worker.stepped_aside:
                        self._idle.append(worker)
                    else:
                        worker.channel.close()  # it ends by itself
                    return {True: EQUIVALENT, False: DIFFERENT, None: None}[json.loads(reply)]
                worker.channel.close()
                if worker.may_have_used >= COUNTED_SHARE * self._cpu_seconds:
                    return TIMEOUT
        return CRASHED

    def _take(self) -> _Worker:
        try:
            return self._idle.pop()
        except IndexError:
            return self._fork()

    def _fork(self) -> _Worker:
        for _ in range(2):  # the second time with a new process, if the first is gone
            ours, theirs = socket.socketpair()
            with theirs:
                process = self._send(theirs)
            worker = _Worker(ours)
            with contextlib.suppress(TimeoutError):
                if hello := worker.converse(b"", START_SECONDS):
                    worker.pid = int(hello)
                    return worker
            ours.close()
            self._give_up(process)
        raise RuntimeError("cannot start a math worker: see its messages on stderr; is math-verify[antlr4_9_3] there?")

    def _send(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        """Have a worker forked at the other end of ``channel``; returns the process that is to do it."""
        with self._starting:
            if self._process is None or self._control is None:
                self._process, self._control = self._start()
            with contextlib.suppress(OSError):  # it is gone, which the caller finds out at the channel's other end
                socket.send_fds(self._control, [b"."], [channel.fileno()])
            return self._process

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        control, theirs = socket.socketpair()
        arguments = [str(value) for value in (os.getpid(), self._cpu_seconds, self._memory_bytes)]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "cinema_verl.verify.math_worker", *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # What we can import, it can; and sets have the same order on every machine.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"},
            )
        return process, control

    def _give_up(self, process: subprocess.Popen[bytes] | None) -> None:
        """End the process that forks, unless somebody else has replaced it meanwhile."""
        with self._starting:
            if process is None or process is not self._process:
                return
            if self._control is not None:
                self._control.close()
            try:
                process.wait(timeout=EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._process = self._control = None

    def close(self) -> None:
        """End the processes. The pool may be used again, and then starts new ones."""
        while self._idle:
            self._idle.pop().channel.close()
        self._give_up(self._process)


_pool = MathPool()
atexit.register(lambda: _pool.close())


def _forget() -> None:
    """In a forked child: the workers are the parent's."""
    global _pool
    _pool = MathPool()


os.register_at_fork(after_in_child=_forget)


class _Undecided(Exception):
    """Carries a verdict out of the cache's reach."""


@lru_cache(maxsize=CACHED)
def _decided(answer: str, gold: str) -> Verdict | None:
    verdict = _pool.ask(answer, gold)
    if verdict in (TIMEOUT, WALL_CLOCK, CRASHED):
        raise _Undecided(verdict)
    return verdict


def equivalent(answer: str, gold: str) -> Verdict | None:
    """math-verify's verdict on two LaTeX expressions; None for no opinion.

    Incorrect with the reason "timeout", "timeout (wall clock)" or "crashed" is what an answer gets that could not be
    judged within the limits.
    Such a verdict is not remembered: it says something of the machine too, so the same answer is asked again.
    """
    try:
        return _decided(answer, gold)
    except _Undecided as undecided:
        return undecided.args[0]
