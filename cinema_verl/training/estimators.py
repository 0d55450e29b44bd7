"""Credit-assignment schemes: `cinema_dps`, the paper's diversity-preserving reward, two of ours, and your own.

A scheme is one pure function of what is known about a batch, chosen by its name (`algorithm.adv_estimator=my_scheme`).
It is offered by an installed package as an entry point of the group `cinema_verl.estimators`, or registered here by a
module that VERL_USE_EXTERNAL_MODULES names. Neither torch nor verl is imported; `cinema_verl.training.advantage` makes
verl's estimators of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from cinema_verl.diversity import diversity_penalty, normalise, pattern_counts
from cinema_verl.evaluate.statistics import pass_at_k
from cinema_verl.utils.extensions import ExtensionError, load, named

CINEMA_DPS = "cinema_dps"
CINEMA_NOVELTY = "cinema_novelty"
CINEMA_PASS_AT_4 = "cinema_pass_at_4"
SUBSET: Final = 4  # our choice: half of the group of eight that it was measured with
GROUP = "cinema_verl.estimators"
"""The entry-point group of other packages' schemes."""

Credit = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
"""`(rewards, acc, patterns, groups, coefficient)` to the credited rewards: arrays of shape (B,), B trajectories.

`rewards` is what verl has for each trajectory (0.5 acc + 0.5 format, plus overlong shaping and KL where the recipe has
them), `groups` are the ids of the groups, and `coefficient` is the diversity coefficient at this step."""


@dataclass(frozen=True)
class Scheme:
    """A credit-assignment scheme under a name.

    Attributes:
        name: value of `algorithm.adv_estimator`.
        credit: the function.
        term: what the scheme adds to the reward, for the metrics `cinema/<term>_penalty` (mean reward taken away; none
            where the scheme gives advantages) and `cinema/<term>_advantage_share` (share of the advantage, in absolute
            value, that the scheme changed).
        normalise: whether the credited rewards are centred (and divided by the standard deviation, as
            `algorithm.norm_adv_by_std_in_grpo` says) within each group. False: they are the advantages.
    """

    name: str
    credit: Credit
    term: str
    normalise: bool = True


_SCHEMES: dict[str, Scheme] = {}


def register_group_estimator(
    name: str, *, term: str | None = None, normalise: bool = True
) -> Callable[[Credit], Credit]:
    """Decorator: make a function a scheme that the `cinema` trainer can use.

    Args:
        name, normalise: see `Scheme`.
        term: see there; None for the name.

    Raises:
        ValueError: if another scheme has the name.
    """

    def register(credit: Credit) -> Credit:
        scheme = Scheme(name, credit, term or name, normalise)
        if _SCHEMES.setdefault(name, scheme) != scheme:
            raise ValueError(f"the group estimator {name!r} exists already: choose another name")
        return credit

    return register


@register_group_estimator(CINEMA_DPS, term="diversity")
def diversity_preserving(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """The paper's reward: minus `coefficient * 0.5 * acc * (N - 1) / (G - 1)`, N of G in the group of one pattern."""
    return rewards - coefficient * diversity_penalty(acc.tolist(), patterns.tolist(), groups.tolist())


@register_group_estimator(CINEMA_NOVELTY, term="novelty")
def novelty(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """Ours, not the paper's: the paper's penalty, less its mean over the group's correct trajectories.

    What the common pattern loses the rare one gains: the mean reward of the correct ones, and so their distance from
    the incorrect ones, stays as it is. Measured: docs/science.md.
    """
    penalty = diversity_penalty(acc.tolist(), patterns.tolist(), groups.tolist())
    correct = acc > 0
    penalty[correct] = normalise(penalty[correct], groups[correct].tolist(), by_std=False)
    return rewards - coefficient * penalty


@register_group_estimator(CINEMA_PASS_AT_4, term="pass_at_4", normalise=False)
def pass_at_4(
    rewards: np.ndarray, acc: np.ndarray, patterns: np.ndarray, groups: np.ndarray, coefficient: float
) -> np.ndarray:
    """Ours, not the paper's: advantages for pass@4, mixed with those for pass@1 by the coefficient (1: pass@4 alone).

    As in Pass@k Training (arXiv 2508.10751), a trajectory is worth the mean reward of the subsets of four that it is
    in, a subset being right if one of it is; its advantage is that less the mean over all subsets, over their
    deviation. Where at most three are incorrect every subset is right, and nothing is left to gain. Format and length
    are weighed as without it. Measured: docs/science.md.
    """
    groups_list = groups.tolist()
    of_form = normalise(rewards - 0.5 * acc, groups_list, by_std=True)
    alike, size = pattern_counts(acc.tolist(), groups_list)  # of the group, as correct as this one
    correct = np.where(acc > 0, alike, size - alike)
    value = np.zeros(len(rewards))
    for place, (n, c) in enumerate(zip(size.tolist(), correct.tolist(), strict=True)):
        k = min(SUBSET, n)
        every = pass_at_k(c, n, k)
        if deviation := (every * (1 - every)) ** 0.5:
            own = 1.0 if acc[place] else pass_at_k(c, n - 1, k - 1)
            value[place] = (own - every) / deviation
    return coefficient * (value + of_form) + (1 - coefficient) * normalise(rewards, groups_list, by_std=True)


def schemes() -> dict[str, Scheme]:
    """Every scheme by its name, those of installed packages included.

    Raises:
        ExtensionError: if an installed package's scheme cannot be loaded or called, or has the name of another.
    """
    for name, credit in load(GROUP).items():
        if not callable(credit):
            raise ExtensionError(f"{named(GROUP, name)} must be a function, and is {credit!r}")
        if name not in _SCHEMES or _SCHEMES[name].credit is not credit:  # its module may have registered it itself
            try:
                register_group_estimator(name)(credit)
            except ValueError as error:
                raise ExtensionError(f"{named(GROUP, name)}: {error}") from error
    return dict(_SCHEMES)
