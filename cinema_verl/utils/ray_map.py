"""One function over many items: in this process, or by Ray Data over a machine or a cluster.

Ray Data schedules, repeats the tasks of workers that die for as long as they do, and streams small results back as they
come. What must survive a crash, and what kills its worker each time, is the function's business: it leaves its work on
disk (see `cinema_verl.prepare.shards`), because a dataset of Ray's is gone with its driver.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

Item = Mapping[str, Any]
Work = Callable[[dict[str, Any]], dict[str, Any]]

_MOST_BLOCKS: Final = 4096
"""Tasks that the items are spread over. One each is best, because a task's results come when it ends; Ray needs some
10 ms of the driver and some kB of memory a task, so not without bound. Our choice."""
_RESULT_BYTES: Final = 1 << 20
"""What a task's results may take. Ray Data holds tasks back until the object store has room for theirs, and its own
guess of 128 MiB makes the first ones run one after the other."""
_KNOCK_SECONDS: Final = 10  # our choice: a machine of one's own network answers in less
_OBJECT_STORE_BYTES: Final = 128 << 20  # items and results are small; our choice


class ClusterFailed(RuntimeError):
    """Ray could not go on: it could not be reached or started, or what it runs on is gone."""


def spread(work: Work, items: Sequence[Item], *, workers: int, ray_address: str | None = None) -> Iterator[Item]:
    """The results of `work` on each item, in the order in which they are done.

    Args:
        work: A module's function or a `functools.partial` of one. What it raises ends the iteration.
        items: Small mappings, as the results are: numbers, text, lists of them.
        workers: Processes; 0 for this one, in the order of the items. With `ray_address`, 0 means all of the cluster.
        ray_address: Of a running cluster, whose machines see the same files under the same paths. A process that is
            connected to Ray already works there, wherever that is.

    Raises:
        ClusterFailed: see there.
        RuntimeError: `work` raised in a worker; the message is its traceback. In this process it comes as it is.
    """
    if ray_address is None and (workers == 0 or len(items) < 2):
        yield from (work(dict(item)) for item in items)
        return
    if not items:
        return
    with _ray(workers, ray_address) as parallel:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.target_max_block_size = _RESULT_BYTES
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it tells of plans, and of what is raised here
        dataset = ray.data.from_items([dict(item) for item in items], override_num_blocks=min(len(items), _MOST_BLOCKS))
        mapped = dataset.map(work, num_cpus=1, compute=ray.data.TaskPoolStrategy(size=parallel))
        try:
            yield from mapped.iter_rows()
        except ray.exceptions.RayTaskError as error:
            raise RuntimeError(str(error)) from None
        except ray.exceptions.RayError as error:
            raise ClusterFailed(str(error).strip().splitlines()[0]) from error


@contextmanager
def _ray(workers: int, address: str | None) -> Iterator[int]:
    """A connection to Ray for as long as the block lasts, and how many tasks may run at a time."""
    import ray

    if address is not None:
        _knock(address)
    if ray.is_initialized():
        yield workers or _processors()
        return
    options: dict[str, Any] = {"address": address, "logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        # Not what RAY_ADDRESS says: nobody's training cluster is used unasked.
        options |= {
            "address": "local",
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterFailed(f"Ray does not start: {error}") from error
    try:
        yield workers or _processors()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself waits a minute for a cluster that is not there, and then does not say so."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterFailed(f"no Ray at {address} ({error}): give HOST:PORT of a running cluster's head") from error


def _processors() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
