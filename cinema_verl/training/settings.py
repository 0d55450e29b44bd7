"""The `cinema` section of the config, read and checked before anything starts.

The recipes put it at the root of verl's config; every value can be overridden on the command line
(`cinema.coefficient=0.05`). Neither torch nor verl is imported, so that whoever checks a config can use this.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf

from cinema_verl.diversity import GUARDS
from cinema_verl.meta_action import PATTERN_MODES
from cinema_verl.runs.conditions import CONDITIONS
from cinema_verl.schedule import Stages
from cinema_verl.training.estimators import schemes
from cinema_verl.training.refusal import is_whole

WHEN_EXHAUSTED = ("continue", "stop")
SHORTHANDS = {"exploration": "exploration_steps", "exploitation": "annealing_steps"}
"""The keys of the section that the recipes take a stage's steps from; 0 there leaves the stage out."""
_ANOTHER = "another"  # than any value of a stage


@dataclass(frozen=True)
class CinemaSettings:
    """What the `cinema` trainer needs beyond verl's own config; the values come from the recipe and the command line.

    Attributes:
        coefficient: of the diversity term during exploration, in [0, 1]. Paper: 0.1.
        exploration_steps, annealing_steps: lengths of the two stages. Paper: 700, 300.
        annealing_shape: one of `cinema_verl.schedule.shapes`. Our choice: linear.
        stages: what the run does at which step. The recipes build the paper's two from the four values above, which are
            shorthands: what is trained is what stands here.
        term_guard: what the diversity term may do in groups without an accuracy difference, one of
            `cinema_verl.diversity.GUARDS`. Paper: none is mentioned.
        pattern_mode: which trajectories have the same pattern, a mode of `cinema_verl.meta_action.pattern_in_mode`.
            Paper: exact.
        when_exhausted: "continue" or "stop" when dynamic sampling reaches its bound. Our choice: continue.
        poll_interval: seconds between two looks at the rollouts. verl: 2.0.
        image_conditions: under which images a validation asks its questions again
            (`cinema_verl.runs.conditions.CONDITIONS`); empty for none.
        image_sample: how many questions of each benchmark are asked again, None for all. Our choice: see the recipes.
        other_sources: names that an evaluation accepts as `data_source` beside those of `data_preprocess`.

    Raises:
        ValueError: saying which value is impossible, and which are possible.
    """

    coefficient: float
    exploration_steps: int
    annealing_steps: int
    annealing_shape: str
    stages: Stages
    term_guard: str
    pattern_mode: str
    when_exhausted: str
    poll_interval: float
    image_conditions: tuple[str, ...]
    image_sample: int | None
    other_sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.stages.total_steps:
            raise ValueError("no stage has a step: set cinema.exploration_steps or cinema.annealing_steps")
        if self.term_guard not in GUARDS:
            raise ValueError(f"cinema.term_guard must be one of {', '.join(GUARDS)}, got {self.term_guard!r}")
        if self.pattern_mode not in PATTERN_MODES:
            raise ValueError(
                f"cinema.pattern_mode must be one of {', '.join(PATTERN_MODES)}, got {self.pattern_mode!r}"
            )
        if self.when_exhausted not in WHEN_EXHAUSTED:
            raise ValueError(f"cinema.when_exhausted must be one of {WHEN_EXHAUSTED}, got {self.when_exhausted!r}")
        if type(self.poll_interval) not in (int, float) or not 0 < self.poll_interval < math.inf:
            raise ValueError(f"cinema.poll_interval must be > 0 seconds, got {self.poll_interval!r}")
        if not isinstance(self.image_conditions, tuple) or not set(self.image_conditions) <= set(CONDITIONS):
            raise ValueError(
                f"cinema.image_conditions must be a list of {', '.join(CONDITIONS)}, got {self.image_conditions!r}"
            )
        if self.image_sample is not None and not (type(self.image_sample) is int and self.image_sample > 0):
            raise ValueError(f"cinema.image_sample must be a number of questions or null, got {self.image_sample!r}")
        if not isinstance(self.other_sources, tuple):
            raise ValueError(f"cinema.other_sources must be a list of names, got {self.other_sources!r}")

    @classmethod
    def from_config(cls, config: Any) -> "CinemaSettings":
        """Read the section from verl's config and check it together with what it depends on.

        Raises:
            ValueError: saying which key is missing, unknown or impossible, and what to do.
        """
        section = config.get("cinema")
        if not OmegaConf.is_dict(section):
            raise ValueError(
                "trainer.v1.trainer_mode=cinema needs the `cinema` section: compose with +recipe=cinema (or "
                "+recipe=cinema_cpu) instead of setting the trainer by hand; `cinema-verl doctor` shows what is missing"
            )
        known = {field.name for field in fields(cls)}
        if unknown := [_with_nearest(name, known) for name in sorted(set(section) - known)]:
            raise ValueError(f"unknown keys in the cinema section: {', '.join(unknown)}; known are {sorted(known)}")
        if missing := {name for name in known if name not in section or OmegaConf.is_missing(section, name)}:
            raise ValueError(f"the cinema section lacks {sorted(missing)}: compose with +recipe=cinema")
        values = {name: section[name] for name in known}
        for name, value in values.items():
            if isinstance(value, Sequence) and not isinstance(value, str):
                values[name] = tuple(value)
        filter_groups = config.algorithm.filter_groups
        if filter_groups is None:
            raise ValueError("algorithm.filter_groups must be a section: its key enable=false filters in no stage")
        settings = cls(**values | {"stages": _stages(section, filter_groups)})

        scheme = schemes().get(config.algorithm.adv_estimator)
        for stage, _, _ in settings.stages.spans() if scheme else ():
            key = "actor_rollout_ref.rollout.n" if stage.n is None else f"cinema.stages.{stage.name}.n"
            n = OmegaConf.select(config, key)
            if not (is_whole(n) and n >= 2):
                raise ValueError(
                    f"{key}={n}: algorithm.adv_estimator={config.algorithm.adv_estimator} compares the trajectories of "
                    f"a group, so it must have at least 2"
                )
        if scheme and not scheme.normalise and not config.algorithm.norm_adv_by_std_in_grpo:
            raise ValueError(
                f"algorithm.norm_adv_by_std_in_grpo=false would change nothing: algorithm.adv_estimator={scheme.name} "
                "gives advantages, which are not normalised any more; set it to true"
            )
        if idle := _why_idle(settings.term_guard, config.algorithm):
            raise ValueError(f"cinema.term_guard={settings.term_guard} would change nothing: {idle}; set it to none")
        if filter_groups.enable and filter_groups.metric != "acc":
            raise ValueError(
                f"algorithm.filter_groups.metric={filter_groups.metric}: groups are judged by acc alone (paper); the "
                f"reward is penalised for diversity and shaped for length, so it would keep groups that teach nothing"
            )
        return settings


def stages_of(config: Any) -> Stages | None:
    """The stages; None where the settings are wrong, which the verdict says."""
    try:
        return CinemaSettings.from_config(config).stages
    except ValueError:
        return None


def group_sizes(config: Any) -> list[int]:
    """Trajectories of a question, in each stage; the run's own where the settings are wrong."""
    n, stages = config.actor_rollout_ref.rollout.n, stages_of(config)
    return [n if stage.n is None else stage.n for stage, _, _ in stages.spans()] if stages else [n]


def takers(config: Any, shorthand: str) -> list[str]:
    """The stages that take a value from a key of the section (`annealing_shape`), by their names.

    Args:
        config: whose stages can be read (`CinemaSettings.from_config`).
    """
    other = config.copy()
    other.cinema[shorthand] = _ANOTHER
    before, after = (OmegaConf.to_container(one.cinema.stages, resolve=True) for one in (config, other))
    return [str(name) for name in before if before[name] != after[name]]


def _why_idle(guard: str, algorithm: Any) -> str | None:
    """Why a guard has nothing to act on (`cinema_verl.diversity.guarded_advantages`); None where it acts."""
    scheme = schemes().get(algorithm.adv_estimator)
    if guard == "none":
        return None
    if scheme is None or not scheme.normalise:
        return f"algorithm.adv_estimator={algorithm.adv_estimator} adds no term that is normalised within groups"
    if guard != "leave_out" and not algorithm.norm_adv_by_std_in_grpo:
        return "algorithm.norm_adv_by_std_in_grpo=false divides by no deviation"
    return None


def _stages(section: Any, filter_groups: Any) -> Stages:
    """`cinema.stages`; where verl's own key switches filtering off, it is off in all of them."""
    plain = OmegaConf.to_container(section.stages, resolve=True) if OmegaConf.is_config(section.stages) else None
    if not isinstance(plain, dict):
        raise ValueError(f"cinema.stages must be a section with a name for each stage, got {section.stages!r}")
    stages = Stages.of({str(name): stage for name, stage in plain.items()})
    for stage in stages.stages:
        shorthand = SHORTHANDS.get(stage.name)
        if not stage.steps and (shorthand is None or section[shorthand] != 0):
            raise ValueError(
                f"cinema.stages.{stage.name} has no steps: a stage lasts at least one; cinema.stages.{stage.name}=null "
                "leaves it out"
            )
    return stages if filter_groups.enable else stages.unfiltered()


def _with_nearest(key: str, known: set[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"cinema.{key}" + (f" (did you mean cinema.{nearest[0]}?)" if nearest else "")
