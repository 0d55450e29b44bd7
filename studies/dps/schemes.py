"""Credit-assignment schemes of the same family as the paper's, ours: `Credit` functions as a plugin registers them.

Each takes `(rewards, acc, patterns, groups, coefficient)`, arrays of shape (B,), as
`cinema_verl.training.estimators.Credit` says.
"""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import Final

import numpy as np

from cinema_verl.diversity import diversity_penalty, normalise

SUBSET: Final = 4  # our choice: half of a group of eight


def plain(rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, _: float) -> np.ndarray:
    """Accuracy and format alone."""
    return rewards


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


def pass_at(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """Advantages for pass@4 instead of pass@1, mixed with the plain ones by the coefficient (1: pass@4 alone).

    A trajectory is worth the mean reward of the subsets of four that it is in, a subset being right if one of it is.
    The advantage is that less the mean over all subsets, over their deviation. Where at most three are incorrect every
    subset is right, and nothing is left to gain. Format and length are weighed as usual.
    """
    groups_list = groups.tolist()
    of_plain = normalise(rewards, groups_list, by_std=True)
    of_form = normalise(rewards - 0.5 * acc, groups_list, by_std=True)
    _, group = np.unique(groups.astype(str), return_inverse=True)
    size, correct = np.bincount(group), np.bincount(group, weights=acc)
    value = np.zeros(len(rewards))
    for place, g in enumerate(group):
        n, c = int(size[g]), int(correct[g])
        k = min(SUBSET, n)
        every = 1 - comb(n - c, k) / comb(n, k)
        own = 1.0 if acc[place] else 1 - comb(n - 1 - c, k - 1) / comb(n - 1, k - 1)
        deviation = (every * (1 - every)) ** 0.5
        value[place] = (own - every) / deviation if deviation else 0.0
    return coefficient * (value + of_form) + (1 - coefficient) * of_plain
