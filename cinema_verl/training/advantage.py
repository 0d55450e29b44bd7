"""Schemes of `cinema_verl.training.estimators` as advantage estimators in verl's registry.

verl hands an advantage estimator the scalar rewards, the response mask and the group ids, but neither the action
patterns nor the global step. The `cinema` trainer supplies them through `feed`; under any other trainer a group
estimator refuses instead of silently turning into GRPO.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, register_adv_est

from cinema_verl.diversity import guarded_advantages, normalise
from cinema_verl.training.estimators import CINEMA_DPS, CINEMA_NOVELTY, CINEMA_PASS_AT_4, GROUP, Scheme, schemes

ZERO: Final = 1e-9
"""Rounding in the float64 means leaves about 1e-17 in groups without any difference: a true zero stays zero."""


@dataclass
class GroupFeed:
    """What an estimator must know about the trajectories of a batch beyond what verl passes.

    Attributes:
        acc: (B,) R_acc in {0, 1}; 0 for padding rows.
        patterns: (B,) action patterns.
        coefficient: the diversity coefficient at this global step, in [0, 1].
        guard: one of `cinema_verl.diversity.GUARDS`.
        padding: (B,) bool, rows that verl appended to fill the mini-batch: they belong to no group.
        metrics: filled by the estimator; the trainer logs it.
    """

    acc: Sequence[float]
    patterns: Sequence[str]
    coefficient: float
    padding: np.ndarray
    guard: str = "none"
    metrics: dict[str, float] = field(default_factory=dict)


_FEED: ContextVar[GroupFeed | None] = ContextVar("cinema_group_feed", default=None)


@contextmanager
def feed(fed: GroupFeed) -> Iterator[GroupFeed]:
    """Supply group estimators with what they need for every call inside the `with` block."""
    token = _FEED.set(fed)
    try:
        yield fed
    finally:
        _FEED.reset(token)


@dataclass(frozen=True)
class GroupEstimator:
    """A scheme as verl calls an advantage estimator."""

    scheme: Scheme

    def __call__(
        self,
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: np.ndarray,
        config: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Group-relative advantage of the credited reward.

        Args:
            token_level_rewards: (B, T) float; the reward of a row is its sum (0.5 acc + 0.5 format, plus overlong
                shaping and KL where the recipe has them).
            response_mask: (B, T), 1 on generated tokens.
            index: (B,) group ids (`uid`).
            config: `algorithm`; reads `norm_adv_by_std_in_grpo` (verl's default: True).

        Returns:
            advantages and returns, the same (B, T) float tensor, zero outside the response mask and on padding.

        Raises:
            RuntimeError: if no trainer fed the patterns and the step.
            ValueError: if the feed does not match the batch, a reward or accuracy is not finite, or the scheme does
                not return B finite numbers.
        """
        scheme, fed = self.scheme, self._fed(len(token_level_rewards), len(index))
        real = ~np.asarray(fed.padding, dtype=bool)
        by_std = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))

        rewards = token_level_rewards.sum(dim=-1).double().cpu().numpy()[real]
        ids = np.asarray(index, dtype=object)[real]
        acc = np.asarray(fed.acc, dtype=np.float64)[real]
        patterns = np.asarray(fed.patterns, dtype=object)[real]
        if broken := int((~np.isfinite(rewards) | ~np.isfinite(acc)).sum()):
            raise ValueError(
                f"{broken} of {len(rewards)} trajectories have a reward or an acc that is not finite: "
                "the reward function must return numbers for each"
            )
        credited = np.asarray(scheme.credit(rewards.copy(), acc, patterns, ids, fed.coefficient), dtype=np.float64)
        if credited.shape != rewards.shape or not np.isfinite(credited).all():
            raise ValueError(f"{scheme.name} must return one finite number for each of {len(rewards)} trajectories")

        without = normalise(rewards, ids, by_std)
        changed = (
            guarded_advantages(
                rewards, credited, acc, ids.tolist(), by_std=by_std, guard=fed.guard, coefficient=fed.coefficient
            )
            if scheme.normalise
            else credited
        )
        total = np.abs(changed).sum()
        share = np.abs(changed - without).sum() / total if total else 0.0
        fed.metrics[f"{scheme.term}_advantage_share"] = float(share)
        fed.metrics["groups_without_advantage"] = _groups_without(changed, ids.tolist())
        if scheme.normalise:
            fed.metrics[f"{scheme.term}_penalty"] = float((rewards - credited).mean()) if len(rewards) else 0.0

        column = torch.zeros(len(real), dtype=torch.float32)
        column[torch.as_tensor(real)] = torch.as_tensor(np.where(np.abs(changed) < ZERO, 0.0, changed)).float()
        advantages = column.to(token_level_rewards.device).unsqueeze(-1) * response_mask
        return advantages, advantages

    def _fed(self, rewards: int, ids: int) -> GroupFeed:
        fed = _FEED.get()
        if fed is None:
            raise RuntimeError(
                f"algorithm.adv_estimator={self.scheme.name} needs the action patterns and the step of every batch. "
                f"Only the cinema trainer supplies them: set trainer.v1.trainer_mode=cinema and trainer.use_v1=true "
                f"(or compose with +recipe=cinema), or choose algorithm.adv_estimator=grpo."
            )
        if not rewards == ids == len(fed.patterns) == len(fed.acc) == len(fed.padding):
            raise ValueError(
                f"{self.scheme.name} was fed {len(fed.patterns)} patterns, {len(fed.acc)} accuracies and "
                f"{len(fed.padding)} padding flags for a batch of {rewards} rewards"
            )
        return fed


def _groups_without(advantages: np.ndarray, ids: Sequence[Hashable]) -> float:
    """Share of the groups whose trajectories all have advantage 0: they move nothing."""
    moves: dict[Hashable, bool] = {}
    for group, advantage in zip(ids, advantages, strict=True):
        moves[group] = moves.get(group, False) or bool(abs(advantage) >= ZERO)
    return 1 - sum(moves.values()) / len(moves) if moves else 1.0


def group_estimator(name: str) -> GroupEstimator | None:
    """The group estimator of a name, registered with verl; None where verl has another kind of that name.

    Raises:
        ExtensionError: if an installed package's scheme cannot be used.
        ValueError: if there is no estimator of that name, or verl and a scheme both have it.
    """
    if (scheme := schemes().get(name)) is not None:
        return register_adv_est(name)(GroupEstimator(scheme))
    if name not in ADV_ESTIMATOR_REGISTRY:
        known = ", ".join(sorted({*map(str, ADV_ESTIMATOR_REGISTRY), *schemes()}))
        raise ValueError(
            f"algorithm.adv_estimator={name} is not registered; known are {known}. A scheme of your own comes from an "
            f"entry point of the group {GROUP}, or from a module that VERL_USE_EXTERNAL_MODULES names"
        )
    return None


for _name in (CINEMA_DPS, CINEMA_NOVELTY, CINEMA_PASS_AT_4):
    group_estimator(_name)
