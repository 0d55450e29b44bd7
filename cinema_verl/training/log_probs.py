"""verl's bypass mode, checked: the log-probabilities of the rollout engine, taken for the actor's where they are equal.

`algorithm.rollout_correction.bypass_mode` spares a forward pass over every step's batch. The engine of this package
runs the actor's own code in the actor's precision, so its numbers are the actor's up to rounding (1e-6); vLLM's are
not. On the first step of a run, of a resumed one too, and on every `CHECK_EVERY`-th the actor computes its own after
all, and verl logs the difference (`training/rollout_probs_diff_*`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from omegaconf import DictConfig

CHECK_EVERY: Final = 20  # our choice: a twentieth of what the bypass spares
LARGEST_GAP: Final = 1e-3  # our choice: rounding in fp32 reaches 1e-5, other weights or tokens 1e-2 and more
GAP: Final = "training/rollout_probs_diff_max"


class EnginesDisagree(RuntimeError):
    """The rollout engine gives other probabilities than the actor, and they are trained with."""


def bypassed(config: DictConfig) -> bool:
    """Whether a run trains with the rollout engine's log-probabilities."""
    return bool((config.algorithm.get("rollout_correction") or {}).get("bypass_mode", False))


@contextmanager
def checked(config: DictConfig, step: int, first: int) -> Iterator[None]:
    """Inside, verl computes the actor's own in the steps that are checked.

    Args:
        config: of the run; changed inside.
        step: the global step.
        first: the global step that the run began with.
    """
    if not bypassed(config) or (step != first and step % CHECK_EVERY):
        yield
        return
    config.algorithm.rollout_correction.bypass_mode = False
    try:
        yield
    finally:
        config.algorithm.rollout_correction.bypass_mode = True


def check_gap(metrics: Mapping[str, float], step: int, config: DictConfig) -> None:
    """Whether a step's largest difference of probabilities is rounding, where it can be no more.

    That is where rollout and actor compute in fp32 and with the same weights; elsewhere it is only logged.

    Args:
        metrics: of the step; in those that are checked verl's `training/rollout_probs_diff_max` is among them.
        step: the global step.
        config: of the run.

    Raises:
        EnginesDisagree: if it is more than `LARGEST_GAP`.
    """
    gap = metrics.get(GAP)
    exact = config.actor_rollout_ref.rollout.dtype == "float32" and config.trainer.v1.trainer_mode == "cinema"
    if bypassed(config) and exact and gap is not None and gap > LARGEST_GAP:
        raise EnginesDisagree(
            f"step {step}: a token's probabilities under the rollout engine and under the actor differ by {gap:.2g}, "
            f"more than {LARGEST_GAP:g}, and algorithm.rollout_correction.bypass_mode=true trains with the engine's. "
            "Set it to false, and report this"
        )
