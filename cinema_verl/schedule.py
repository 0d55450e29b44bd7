"""The stages of training: what changes with the global step, as a pure function of it.

The paper trains in two (section on reinforcement learning): 700 steps of exploration with the Diversity-Preserving
Strategy, then 300 steps of exploitation with "annealed" DAPO. What is annealed, and how, is not published; here it is
the coefficient of the diversity term, which decays to zero so that the reward slides from DPS to accuracy + format.
Nor is it published whether exploration drops groups by accuracy, as DAPO does: here it does not (docs/paper.md).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from cinema_verl.utils.arguments import did_you_mean
from cinema_verl.utils.extensions import ExtensionError, load, named

Shape = Callable[[float], float]
"""From progress in the annealing stage, in (0, 1], to the part of the coefficient that is left, in [0, 1]."""

FILTERS = (None, "acc")
"""By what dynamic sampling may judge groups: not at all, or by R_acc."""

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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one purpose.

    Attributes:
        name: what people call it ("exploration").
        steps: how many global steps it lasts, >= 0.
        coefficient: of the diversity term at the stage's beginning, in [0, 1]. Paper: 0.1.
        shape: how the coefficient goes on, one of `shapes`; it reaches its last value at the stage's last step.
        filter: the metric by which dynamic sampling drops groups whose trajectories are all alike, `acc`, or None to
            train on every group. Paper: DAPO filters by R_acc; whether exploration does is not said.
        clip_ratio_high: the upper clip of the policy ratio; None for the run's own.
        lr_factor: what the run's learning rate is multiplied by, > 0.
        temperature: of sampling, > 0; None for the run's own.
        n: trajectories of a question, >= 1; None for the run's own.

    Raises:
        ValueError: saying which value is impossible.
    """

    name: str
    steps: int
    coefficient: float
    shape: str = "constant"
    filter: str | None = None
    clip_ratio_high: float | None = None
    lr_factor: float = 1.0
    temperature: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"the steps of stage {self.name} must be an integer >= 0, got {self.steps!r}")
        if not _is_number(self.coefficient) or not 0.0 <= self.coefficient <= 1.0:
            raise ValueError(
                f"the diversity coefficient must lie in [0, 1] (the paper's is 0.1), got {self.coefficient!r}"
            )
        if not isinstance(self.shape, str) or (self.shape not in SHAPES and self.shape not in shapes()):
            raise ValueError(f"unknown annealing shape {self.shape!r}: choose one of {', '.join(SHAPES)}")
        if self.filter not in FILTERS:
            raise ValueError(
                f"stage {self.name} filters groups by {self.filter!r}: groups are judged by acc alone (paper), or not "
                f"at all (null); the reward is penalised for diversity and shaped for length"
            )
        if self.clip_ratio_high is not None and not (_is_number(self.clip_ratio_high) and self.clip_ratio_high > 0):
            raise ValueError(f"clip_ratio_high of stage {self.name} must be > 0, got {self.clip_ratio_high!r}")
        if not (_is_number(self.lr_factor) and 0 < self.lr_factor < math.inf):
            raise ValueError(f"lr_factor of stage {self.name} must be > 0, got {self.lr_factor!r}")
        if self.temperature is not None and not (_is_number(self.temperature) and 0 < self.temperature < math.inf):
            raise ValueError(f"temperature of stage {self.name} must be > 0, got {self.temperature!r}")
        if self.n is not None and not (type(self.n) is int and self.n > 0):
            raise ValueError(f"n of stage {self.name} must be an integer >= 1, got {self.n!r}")

    def __str__(self) -> str:
        decay = f" {self.shape} to {self.coefficient_after(self.steps):g}" if self.shape != "constant" else ""
        clip = f", upper clip {self.clip_ratio_high:g}" if self.clip_ratio_high is not None else ""
        lr = f", learning rate x {self.lr_factor:g}" if self.lr_factor != 1 else ""
        groups = f"groups filtered by {self.filter}" if self.filter else "every group"
        heat = f", temperature {self.temperature:g}" if self.temperature is not None else ""
        size = f", {self.n} rollouts a question" if self.n is not None else ""
        return (
            f"{self.name}: {self.steps} steps, coefficient {self.coefficient:g}{decay}, {groups}{clip}{lr}{heat}{size}"
        )

    def coefficient_after(self, steps: int) -> float:
        """The coefficient at the stage's step number `steps`, counted from 1; past the end, its last value."""
        # The first step is already a step down, and the last one is trained with exactly the shape's end.
        return self.coefficient * SHAPES[self.shape](min(steps / self.steps, 1.0) if self.steps else 1.0)


@dataclass(frozen=True)
class Stages:
    """The stages of a run, one after the other: everything that changes with the global step, as a function of it.

    A step belongs to one stage, so stages can neither overlap nor leave a gap; steps past the end belong to the last
    one. A stage of 0 steps is left out, and keeps its number.

    Attributes:
        stages: in order.

    Raises:
        ValueError: if there is none, or two have one name.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a run has at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have the same name: {', '.join(names)}")

    @classmethod
    def of(cls, stages: Mapping[str, Mapping[str, Any] | None]) -> "Stages":
        """From `cinema.stages` as plain values: name to the attributes of `Stage`, or to None to leave one out.

        Raises:
            ValueError: saying which stage has a key that is missing, unknown or impossible.
        """
        known = [field.name for field in fields(Stage) if field.name != "name"]
        required = [field.name for field in fields(Stage) if field.name != "name" and field.default is MISSING]
        made = []
        for name, given in stages.items():
            if given is None:
                continue
            if not isinstance(given, Mapping):
                raise ValueError(f"cinema.stages.{name} must be a section with {', '.join(known)}, or null")
            if unknown := [f"{key}{did_you_mean(str(key), known)}" for key in given if key not in known]:
                raise ValueError(f"cinema.stages.{name} knows {', '.join(known)}, and not {', '.join(unknown)}")
            if missing := [key for key in required if key not in given]:
                raise ValueError(f"cinema.stages.{name} lacks {', '.join(missing)}")
            made.append(Stage(name, **given))
        return cls(tuple(made))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """As `of` reads them."""
        return {one.name: {key: value for key, value in asdict(one).items() if key != "name"} for one in self.stages}

    @property
    def total_steps(self) -> int:
        """Steps of all stages together: what `trainer.total_training_steps` should be."""
        return sum(stage.steps for stage in self.stages)

    def spans(self) -> list[tuple[Stage, int, int]]:
        """Each stage that has steps, with its first and its last global step."""
        found, end = [], 0
        for stage in self.stages:
            if stage.steps:
                found.append((stage, end + 1, end + stage.steps))
            end += stage.steps
        return found

    def _place(self, step: int) -> tuple[int, int]:
        """Index of the stage of a 1-based global step, and the last step before it."""
        if step < 0:
            raise ValueError(f"a global step cannot be negative, got {step}")
        before = 0
        for place, stage in enumerate(self.stages[:-1]):
            if step <= before + stage.steps and (stage.steps or step):
                return place, before
            before += stage.steps
        return len(self.stages) - 1, before

    def number(self, step: int) -> int:
        """Which stage a 1-based global step belongs to, counted from 1."""
        return self._place(step)[0] + 1

    def at(self, step: int) -> Stage:
        """The stage of a 1-based global step; step 0, before training, belongs to the first.

        Raises:
            ValueError: if the step is negative.
        """
        return self.stages[self._place(step)[0]]

    def coefficient(self, step: int) -> float:
        """The diversity coefficient used for the update of `step` (verl's `global_steps`, counted from 1).

        Raises:
            ValueError: if the step is negative.
        """
        place, before = self._place(step)
        return self.stages[place].coefficient_after(step - before)

    @property
    def filters(self) -> bool:
        """Whether any stage drops groups."""
        return any(stage.filter for stage in self.stages)

    def unfiltered(self) -> "Stages":
        """The same stages, of which none drops groups."""
        return Stages(tuple(replace(stage, filter=None) for stage in self.stages))


@dataclass(frozen=True)
class AnnealingSchedule:
    """The paper's two stages: a constant coefficient during exploration, which decays to zero during exploitation.

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
        self.stages  # noqa: B018  raises on a bad coefficient or shape

    @property
    def stages(self) -> Stages:
        """The same as `Stages`: exploration on every group, then exploitation with the filter."""
        return Stages(
            (
                Stage("exploration", self.exploration_steps, self.coefficient),
                Stage("exploitation", self.annealing_steps, self.coefficient, self.shape, filter="acc"),
            )
        )

    @property
    def total_steps(self) -> int:
        """Steps of both stages together: what `trainer.total_training_steps` should be."""
        return self.stages.total_steps

    def stage(self, step: int) -> int:
        """1 (exploration) or 2 (annealed exploitation) for a 1-based global step."""
        return self.stages.number(step)

    def __call__(self, step: int) -> float:
        """The coefficient used for the update of `step`: see `Stages.coefficient`."""
        return self.stages.coefficient(step)
