"""`cinema_dps`: the diversity-preserving reward as an advantage estimator in verl's registry.

verl hands an estimator the scalar rewards, the response mask and the group ids, but neither the action patterns nor
the global step, both of which the paper's reward needs. The `cinema` trainer (`cinema_verl.training.trainer`) supplies
them through `feed`; under any other trainer the estimator refuses instead of silently turning into GRPO.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from cinema_verl.diversity import diversity_penalty, normalise
from cinema_verl.training.settings import ESTIMATOR

NAME = ESTIMATOR


@dataclass
class GroupFeed:
    """What the estimator must know about the trajectories of a batch beyond what verl passes.

    Args:
        acc: (B,) R_acc in {0, 1}; 0 for padding rows.
        patterns: (B,) action patterns.
        coefficient: the diversity coefficient at this global step, in [0, 1].
        padding: (B,) bool, rows that verl appended to fill the mini-batch: they belong to no group.
        metrics: filled by the estimator; the trainer logs it.
    """

    acc: Sequence[float]
    patterns: Sequence[str]
    coefficient: float
    padding: np.ndarray
    metrics: dict[str, float] = field(default_factory=dict)


_FEED: ContextVar[GroupFeed | None] = ContextVar("cinema_dps_feed", default=None)


@contextmanager
def feed(groups: GroupFeed) -> Iterator[GroupFeed]:
    """Supply `cinema_dps` with what it needs for every call inside the `with` block."""
    token = _FEED.set(groups)
    try:
        yield groups
    finally:
        _FEED.reset(token)


@register_adv_est(NAME)
def compute_cinema_dps_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Group-relative advantage of the paper's diversity-preserving reward.

    The reward of a row is `token_level_rewards.sum(-1)` (0.5 acc + 0.5 format, plus overlong shaping and KL where the
    recipe has them) minus `coefficient * 0.5 * acc * (N - 1) / (G - 1)`.

    Args:
        token_level_rewards: (B, T) float.
        response_mask: (B, T), 1 on generated tokens.
        index: (B,) group ids (`uid`).
        config: `algorithm`; reads `norm_adv_by_std_in_grpo` (verl's default: True).

    Returns:
        advantages and returns, the same (B, T) float tensor, zero outside the response mask.

    Raises:
        RuntimeError: if no trainer fed the patterns and the step.
        ValueError: if the feed does not match the batch.
    """
    groups = _FEED.get()
    if groups is None:
        raise RuntimeError(
            f"algorithm.adv_estimator={NAME} needs the action patterns and the global step of every batch, and only "
            f"the cinema trainer supplies them: set trainer.v1.trainer_mode=cinema and trainer.use_v1=true (or "
            f"compose with +recipe=cinema), or choose algorithm.adv_estimator=grpo."
        )
    real = ~np.asarray(groups.padding, dtype=bool)
    if not len(index) == len(groups.patterns) == len(groups.acc) == len(real) == len(token_level_rewards):
        raise ValueError(
            f"{NAME} was fed {len(groups.patterns)} patterns, {len(groups.acc)} accuracies and {len(real)} padding "
            f"flags for a batch of {len(token_level_rewards)} rewards"
        )
    by_std = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))

    rewards = token_level_rewards.sum(dim=-1).double().cpu().numpy()[real]
    ids = np.asarray(index, dtype=object)[real]
    acc = np.asarray(groups.acc, dtype=np.float64)[real]
    patterns = np.asarray(groups.patterns, dtype=object)[real]
    penalty = groups.coefficient * diversity_penalty(acc, patterns, ids)

    advantage = np.zeros(len(real))
    advantage[real] = normalise(rewards - penalty, ids, by_std)
    without = normalise(rewards, ids, by_std)
    total = np.abs(advantage[real]).sum()
    groups.metrics["diversity_penalty"] = float(penalty.mean()) if len(penalty) else 0.0
    groups.metrics["diversity_advantage_share"] = (
        float(np.abs(advantage[real] - without).sum() / total) if total > 0 else 0.0
    )

    # Rounding in the float64 means leaves about 1e-17 in groups without any difference: a true zero stays zero.
    column = torch.as_tensor(np.where(np.abs(advantage) < 1e-9, 0.0, advantage), dtype=torch.float32)
    advantages = column.to(token_level_rewards.device).unsqueeze(-1) * response_mask
    return advantages, advantages
