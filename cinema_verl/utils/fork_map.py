"""One function over many items in processes of this machine, which are forks of this one.

They start in milliseconds, with everything that is loaded here, and end with this process, however it ends. The item of
a process that dies is given to a new one, for as long as they die: what must survive a crash, and what kills its
process each time, is the function's business (see `cinema_verl.prepare.shards`). Over several machines: `ray_map`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Final, NamedTuple

Item = Mapping[str, Any]
Work = Callable[[dict[str, Any]], dict[str, Any]]

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_FORK: Final = multiprocessing.get_context("fork")


class _Worker(NamedTuple):
    process: ForkProcess
    channel: Connection


def forked(work: Work, items: Sequence[Item], *, workers: int) -> Iterator[Item]:
    """The results of `work` on each item, in the order in which they are done.

    Args:
        work: Anything that can be called; it is not sent anywhere.
        items: Small mappings, as the results are. They travel by pickle between this process and its own forks.
        workers: Processes; 0 for this one, in the order of the items. One item is not worth a fork.

    Raises:
        RuntimeError: `work` raised in a worker; the message is its traceback. In this process it comes as it is.
        OSError: no process can be made.
    """
    if workers == 0 or len(items) < 2:
        yield from (work(dict(item)) for item in items)
        return
    left = deque(dict(item) for item in items)
    busy: dict[Connection, tuple[_Worker, dict[str, Any]]] = {}
    idle = [_start(work) for _ in range(min(workers, len(items)))]
    try:
        while left or busy:
            while left and idle:
                _give(idle.pop(), left.popleft(), busy)
            for channel in wait(list(busy)):
                assert isinstance(channel, Connection)
                worker, item = busy.pop(channel)
                try:
                    result, failure = channel.recv()
                except (EOFError, OSError):  # it died
                    _end(worker)
                    left.appendleft(item)
                    idle.append(_start(work))
                    continue
                if failure:
                    idle.append(worker)
                    raise RuntimeError(failure)
                idle.append(worker)
                yield result
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            _end(worker)


def _give(worker: _Worker, item: dict[str, Any], busy: dict[Connection, tuple[_Worker, dict[str, Any]]]) -> None:
    with suppress(OSError):  # it died while it had nothing to do: found out at the channel's other end
        worker.channel.send(item)
    busy[worker.channel] = worker, item


def _start(work: Work) -> _Worker:
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=_serve, args=(work, theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()  # so that its death is seen at our end
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.channel.close()


def _serve(work: Work, channel: Connection, parent: int) -> None:
    """In the worker: answer one item after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be said
        return
    while True:
        item = channel.recv()
        try:
            answer = work(item), ""
        except Exception:
            answer = {}, traceback.format_exc()
        channel.send(answer)
