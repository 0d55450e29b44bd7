"""The statistics of an evaluation: means over questions with 95 % intervals, and pass@k.

Questions are the sample, not rollouts: every function takes one number a question, for instance the share of its
rollouts that are correct. A simulation tests the coverage of the intervals (`tests/evaluate`): 93-97 % from 100
questions on. With fewer questions, or questions of equal difficulty, they are too wide rather than too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_Z: Final = 1.959963984540054  # the normal distribution's 97.5th percentile
_ANY_DIFFICULTY: Final = 1 / 12  # the variance of a uniform distribution over [0, 1]


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and the ends of its 95 % interval, NaN where a single question determines none."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, float | None]:
        """The three numbers, with None for NaN."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}

    @property
    def holds_zero(self) -> bool:
        """Whether the interval contains 0; an unknown interval does."""
        return not (self.low > 0 or self.high < 0)


def student_t(degrees: int) -> float:
    """The 97.5th percentile of Student's t (Hill's expansion in 1/degrees; within 1 % from 2 degrees on)."""
    z, v = _Z, float(max(degrees, 1))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))


def rate(values: Sequence[float], rollouts: int = 1) -> Estimate:
    """The mean of shares in [0, 1], with Wilson's interval for the effective number of independent trials.

    Several rollouts of one question are not independent, so the number of trials follows from how much the questions
    differ: p (1 - p) over the variance of the mean, at least the number of questions and at most that of rollouts. The
    variance counts one more question of uniform difficulty, without which few questions that are alike by chance would
    count as many trials. Unlike a bootstrap or t-interval this one has a width at 0 and 1 and stays inside. Our choice,
    by simulation: Korn and Graubard's, Jeffreys', logit and Agresti-Coull intervals are further from 95 %.

    Args:
        values: (Q,) one share a question.
        rollouts: the number of rollouts in each share.

    Raises:
        ValueError: there are no questions, or a value is outside [0, 1].
    """
    sample = _sample(values)
    if sample.min() < 0 or sample.max() > 1:
        raise ValueError(f"a share lies outside [0, 1]: {sample.min()}, {sample.max()}")
    size, p = len(sample), float(sample.mean())
    spread = p * (1 - p)
    squares = float(np.square(sample - p).sum()) + _ANY_DIFFICULTY
    trials = min(max(size, spread * size**2 / squares), size * rollouts)
    t = student_t(size - 1)
    scale = 1 + t**2 / trials
    center = (p + t**2 / (2 * trials)) / scale
    half = t * math.sqrt(spread / trials + t**2 / (4 * trials**2)) / scale
    return Estimate(
        p, max(0.0, min(p, center - half)), min(1.0, max(p, center + half))
    )  # rounding must not move p outside


def difference(values: Sequence[float]) -> Estimate:
    """The mean of differences of two shares, paired by question, with a t-interval that stays in [-1, 1].

    For the interval two questions are added, as Agresti and Min (2005) do for matched pairs: half a gain, half a loss
    and one without a difference. So differences that are all equal have an interval with a width.

    Args:
        values: (Q,) one difference a question.

    Raises:
        ValueError: there are no questions, or a value is outside [-1, 1].
    """
    sample = _sample(values)
    if np.abs(sample).max() > 1:
        raise ValueError(f"a difference of shares lies outside [-1, 1]: {sample.min()}, {sample.max()}")
    size = len(sample) + 2
    center = float(sample.sum()) / size
    variance = (float(np.square(sample).sum()) + 1) / size - center**2
    half = student_t(len(sample) - 1) * math.sqrt(variance / size)
    return Estimate(float(sample.mean()), max(-1.0, center - half), min(1.0, center + half))


def mean(values: Sequence[float]) -> Estimate:
    """The mean of any numbers with Student's t-interval.

    Raises:
        ValueError: there are no questions.
    """
    sample = _sample(values)
    center = float(sample.mean())
    if len(sample) < 2:
        return Estimate(center, math.nan, math.nan)
    half = student_t(len(sample) - 1) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return Estimate(center, center - half, center + half)


def pass_at_k(correct: int, rollouts: int, k: int) -> float:
    """The unbiased estimator of pass@k: the chance that k rollouts drawn without replacement hold a correct one.

    Chen et al. 2021 (arXiv 2107.03374), equation 1: 1 - C(n - c, k) / C(n, k), in exact integers.

    Raises:
        ValueError: unless 0 <= correct <= rollouts and 1 <= k <= rollouts.
    """
    if not (0 <= correct <= rollouts and 1 <= k <= rollouts):
        raise ValueError(f"pass@{k} of {correct} correct among {rollouts} rollouts is not defined")
    return 1 - math.comb(rollouts - correct, k) / math.comb(rollouts, k)


def _sample(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        raise ValueError("no questions to average over")
    return sample
