"""Ray, started or joined as verl does it, and a worker process on every node of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from omegaconf import OmegaConf

from cinema_verl.checks.finding import Finding
from cinema_verl.checks.process import inspect_process
from cinema_verl.checks.quiet import quiet
from cinema_verl.training.arithmetic import cpus_wanted, gpus_there, gpus_wanted, too_small

WHERE: Final = "Ray"
_SECONDS: Final = 300  # for a worker to start and import verl on a busy node; our choice


@contextmanager
def workers(config: Any, engine: str | None) -> Iterator[Callable[[], list[Finding]]]:
    """Ray, started or joined as `verl.trainer.main_ppo` does it, where a process on every node inspects itself.

    What is yielded waits for them and gives their findings, so that the driver has something to do meanwhile. Ray ends
    with the context. The processes have the environment of Ray and of the recipe; what verl adds to that (log levels,
    NCCL) changes no import.

    Args:
        config: The composed RL configuration; None asks for no GPUs.
        engine: See `inspect_process`.
    """
    kwargs: dict[str, Any] = {}
    if config is not None:
        kwargs = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    try:
        import ray

        with quiet():
            ray.init(
                **{"address": os.environ.get("RAY_ADDRESS", "local"), "include_dashboard": False, **kwargs},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        advice = (
            "`ray stop` ends what an earlier run left, and `ray status` shows whether the cluster of RAY_ADDRESS "
            "answers (unset it to start Ray here); Ray wants a few GB free below /tmp, or "
            "ray_kwargs.ray_init._temp_dir elsewhere; --no-ray leaves Ray out"
        )
        failed = Finding(WHERE, "start", False, f"{type(error).__name__}: {error}", advice)
        yield lambda: [failed]
        return
    try:
        have = ray.cluster_resources()
        room = [] if config is None else resource_findings(config, have)
        asked = list(_asked(engine))
        yield lambda: [*room, *_answers(asked)]
    finally:
        with quiet():
            ray.shutdown()


def _asked(engine: str | None) -> Iterator[tuple[str, Any]]:
    """Of every node that is alive, its name and the findings to come."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for node in (node for node in ray.nodes() if node["Alive"]):
        where = f"Ray worker on {node['NodeManagerHostname']}"
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(inspect_process).options(scheduling_strategy=strategy, num_cpus=0)
        yield where, remote.remote(where, engine)


def _answers(asked: Sequence[tuple[str, Any]]) -> Iterator[Finding]:
    import ray

    for where, answer in asked:
        try:
            yield from ray.get(answer, timeout=_SECONDS)
        except ray.exceptions.GetTimeoutError:
            detail = f"no answer within {_SECONDS} s"
            advice = (
                "see `ray status` and `top` there (a worker imports verl and PyTorch: slow on a busy machine or a "
                "network disk), then try again; --no-ray leaves Ray out"
            )
            yield Finding(where, "worker", False, detail, advice)
        except Exception as error:
            advice = "install cinema-verl there, in the Python that Ray starts workers with"
            yield Finding(where, "worker", False, f"{type(error).__name__}: {error}", advice)


def resource_findings(config: Any, have: Mapping[str, float]) -> list[Finding]:
    """Whether a Ray has what the run holds, as the run itself asks before its workers start.

    Args:
        have: Of all nodes (`ray.cluster_resources`).
    """
    found = [Finding.of(WHERE, refusal) for refusal in too_small(config, have)]
    counts = f"{gpus_there(have):g} GPUs, {have.get('CPU', 0):g} CPUs"
    held = f"verl's processes hold {gpus_wanted(config)} and {cpus_wanted(config)}"
    return found or [Finding(WHERE, "resources", True, f"{counts}; {held}")]
