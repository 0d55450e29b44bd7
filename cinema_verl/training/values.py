"""Values that verl, PyTorch or an engine look at late: after Ray and the model have started, or hours into a run.

Each key has a kind here. What is null is left to verl's own default.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.refusal import Facts, Refusal, fine_tunes, is_whole, value_of
from cinema_verl.training.settings import stages_of, takers


class Kind(NamedTuple):
    """What a value may be.

    Attributes:
        words: For a message.
        holds: Whether a value is one.
    """

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*known: str) -> Kind:
    return Kind(f"one of {', '.join(known)}", known.__contains__)


def _some_of(*known: str, least: int = 0) -> Kind:
    def holds(value: Any) -> bool:
        values = [value] if isinstance(value, str) else value
        return isinstance(values, list) and len(values) >= least and all(each in known for each in values)

    return Kind(f"a list of some of {', '.join(known)}", holds)


_WHOLE: Final = Kind("a whole number of at least 1", is_whole)
_COUNT: Final = Kind("a whole number, 0 or more", lambda value: value == 0 or is_whole(value))
_INTEGER: Final = Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_WHEN: Final = Kind(
    "a whole number or after_each_epoch", lambda value: value == "after_each_epoch" or _INTEGER.holds(value)
)
_POSITIVE: Final = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_NOT_NEGATIVE: Final = Kind("a number, 0 or more", lambda value: _is_number(value) and value >= 0)
_SHARE: Final = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_MASS: Final = Kind("a number above 0, up to 1", lambda value: _is_number(value) and 0 < value <= 1)
_YES_OR_NO: Final = Kind("true or false", lambda value: isinstance(value, bool))

LOGGERS: Final = (
    *("console", "file", "tensorboard", "wandb", "mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio"),
    *("rl_insight", "tracking"),
)
"""verl's (`Tracking.supported_backend`); "tracking" is its old name of wandb."""
_STRATEGIES: Final = _one_of("fsdp", "fsdp2", "fsdp_turbo", "megatron", "automodel", "torchtitan", "veomni")
_CONTENTS: Final = _some_of("model", "optimizer", "extra", "hf_model", least=1)
_SCHEDULES: Final = _one_of("constant", "cosine")
_BOTH: Final = {
    "trainer.total_epochs": _WHOLE,
    "trainer.total_training_steps": _WHOLE,
    "trainer.n_gpus_per_node": _WHOLE,
    "trainer.nnodes": _WHOLE,
    "trainer.resume_mode": _one_of("auto", "disable", "resume_path"),
    "trainer.logger": _some_of(*LOGGERS),
}
_FINE_TUNING: Final = {
    **_BOTH,
    "trainer.save_freq": _WHEN,
    "trainer.test_freq": _WHEN,
    "trainer.max_ckpt_to_keep": _INTEGER,
    "trainer.seed": _INTEGER,
    "data.max_length": _WHOLE,
    "data.num_workers": _COUNT,
    "data.truncation": _one_of("error", "left", "right"),
    "data.pad_mode": _one_of("no_padding", "right"),
    "model.lora_rank": _COUNT,
    "model.lora_alpha": _POSITIVE,
    "checkpoint.save_contents": _CONTENTS,
    "checkpoint.load_contents": _CONTENTS,
    "engine.strategy": _STRATEGIES,
    "optim.lr": _NOT_NEGATIVE,
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.clip_grad": _POSITIVE,
    "optim.lr_warmup_steps_ratio": _SHARE,
}
_ACTOR: Final = "actor_rollout_ref.actor"
_ROLLOUT: Final = "actor_rollout_ref.rollout"
_REINFORCEMENT: Final = {
    **_BOTH,
    "trainer.save_freq": _INTEGER,
    "trainer.test_freq": _INTEGER,
    "trainer.max_actor_ckpt_to_keep": _INTEGER,
    "trainer.val_before_train": _YES_OR_NO,
    "trainer.val_only": _YES_OR_NO,
    "data.max_prompt_length": _WHOLE,
    "data.max_response_length": _WHOLE,
    "data.seed": _INTEGER,
    "data.shuffle": _YES_OR_NO,
    "actor_rollout_ref.model.lora_rank": _COUNT,
    "actor_rollout_ref.model.lora_alpha": _POSITIVE,
    f"{_ACTOR}.strategy": _STRATEGIES,
    f"{_ACTOR}.checkpoint.save_contents": _CONTENTS,
    f"{_ACTOR}.checkpoint.load_contents": _CONTENTS,
    f"{_ACTOR}.optim.lr": _NOT_NEGATIVE,
    f"{_ACTOR}.optim.weight_decay": _NOT_NEGATIVE,
    f"{_ACTOR}.optim.lr_warmup_steps_ratio": _SHARE,
    f"{_ACTOR}.grad_clip": _POSITIVE,
    f"{_ACTOR}.ppo_epochs": _WHOLE,
    f"{_ACTOR}.clip_ratio": _NOT_NEGATIVE,
    f"{_ACTOR}.clip_ratio_low": _NOT_NEGATIVE,
    f"{_ACTOR}.clip_ratio_high": _NOT_NEGATIVE,
    f"{_ACTOR}.entropy_coeff": Kind("a number", _is_number),
    f"{_ROLLOUT}.temperature": _POSITIVE,
    f"{_ROLLOUT}.top_p": _MASS,
    f"{_ROLLOUT}.top_k": _INTEGER,
    f"{_ROLLOUT}.gpu_memory_utilization": _MASS,
    f"{_ROLLOUT}.val_kwargs.n": _WHOLE,
    f"{_ROLLOUT}.val_kwargs.temperature": _NOT_NEGATIVE,
    f"{_ROLLOUT}.val_kwargs.top_p": _MASS,
    "algorithm.filter_groups.enable": _YES_OR_NO,
    "algorithm.filter_groups.max_num_gen_batches": _INTEGER,
    "algorithm.filter_groups.max_inflight_gen_batches": _WHOLE,
}


def wrong_values(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Every value that is not of its key's kind."""
    fine_tuning = fine_tunes(config)
    kinds = _FINE_TUNING if fine_tuning else _REINFORCEMENT
    optimiser, strategy = ("optim", "engine.strategy") if fine_tuning else (f"{_ACTOR}.optim", f"{_ACTOR}.strategy")
    if value_of(config, strategy) in ("fsdp", "fsdp2"):  # other engines have schedules of their own
        kinds = kinds | {f"{optimiser}.lr_scheduler_type": _SCHEDULES}
    for key, kind in kinds.items():
        value = value_of(config, key)
        if value is not None and not kind.holds(OmegaConf.to_object(value) if OmegaConf.is_config(value) else value):
            yield Refusal(key, f"{value!r} cannot be: it must be {kind.words}", "correct the value")
    if not str(value_of(config, "trainer.default_local_dir") or "").strip():
        key, what = "trainer.default_local_dir", "empty: checkpoints would be written to wherever the command is given"
        yield Refusal(key, what, "name a folder; a shell makes nothing of a variable that is not set")


_ADDED: Final = re.compile(r"\+([\w.]+)=")
_PASSED_ON: Final = re.compile(r"(?!reward_).*kwargs|override_.*|env_vars")
"""Sections whose keys are somebody else's arguments, of which verl's files show a few (Ray: num_cpus, not num_gpus)."""
_STAGES: Final = "cinema.stages"
"""The section whose keys are names that the user gives, and all of which are read."""
_NEAR: Final = 0.8  # of difflib's ratio; our choice: max_ckpt_to_keep and max_actor_ckpt_to_keep are near


def misspelt(config: DictConfig, overrides: Sequence[str]) -> Iterator[Refusal]:
    """Keys that an override adds (`+key=value`) beside one that is called nearly the same: nobody would read them.

    Hydra's own error about a misspelt key advises to add it.

    Args:
        overrides: As Hydra got them. What is added by `++key=value` is meant.
    """
    added = [match[1] for override in overrides if (match := _ADDED.match(override))]
    for key in added:
        parts = key.split(".")
        for depth, part in enumerate(parts):
            if depth and _PASSED_ON.fullmatch(parts[depth - 1]):
                break
            above = ".".join(parts[:depth])
            section = OmegaConf.select(config, above) if above else config
            if not OmegaConf.is_dict(section) or part not in section:
                break  # a group, such as +recipe=cinema
            new = {name for name in section if _is_new(config, f"{above}.{name}".lstrip("."), added)}
            if part not in new:
                continue
            near = difflib.get_close_matches(part, [str(name) for name in section if name not in new], 1, _NEAR)
            if near:
                other = ".".join([*parts[:depth], near[0]])
                what = f"is a new key, which nobody reads, beside {other}"
                if above == _STAGES:
                    what = f"is one more stage, beside {other}"
                yield Refusal(key, what, f"correct its name; ++{key}=… is for one that is meant")
            break


def _is_new(config: DictConfig, key: str, added: Sequence[str]) -> bool:
    """Whether there is nothing at or below a key but what overrides added."""
    if not any(each == key or each.startswith(f"{key}.") for each in added):
        return False
    value = OmegaConf.select(config, key)
    if key in added or not OmegaConf.is_dict(value):
        return key in added
    return all(_is_new(config, f"{key}.{name}", added) for name in value)


_SHORTHANDS: Final = {
    "coefficient": "coefficient",
    "exploration_steps": "steps",
    "annealing_steps": "steps",
    "annealing_shape": "shape",
}
"""Keys of the `cinema` section that stages take a value from, and what that value is to a stage."""


def unread(config: DictConfig, overrides: Sequence[str]) -> Iterator[Refusal]:
    """Shorthands that an override sets and no stage takes: the stages say something else, and that is trained.

    Args:
        overrides: As Hydra got them.
    """
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    shorthands = [name for name in _SHORTHANDS if f"cinema.{name}" in given]
    planned = stages_of(config) if shorthands else None
    if planned is None:
        return
    for name in shorthands:
        attribute, value = _SHORTHANDS[name], config.cinema[name]
        if not takers(config, name) and value not in [getattr(stage, attribute) for stage in planned.stages]:
            what = f"{value} would not be trained: no stage takes it, and each has another of its own in cinema.stages"
            yield Refusal(f"cinema.{name}", what, f"drop it, or set cinema.stages.NAME.{attribute} instead")
