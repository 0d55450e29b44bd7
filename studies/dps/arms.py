"""The arms of the study: what each trains with, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cinema_verl.schedule import Stage, Stages
from cinema_verl.training.estimators import diversity_preserving, novelty, pass_at_4
from studies.dps import schemes
from studies.dps.loop import Settings

EXPLORATION: Final = 84  # recipe cinema_cpu
EXPLOITATION: Final = 36  # recipe cinema_cpu
STEPS: Final = EXPLORATION + EXPLOITATION


def _stages(coefficient: float, filters: tuple[str | None, str | None], shape: str = "linear") -> Stages:
    return Stages(
        (
            Stage("exploration", EXPLORATION, coefficient, "constant", filter=filters[0]),
            Stage("exploitation", EXPLOITATION, coefficient, shape, filter=filters[1]),
        )
    )


REMOVED: Final = tuple(f"without_{action}" for action in ("global", "focus", "hint", "think"))
ALWAYS: Final = ("acc", "acc")
SECOND: Final = (None, "acc")

ARMS: Final[Mapping[str, Settings]] = {
    # The recipes': `tests/studies` composes each and compares.
    "two_stages": Settings(_stages(0.1, SECOND), diversity_preserving),
    "no_term": Settings(_stages(0.0, SECOND), diversity_preserving),
    "dps": Settings(_stages(0.1, (None, None), "constant"), diversity_preserving),
    "dapo": Settings(_stages(0.0, ALWAYS), diversity_preserving),
    "filter_always": Settings(_stages(0.1, ALWAYS), diversity_preserving),
    # Ours. What a strength means differs from scheme to scheme; each is one value, chosen before the runs.
    "novelty": Settings(_stages(1.0, ALWAYS), novelty),
    "over_batch": Settings(_stages(0.1, SECOND), schemes.over_batch),
    "pass_at_4": Settings(_stages(1.0, ALWAYS), pass_at_4, normalise=False),
    "own_scale": Settings(_stages(0.3, ALWAYS), diversity_preserving, guard="own_scale"),
    # Of the paper's other claims.
    "step": Settings(_stages(0.1, SECOND, "step"), diversity_preserving),
    **{a: Settings(_stages(0.1, SECOND), diversity_preserving, prompt_mode=f"cinema_{a}") for a in REMOVED},
}

RECIPES: Final = {
    "two_stages": "cinema_cpu",
    "no_term": "cinema_no_term",
    "dps": "cinema_dps",
    "dapo": "cinema_dapo",
    "filter_always": "cinema_filter_always",
    "novelty": "cinema_novelty",
    "pass_at_4": "cinema_pass_at_4",
    **{arm: f"cinema_{arm}" for arm in REMOVED},
}
"""Arms that are a recipe of the package."""

MAIN: Final = ("two_stages", "no_term", "dapo", "filter_always")
"""Units of the main question; `two_stages` makes the arm `dps`, too, whose first stage is the same."""
OURS: Final = ("novelty", "over_batch", "pass_at_4", "own_scale")
OTHER_CLAIMS: Final = ("step", *REMOVED)
"""Units of the paper's other claims: a step instead of annealing, and every action removed."""
REPLICATION: Final = "replication"
"""The unit that trains `novelty` and DAPO again, with seeds that nothing was decided by."""

SEEDS: Final = tuple(range(1, 17))
REPLICATION_SEEDS: Final = tuple(range(17, 33))
FAMILIES: Final = (MAIN, OURS, OTHER_CLAIMS, (REPLICATION,))
"""All units, in the order in which they are run: the main question first."""


def seeds_of(unit: str) -> tuple[int, ...]:
    """The seeds that are registered for a unit."""
    return REPLICATION_SEEDS if unit == REPLICATION else SEEDS


def family_of(unit: str) -> int:
    """The place of a unit's family in `FAMILIES`."""
    return next(place for place, family in enumerate(FAMILIES) if unit in family)
