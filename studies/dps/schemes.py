"""Credit-assignment schemes of the same family as the paper's, ours: `Credit` functions as a plugin registers them.

Each takes `(rewards, acc, patterns, groups, coefficient)`, arrays of shape (B,), as
`cinema_verl.training.estimators.Credit` says.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from cinema_verl.diversity import diversity_penalty


def novelty(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """The paper's penalty, less its mean over the group's correct trajectories.

    What the common pattern loses the rare one gains: the mean reward of the correct ones, and so their distance from
    the incorrect ones, stays as it is.
    """
    penalty = diversity_penalty(acc.tolist(), patterns.tolist(), groups.tolist())
    _, group = np.unique(groups.astype(str), return_inverse=True)
    correct = np.bincount(group, weights=acc)
    mean = np.bincount(group, weights=penalty) / np.maximum(correct, 1)
    return rewards - coefficient * (penalty - acc * mean[group])


def over_batch(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """The paper's penalty with N and G counted over the whole batch instead of the group.

    One question may then be answered in one way, as long as not every question is.
    """
    count = Counter(patterns.tolist())
    common = np.array([count[pattern] for pattern in patterns.tolist()], dtype=np.float64)
    return rewards - coefficient * 0.5 * acc * (common - 1) / max(len(patterns) - 1, 1)
