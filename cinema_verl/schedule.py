"""When diversity counts: the diversity coefficient as a pure function of the global step.

The paper trains in two stages (section on reinforcement learning): 700 steps of exploration with the diversity term
at full strength, then 300 steps of "annealed" DAPO. What is annealed, and how, is not published; here it is the
coefficient of the diversity term, which decays to zero so that the reward slides from DPS to accuracy + format.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cinema_verl.utils.extensions import ExtensionError, load, named

Shape = Callable[[float], float]
"""From progress in the annealing stage, in (0, 1], to the part of the coefficient that is left, in [0, 1]."""

GROUP = "cinema_verl.annealing_shapes"
"""The entry-point group of other packages' shapes: `my_shape = "my_package:my_shape"`."""

# Decay from 1 at t = 0 to 0 at t = 1. Each shape is our choice; the paper names none.
SHAPES: dict[str, Shape] = {
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
    # exp(-5 t) shifted and scaled to end exactly at 0; after a quarter of the stage 28 % is left.
    "exponential": lambda t: (math.exp(-5.0 * t) - math.exp(-5.0)) / (1.0 - math.exp(-5.0)),
    # No annealing until the stage begins, nothing from its first step on.
    "step": lambda t: 0.0,
    # The ablation "DPS without annealing".
    "constant": lambda t: 1.0,
}


def register_shape(name: str, shape: Shape) -> None:
    """Add a shape for `cinema.annealing_shape`.

    Args:
        name: its name.
        shape: a function of progress in (0, 1] with values in [0, 1].

    Raises:
        ValueError: if the name is taken, or a value lies outside [0, 1].
    """
    if SHAPES.get(name, shape) is not shape:
        raise ValueError(f"the annealing shape {name!r} exists already: choose another name")
    for percent in range(1, 101):
        if not 0.0 <= shape(percent / 100) <= 1.0:
            raise ValueError(f"the annealing shape {name!r} leaves [0, 1] at {percent} % of the stage")
    SHAPES[name] = shape


def shapes() -> dict[str, Shape]:
    """All shapes by name: `SHAPES` with those that installed packages add.

    Raises:
        ExtensionError: if an installed package's shape cannot be loaded, or `register_shape` does not take it.
    """
    for name, shape in load(GROUP).items():
        try:
            register_shape(name, shape)
        except Exception as error:  # whatever somebody's function raises when it is tried
            raise ExtensionError(f"{named(GROUP, name)}: {error}") from error
    return SHAPES


@dataclass(frozen=True)
class AnnealingSchedule:
    """The diversity coefficient at a global step: constant during exploration, then decaying to zero.

    Attributes:
        coefficient: value during exploration, in [0, 1]. Paper: 0.1.
        exploration_steps: number of steps of stage 1. Paper: 700.
        annealing_steps: number of steps of stage 2, over which the coefficient decays. Paper: 300.
        shape: one of `shapes`. Our choice: linear, the plainest.

    Raises:
        ValueError: if a step count is negative or not an integer, the coefficient is outside [0, 1], or the shape is
            unknown.
    """

    coefficient: float = 0.1
    exploration_steps: int = 700
    annealing_steps: int = 300
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("exploration_steps", "annealing_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be an integer >= 0, got {value!r}")
        is_number = isinstance(self.coefficient, int | float) and not isinstance(self.coefficient, bool)
        if not is_number or not 0.0 <= self.coefficient <= 1.0:
            raise ValueError(
                f"the diversity coefficient must lie in [0, 1] (the paper's is 0.1), got {self.coefficient!r}"
            )
        if self.shape not in SHAPES and self.shape not in shapes():
            raise ValueError(f"unknown annealing shape {self.shape!r}: choose one of {', '.join(SHAPES)}")

    @property
    def total_steps(self) -> int:
        """Steps of both stages together: what `trainer.total_training_steps` should be."""
        return self.exploration_steps + self.annealing_steps

    def stage(self, step: int) -> int:
        """1 (exploration) or 2 (annealed exploitation) for a 1-based global step."""
        return 1 if step <= self.exploration_steps else 2

    def __call__(self, step: int) -> float:
        """The coefficient used for the update of `step`.

        Args:
            step: verl's `global_steps`, counted from 1. Steps past the end keep the last value.

        Raises:
            ValueError: if the step is negative.
        """
        if step < 0:
            raise ValueError(f"a global step cannot be negative, got {step}")
        if self.stage(step) == 1:
            return float(self.coefficient)
        # Step exploration+1 is already a step down and the last step is trained with exactly zero.
        progress = min((step - self.exploration_steps) / self.annealing_steps, 1.0) if self.annealing_steps else 1.0
        return self.coefficient * SHAPES[self.shape](progress)
