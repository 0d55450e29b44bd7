"""Can this configuration train what it says? One verdict for `cinema-verl doctor`, `cinema-verl preflight` and the run.

The rules need the composed configuration, the number of rows in its files and the `config.json` of its model: no torch,
no verl, no Ray. Here are those on what is asked for, a schedule that would be cut short for one; whether its numbers
fit together is `cinema_verl.training.arithmetic`. `cinema_verl.training.before_start` asks before Ray starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from cinema_verl.data.check import option_faults
from cinema_verl.data.families import FAMILIES, refused
from cinema_verl.schedule import Stages
from cinema_verl.training import arithmetic
from cinema_verl.training.arithmetic import SEPARATE, rows_of
from cinema_verl.training.code_files import missing_code
from cinema_verl.training.estimators import schemes
from cinema_verl.training.refusal import VERLS_OWN, Facts, Refusal, fine_tunes, is_whole, value_of
from cinema_verl.training.settings import SHORTHANDS, CinemaSettings, stages_of, takers
from cinema_verl.training.values import wrong_values
from cinema_verl.utils.native_reasoning import KEY as REASONING
from cinema_verl.utils.native_reasoning import NATIVE_REASONING

_MANAGER: Final = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
_SHARING: Final = "cinema_verl.training.agent_loop_manager.SharingAgentLoopManager"
TRAINERS: Final = ("cinema", "cinema_colocate_async", SEPARATE)
"""In verl's modes sync, colocate_async and separate_async (`cinema_verl.training.trainer`)."""


def refusals(config: DictConfig, facts: Facts | None = None) -> list[Refusal]:
    """Every reason to refuse a configuration, composed for reinforcement learning or for supervised fine-tuning.

    Args:
        config: What `verl.trainer.main_ppo` or `verl.trainer.sft_trainer` gets from Hydra.
        facts: None for `Facts.here()`.

    Returns:
        Nothing for a configuration of verl that asks for none of CINEMA.
    """
    facts = Facts.here() if facts is None else facts
    rules: Sequence[Callable[[DictConfig, Facts], Iterator[Refusal]]]
    if fine_tunes(config):
        rules = (_no_section, wrong_values, missing_code, _model, _sft_files, arithmetic.sft_batches)
    elif OmegaConf.select(config, "cinema") is None and value_of(config, "trainer.v1.trainer_mode") not in TRAINERS:
        return []
    elif value_of(config, "trainer.val_only"):
        rules = (*_ASKED, arithmetic.context, arithmetic.ranks, arithmetic.slots)
    else:
        rules = (
            *(*_ASKED, _steps, _asynchronous, _log_probs, arithmetic.context, arithmetic.enough_rows),
            *(arithmetic.ranks, arithmetic.rl_batches, arithmetic.slots),
        )
    return [refusal for rule in rules for refusal in rule(config, facts)]


# --- Reinforcement learning -----------------------------------------------------------------------------------


def _settings(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    try:
        CinemaSettings.from_config(config)
    except ValueError as error:
        yield Refusal("cinema", str(error), "correct the value it names; recipes/recipe/cinema.yaml has them all")


def _selection(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """The parts of CINEMA that work together only."""
    mode, estimator = value_of(config, "trainer.v1.trainer_mode"), value_of(config, "algorithm.adv_estimator")
    if not value_of(config, "trainer.use_v1", True):
        yield Refusal("trainer.use_v1", "verl's legacy trainer knows nothing of CINEMA", "drop trainer.use_v1=false")
    elif estimator in schemes() and mode not in TRAINERS:
        yield Refusal(
            "trainer.v1.trainer_mode",
            f"the estimator {estimator} needs the patterns and the coefficient that trainer {TRAINERS[0]} feeds it, "
            f"and this is {mode}",
            f"set trainer.v1.trainer_mode={TRAINERS[0]}, or another algorithm.adv_estimator",
        )
    strategy = value_of(config, "actor_rollout_ref.actor.strategy")
    key = "actor_rollout_ref.model.lora.merge"
    lora = any(
        value_of(config, f"actor_rollout_ref.model.{name}") for name in ("lora_rank", "lora.rank", "lora_adapter_path")
    )
    if lora and value_of(config, "actor_rollout_ref.rollout.name") == "transformers" and not value_of(config, key):
        yield Refusal(key, "the transformers engine takes LoRA weights merged only", f"set {key}=true")
    plan = planned(config)
    stages = plan.stages if plan else ()
    if strategy not in ("fsdp", "fsdp2") and any(stage.lr_factor != 1 for stage in stages):
        yield Refusal(
            "cinema.stages",
            f"lr_factor is known to work with the engines fsdp and fsdp2, and this is {strategy}",
            "drop lr_factor, or set actor_rollout_ref.actor.strategy=fsdp2",
        )
    if any(stage.n is not None or stage.temperature is not None for stage in stages):
        for key, wanted in (("trainer.v1.trainer_mode", TRAINERS[0]), (_MANAGER, _SHARING)):
            if (got := value_of(config, key)) != wanted:
                yield Refusal(
                    "cinema.stages",
                    f"a stage's own temperature and n are kept with {key}={wanted}, and this is {got}",
                    f"drop them, or set {key}={wanted}",
                )
    buffer, limit = (
        value_of(config, "reward.reward_kwargs.overlong_buffer_cfg"),
        value_of(config, "data.max_response_length"),
    )
    if buffer and buffer.get("enable") and limit and not 0 < buffer.get("len", 0) <= limit:
        yield Refusal(
            "reward.reward_kwargs.overlong_buffer_cfg.len",
            f"{buffer.get('len')} tokens of {limit} (data.max_response_length) are to be shaped",
            f"set it between 1 and {limit}, or reward.reward_kwargs.overlong_buffer_cfg.enable=false",
        )


def _reasoning(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    declared = value_of(config, REASONING, "none")
    if declared not in NATIVE_REASONING:
        yield Refusal(REASONING, f"{declared!r} is none of {', '.join(NATIVE_REASONING)}", "set one of them")


def planned(config: DictConfig) -> Stages | None:
    """The stages; None with a trainer that knows none, and where the settings are wrong, which `_settings` says."""
    return stages_of(config) if value_of(config, "trainer.v1.trainer_mode") in TRAINERS else None


def _steps(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    """Whether every stage happens: verl ends at the total, or after the last epoch, whatever the stages say."""
    stages = planned(config)
    if stages is None:
        return
    limits = [("trainer.total_training_steps", value_of(config, "trainer.total_training_steps"))]
    batch, rows = value_of(config, "data.train_batch_size"), rows_of(config, "train", facts)
    epochs = value_of(config, "trainer.total_epochs")
    if is_whole(batch) and rows and rows >= batch and is_whole(epochs):
        limits.append(("trainer.total_epochs", rows // batch * epochs))
    for key, total in limits:
        if not is_whole(total) or total >= stages.total_steps:
            continue
        missed = [
            f"stage {stages.number(first)} ({stage.name}, steps {first} to {last}) would "
            + ("not happen" if total < first else f"end early, at coefficient {stages.coefficient(total):g}")
            for stage, first, last in stages.spans()
            if total < last
        ]
        leave = "drop trainer.total_training_steps" if key.endswith("steps") else "raise trainer.total_epochs"
        yield Refusal(
            key,
            f"the run would end after {total} steps, and its stages have "
            f"{' + '.join(str(stage.steps) for stage, _, _ in stages.spans())}: {'; '.join(missed)}",
            f"{leave} to train them all, or shorten them: {_shortened(config, stages, total)}",
        )


def _shortened(config: DictConfig, stages: Stages, total: int) -> str:
    """The overrides that make a run as short as it would be."""
    given = stages.spans()
    ends = [0, *(round(total * last / stages.total_steps) for _, _, last in given)]
    overrides = []
    for (stage, _, _), (before, last) in zip(given, pairwise(ends), strict=True):
        shorthand = SHORTHANDS.get(stage.name)
        if shorthand and stage.name in takers(config, shorthand):
            overrides.append(f"cinema.{shorthand}={last - before}")
        else:
            steps = f".steps={last - before}" if last > before else "=null"
            overrides.append(f"cinema.stages.{stage.name}{steps}")
    return " ".join(overrides) + " (the same proportions)"


def _data_options(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    if str(value_of(config, "data.custom_cls.path") or "").endswith("cinema_verl.data.dataset"):
        for fault in option_faults(config.data):
            key = fault.split()[0].partition("=")[0]  # with which each of them begins
            yield Refusal(key, fault, "correct that value")


def _asynchronous(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What verl's asynchronous modes need; without GPUs enough they would wait for ever."""
    if value_of(config, "trainer.v1.trainer_mode") not in TRAINERS[1:]:
        return
    rollout, correction = "actor_rollout_ref.rollout", "algorithm.rollout_correction.rollout_is"
    if value_of(config, correction) and not value_of(config, f"{rollout}.calculate_log_probs"):
        yield Refusal(
            f"{rollout}.calculate_log_probs",
            f"without log-probabilities of the rollout, {correction}={value_of(config, correction)} corrects nothing",
            f"set {rollout}.calculate_log_probs=true",
        )
    if value_of(config, "trainer.v1.trainer_mode") == SEPARATE:
        yield from arithmetic.separate(config)


def _log_probs(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What training with the rollout's log-probabilities needs (`cinema_verl.training.log_probs`)."""
    bypass = "algorithm.rollout_correction.bypass_mode"
    if not value_of(config, bypass):
        return
    needed = {
        "actor_rollout_ref.rollout.calculate_log_probs": "there are no log-probabilities of the rollout to train with",
        "actor_rollout_ref.actor.calculate_entropy": "nothing measures the entropy of the policy",
    }
    for key, otherwise in needed.items():
        if not value_of(config, key):
            yield Refusal(key, f"with {bypass}=true, {otherwise}", f"set {key}=true")


# --- Supervised fine-tuning -----------------------------------------------------------------------------------


def _no_section(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Keys that nobody would read."""
    for section in ("cinema", "actor_rollout_ref", "algorithm", "reward"):
        if OmegaConf.select(config, section) is not None:
            what = "supervised fine-tuning has no such section, and would not look at it"
            yield Refusal(section, what, "drop its keys; those of the model are model.…, of the optimiser optim.…")


def _sft_files(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """How often it is validated and saved, on what."""
    for key in ("trainer.save_freq", "trainer.test_freq"):
        if value_of(config, key) == 0:
            yield Refusal(key, "0: verl divides by it after the first step", f"set {key}=-1 for never")
    test_freq = value_of(config, "trainer.test_freq")
    if not value_of(config, "data.val_files") and (test_freq == "after_each_epoch" or is_whole(test_freq)):
        advice = "set trainer.test_freq=-1, or name data.val_files"
        yield Refusal("data.val_files", f"no file, and trainer.test_freq={test_freq} asks for a validation", advice)


# --- Both -----------------------------------------------------------------------------------------------------


def _model(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Whether verl can train this kind of model at all, from the folder's `config.json`."""
    key = "model.path" if fine_tunes(config) else "actor_rollout_ref.model.path"
    path = str(value_of(config, key) or "")
    if path in VERLS_OWN:
        yield Refusal(key, f"no model is named ({path} is verl's own default)", f"set {key} to a folder, or a name")
    elif path.startswith("~"):
        yield Refusal(key, f"{path}: neither verl nor transformers expands ~", "write the whole path")
    elif path.startswith(("/", "./", "../")) and not Path(path).is_dir():
        yield Refusal(key, f"{path} does not exist", "correct the path")
    elif Path(path).is_dir():
        strategy = "engine.strategy" if key == "model.path" else "actor_rollout_ref.actor.strategy"
        yield from _family(key, Path(path), strategy, value_of(config, strategy))


def _family(key: str, folder: Path, strategy: str, chosen: Any) -> Iterator[Refusal]:
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        what = "a LoRA adapter without the model it is for" if adapter else "no config.json: not a Hugging Face model"
        advice = "merge it into its base model, and name that folder" if adapter else "name the folder that has one"
        yield Refusal(key, f"{folder} holds {what}", advice)
        return
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        yield Refusal(key, f"{folder}/config.json cannot be read: {error}", "copy the model again")
        return
    if (reason := refused(found)) is not None:
        yield Refusal(key, *reason)
    elif chosen == "fsdp2" and not (family := FAMILIES[found]).fsdp2:
        what = f"verl 0.9.1's FSDP2 shards the position embedding of {family.name}'s vision tower, which cannot read it"
        yield Refusal(strategy, what, f"set {strategy}=fsdp, which needs a GPU and was not tried here")


def _scoring(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Without reward workers, this package's agent loops score by themselves; verl's would find nobody to ask."""
    if value_of(config, "reward.num_workers", 1) != 0:
        return
    manager = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
    without = "a reward model" if value_of(config, "reward.reward_model.enable") else None
    if not value_of(config, manager):
        without = f"verl's own agent loops ({manager}=null)"
    if without:
        yield Refusal("reward.num_workers", f"0 leaves nobody to score, with {without}", "set reward.num_workers=1")


_ASKED: Final = (_settings, wrong_values, missing_code, _selection, _reasoning, _data_options, _model, _scoring)
"""Of every run with an actor, evaluations as well."""
