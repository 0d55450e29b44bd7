"""A credit-assignment scheme of the same family as the paper's, ours: a `Credit` function as a plugin registers it.

It takes `(rewards, acc, patterns, groups, coefficient)`, arrays of shape (B,), as
`cinema_verl.training.estimators.Credit` says.
"""

from __future__ import annotations

from collections import Counter

import numpy as np


def over_batch(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """The paper's penalty with N and G counted over the whole batch instead of the group.

    One question may then be answered in one way, as long as not every question is.
    """
    count = Counter(patterns.tolist())
    common = np.array([count[pattern] for pattern in patterns.tolist()], dtype=np.float64)
    return rewards - coefficient * 0.5 * acc * (common - 1) / max(len(patterns) - 1, 1)
