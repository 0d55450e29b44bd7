"""Names that a run chooses from verl's registries, which verl looks up in its workers, or after the first rollout."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from omegaconf import DictConfig

from cinema_verl.training.estimators import CINEMA_DPS, schemes
from cinema_verl.training.refusal import Refusal, fine_tunes, value_of
from cinema_verl.training.verdict import TRAINERS

_ROLLOUT = "actor_rollout_ref.rollout"


class Choice(NamedTuple):
    """What is chosen, by which key, CINEMA's choices (none: any) and all there are."""

    what: str
    key: str
    cinemas: Collection[str]
    known: Collection[str]


def choices() -> Iterator[Choice]:
    """Every choice of reinforcement learning; verl is imported for it."""
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    yield Choice("trainer", "trainer.v1.trainer_mode", TRAINERS, TRAINER_REGISTRY)
    yield Choice("estimator", "algorithm.adv_estimator", [CINEMA_DPS], {*ADV_ESTIMATOR_REGISTRY, *schemes()})
    yield Choice("agent loop", f"{_ROLLOUT}.agent.default_agent_loop", ["cinema"], _agent_loop_registry)
    yield Choice("rollout", f"{_ROLLOUT}.name", [], {engine for engine, _ in _ROLLOUT_REGISTRY})


def recipes_own() -> Mapping[str, Collection[str]]:
    """By key: names that are registered wherever this package is. To know any other takes verl, and seconds."""
    return {
        "trainer.v1.trainer_mode": TRAINERS,
        "algorithm.adv_estimator": schemes(),
        f"{_ROLLOUT}.agent.default_agent_loop": ("cinema",),
        f"{_ROLLOUT}.name": ("vllm", "transformers"),
    }


def unregistered(config: DictConfig) -> list[Refusal]:
    """Every name of a configuration that verl would not find."""
    if fine_tunes(config) or all(value_of(config, key) in names for key, names in recipes_own().items()):
        return []
    # Code that verl loads in its workers only, which may register names of its own.
    in_workers = value_of(config, "actor_rollout_ref.model.external_lib")
    loops = in_workers or value_of(config, f"{_ROLLOUT}.agent.agent_loop_config_path")
    unknown_here = {"rollout": in_workers, "agent loop": loops}
    found = []
    for choice in choices():
        name = value_of(config, choice.key)
        if name not in choice.known and not unknown_here.get(choice.what):
            advice = f"set one of {', '.join(sorted(map(str, choice.known)))}"
            found.append(Refusal(choice.key, f"{name} is not registered with verl", advice))
    return found
