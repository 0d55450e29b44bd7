"""What a trajectory is worth in its group: the Diversity-Preserving Strategy's reward, in numpy.

Paper, section on reinforcement learning: for trajectory i of a group of G with N trajectories of i's pattern (i itself
counted) and coefficient c = 0.1,

    R = 0.5 * (R_acc * (R_acc - (N - 1) / (G - 1) * c)) + 0.5 * R_format

so a correct answer found the way everybody found it is worth a little less, and the reward of an incorrect one is not
changed.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def _codes(values: Iterable[Hashable]) -> np.ndarray:
    """Number the distinct values 0, 1, 2 … in order of appearance: (B,) int64."""
    table: dict[Hashable, int] = {}
    return np.fromiter((table.setdefault(value, len(table)) for value in values), dtype=np.int64)


def pattern_counts(patterns: Sequence[str], groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """How common each trajectory's pattern is in its group.

    Args:
        patterns: (B,) strings, one pattern a trajectory ("global>think>answer"; "" for none is a pattern, too).
        groups: (B,) hashable group ids (verl: `uid`), in any order.

    Returns:
        N and G, both (B,) int64: trajectories of the row's group that share its pattern (itself included), and the
        size of the row's group as it is, which is smaller than `rollout.n` where rollouts failed.
    """
    group, pattern = _codes(groups), _codes(patterns)
    if group.shape != pattern.shape:
        raise ValueError(f"{len(patterns)} patterns for {len(groups)} groups: both must have one entry a trajectory")
    if not group.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pair = group.astype(np.int64) * (pattern.max() + 1) + pattern
    _, inverse, count = np.unique(pair, return_inverse=True, return_counts=True)
    return count[inverse], np.bincount(group)[group]


def diversity_penalty(acc: Sequence[float], patterns: Sequence[str], groups: Sequence) -> np.ndarray:
    """What DPS subtracts from each reward at coefficient 1: 0.5 * R_acc * (N - 1) / (G - 1), shape (B,), in [0, 0.5].

    In a group of one no other trajectory has the same pattern: its penalty is 0.
    """
    n, g = pattern_counts(patterns, groups)
    return 0.5 * np.asarray(acc, dtype=np.float64) * (n - 1) / np.maximum(g - 1, 1)


def group_rewards(
    acc: Sequence[float], fmt: Sequence[float], patterns: Sequence[str], groups: Sequence, coefficient: float = 0.1
) -> np.ndarray:
    """The paper's reward R for every trajectory of a batch.

    Args:
        acc: (B,) R_acc, each 0 or 1.
        fmt: (B,) R_format, each 0 or 1.
        patterns: (B,) strings.
        groups: (B,) group ids.
        coefficient: c, in [0, 1]. Paper: 0.1.

    Returns:
        (B,) float64.

    Raises:
        ValueError: if the lengths differ, a reward is not 0 or 1, or the coefficient is outside [0, 1].
    """
    correct = np.asarray(acc, dtype=np.float64)
    well_formed = np.asarray(fmt, dtype=np.float64)
    if not len(correct) == len(well_formed) == len(patterns) == len(groups):
        raise ValueError(
            f"acc, fmt, patterns and groups must have one entry a trajectory, got lengths "
            f"{len(correct)}, {len(well_formed)}, {len(patterns)}, {len(groups)}"
        )
    for name, values in (("acc", correct), ("fmt", well_formed)):
        if not np.isin(values, (0.0, 1.0)).all():
            raise ValueError(f"{name} must be 0 or 1 for every trajectory (the paper's R_acc and R_format)")
    if not 0.0 <= coefficient <= 1.0:
        raise ValueError(f"the diversity coefficient must lie in [0, 1] (the paper's is 0.1), got {coefficient!r}")
    return 0.5 * correct + 0.5 * well_formed - coefficient * diversity_penalty(acc, patterns, groups)


GUARDS = ("none", "leave_out", "floor", "own_scale")
"""What may hold the term back where a group has nothing else to compare: see `guarded_advantages`."""


def guarded_advantages(
    rewards: np.ndarray,
    credited: np.ndarray,
    acc: np.ndarray,
    groups: Sequence,
    *,
    by_std: bool,
    guard: str = "none",
    coefficient: float = 0.1,
) -> np.ndarray:
    """Group-relative advantages of rewards to which a term was added.

    In a group without an accuracy difference the term is all that there is. Divided by its own deviation it gets full
    size, whatever the coefficient: a small penalty then weighs as much as the difference between correct and incorrect
    does elsewhere. The paper says nothing of it; the guards are ours.

    Args:
        rewards: (B,) without the term.
        credited: (B,) with it.
        acc: (B,) R_acc.
        groups: (B,) group ids.
        by_std: divide by the group's deviation, as in `normalise`; without it only `leave_out` changes anything.
        guard: `none`; `leave_out`, no term in groups that are all correct; `floor`, a group's deviation counts as at
            least that of a group with one incorrect answer, 0.5 / sqrt(G); `own_scale`, the term is normalised by
            itself, and counts by the coefficient.
        coefficient: the step's, in [0, 1]; read by `own_scale`.

    Returns:
        (B,) float64.
    """
    if guard == "leave_out":
        group = _codes(groups)
        size = np.bincount(group)
        all_correct = (np.bincount(group, weights=np.asarray(acc) > 0) == size)[group]
        return normalise(np.where(all_correct, rewards, credited), groups, by_std)
    if guard == "own_scale" and by_std:
        return normalise(rewards, groups, by_std) + coefficient * normalise(credited - rewards, groups, by_std)
    return normalise(credited, groups, by_std, one_incorrect=guard == "floor")


def normalise(
    rewards: np.ndarray, groups: Sequence, by_std: bool, epsilon: float = 1e-6, one_incorrect: bool = False
) -> np.ndarray:
    """Group-relative advantages, as GRPO defines them (verl: `compute_grpo_outcome_advantage`).

    Args:
        rewards: (B,) one scalar a trajectory.
        groups: (B,) group ids.
        by_std: divide by the group's standard deviation (unbiased), `algorithm.norm_adv_by_std_in_grpo`.
        epsilon: verl's guard against division by zero.
        one_incorrect: the least deviation of a group is that of G rewards of which one is 0.5 lower: 0.5 / sqrt(G).

    Returns:
        (B,) float64: reward minus the group's mean, over its deviation if asked. A group of one has no baseline; verl
        gives it mean 0 and deviation 1, which turns its raw reward into its advantage: here its advantage is 0.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    group = _codes(groups)
    size = np.bincount(group)
    centred = rewards - (np.bincount(group, weights=rewards) / size)[group]
    if not by_std:
        return centred
    variance = np.bincount(group, weights=centred**2) / np.maximum(size - 1, 1)
    deviation = np.sqrt(variance)
    if one_incorrect:
        deviation = np.maximum(deviation, 0.5 / np.sqrt(size))
    return centred / (deviation[group] + epsilon)


def pattern_statistics(patterns: Sequence[str], groups: Sequence) -> dict[str, float]:
    """Mean over groups of the entropy of their patterns (nats), and of the number of distinct ones."""
    n, g = pattern_counts(patterns, groups)
    if not len(n):
        return {"pattern_entropy": float("nan"), "unique_patterns": float("nan")}
    groups_total = (1.0 / g).sum()
    # Each trajectory carries 1/G of its group's -log p, and 1/N of one distinct pattern.
    entropy = (-np.log(n / g) / g).sum() / groups_total
    return {"pattern_entropy": float(entropy), "unique_patterns": float((1.0 / n).sum() / groups_total)}
