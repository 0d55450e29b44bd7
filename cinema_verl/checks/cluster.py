"""Ray, started or joined as verl does it, and a worker process on every node of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, Final

from cinema_verl.checks.finding import Finding
from cinema_verl.checks.process import inspect_process
from cinema_verl.checks.quiet import quiet
from cinema_verl.training.arithmetic import cpus_wanted, gpus_wanted, slots_refusal

WHERE: Final = "Ray"
_SECONDS: Final = 300  # for a worker to start and import verl on a busy node; our choice


def inspect_ray(config: Any) -> list[Finding]:
    """Start or join Ray as `verl.trainer.main_ppo` does, and inspect a worker process on every node.

    Args:
        config: The composed RL configuration; None asks for no GPUs.
    """
    import ray
    from omegaconf import OmegaConf
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    kwargs: dict[str, Any] = {}
    if config is not None:
        kwargs = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    runtime_env = {**get_ppo_ray_runtime_env(config), **kwargs.pop("runtime_env", {})}
    with quiet():
        try:
            ray.init(
                **{"address": os.environ.get("RAY_ADDRESS", "local"), "include_dashboard": False, **kwargs},
                runtime_env=runtime_env,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            advice = (
                "`ray stop` ends what an earlier run left, and `ray status` shows whether the cluster of RAY_ADDRESS "
                "answers (unset it to start Ray here); Ray wants a few GB free below /tmp, or "
                "ray_kwargs.ray_init._temp_dir elsewhere; --no-ray leaves Ray out"
            )
            return [Finding(WHERE, "start", False, f"{type(error).__name__}: {error}", advice)]
        try:
            have = ray.cluster_resources()
            findings = [] if config is None else [_gpus(config, have.get("GPU", 0)), _cpus(config, have.get("CPU", 0))]
            engine = None if config is None else config.actor_rollout_ref.rollout.name
            return [*findings, *_inspect_nodes(engine)]
        finally:
            ray.shutdown()


def _inspect_nodes(engine: str | None) -> Iterator[Finding]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for node in (node for node in ray.nodes() if node["Alive"]):
        where = f"Ray worker on {node['NodeManagerHostname']}"
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(inspect_process).options(scheduling_strategy=strategy, num_cpus=0)
        try:
            yield from ray.get(remote.remote(where, engine), timeout=_SECONDS)
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


def _gpus(config: Any, have: float) -> Finding:
    want, train = gpus_wanted(config), config.trainer.n_gpus_per_node * config.trainer.nnodes
    parts = "trainer.n_gpus_per_node × trainer.nnodes"
    if want > train:
        parts += f", and {want - train} of actor_rollout_ref.rollout"
    detail = f"{have:g} in Ray, {want:g} wanted ({parts})"
    advice = "set trainer.n_gpus_per_node and trainer.nnodes to what there is, or RAY_ADDRESS to the cluster"
    return Finding(WHERE, "GPUs", have >= want, detail, advice)


def _cpus(config: Any, have: float) -> Finding:
    refusal = slots_refusal(config, have, "this Ray")
    if refusal is not None:
        return Finding.of(WHERE, refusal)
    return Finding(WHERE, "CPUs", True, f"{have:g} in Ray, {cpus_wanted(config)} held by verl's processes")
