"""Can this configuration train what it says? One verdict for `cinema-verl doctor`, `cinema-verl preflight` and the run.

The rules need the composed configuration, the number of rows in its files and the `config.json` of its model: no torch,
no verl, no Ray. They are what verl asserts minutes into a run, and what it does silently: a schedule that is cut short,
a batch that is smaller than was asked for. `cinema_verl.training.before_start` asks before Ray starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil, lcm
from pathlib import Path
from typing import Any, Final, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cinema_verl.data.check import option_faults
from cinema_verl.data.families import FAMILIES, refused
from cinema_verl.schedule import Stages
from cinema_verl.training.estimators import schemes
from cinema_verl.training.settings import SHORTHANDS, CinemaSettings

TRAINERS: Final = ("cinema", "cinema_colocate_async")
"""In verl's modes sync and colocate_async (`cinema_verl.training.trainer`)."""
RESUME_MODES: Final = ("auto", "disable", "resume_path")
_COLOCATED: Final = 3  # CPUs that verl reserves beside each GPU (`ResourcePoolManager.max_colocate_count`)


class Refusal(NamedTuple):
    """One reason why the run would not train what the configuration says.

    Attributes:
        key: Of the configuration, the one that is most likely meant otherwise.
        what: What is wrong.
        advice: What to do.
    """

    key: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}\n    → {self.advice}"


class Facts(NamedTuple):
    """What is known beside the configuration.

    Attributes:
        processes: That torchrun has started; None where it has not yet.
        cpus: Of the machine, where the run starts its own Ray; None where it joins a cluster, or is not to be judged.
        rows: Split -> rows in its files; None where they are to be read from the files' footers.
    """

    processes: int | None = None
    cpus: int | None = None
    rows: Mapping[str, int] | None = None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Facts:
        """Of this process and machine."""
        processes = int(environment.get("WORLD_SIZE") or 0) or None
        return cls(processes, None if environment.get("RAY_ADDRESS") else os.cpu_count())


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
    if OmegaConf.select(config, "actor_rollout_ref") is None:
        rules = (_no_section, _trainer_values, _model, _sft_files, _sft_batches)
    elif OmegaConf.select(config, "cinema") is None and _value(config, "trainer.v1.trainer_mode") not in TRAINERS:
        return []
    elif _value(config, "trainer.val_only"):
        rules = (_settings, _trainer_values, _selection, _data_options, _model, _context, _ranks, _slots)
    else:
        rules = (
            *(_settings, _trainer_values, _selection, _steps, _data_options, _model, _context, _rows),
            *(_ranks, _asynchronous, _log_probs, _rl_batches, _slots),
        )
    return [refusal for rule in rules for refusal in rule(config, facts)]


# --- Reinforcement learning: what is trained ------------------------------------------------------------------


def _settings(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    try:
        CinemaSettings.from_config(config)
    except ValueError as error:
        yield Refusal("cinema", str(error), "correct the value it names; recipes/recipe/cinema.yaml has them all")


def _selection(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """The parts of CINEMA that work together only."""
    mode, estimator = _value(config, "trainer.v1.trainer_mode"), _value(config, "algorithm.adv_estimator")
    if not _value(config, "trainer.use_v1", True):
        yield Refusal("trainer.use_v1", "verl's legacy trainer knows nothing of CINEMA", "drop trainer.use_v1=false")
    elif estimator in schemes() and mode not in TRAINERS:
        yield Refusal(
            "trainer.v1.trainer_mode",
            f"the estimator {estimator} needs the patterns and the coefficient that trainer {TRAINERS[0]} feeds it, "
            f"and this is {mode}",
            f"set trainer.v1.trainer_mode={TRAINERS[0]}, or another algorithm.adv_estimator",
        )
    strategy = _value(config, "actor_rollout_ref.actor.strategy")
    key = "actor_rollout_ref.model.lora.merge"
    lora = any(
        _value(config, f"actor_rollout_ref.model.{name}") for name in ("lora_rank", "lora.rank", "lora_adapter_path")
    )
    if lora and _value(config, "actor_rollout_ref.rollout.name") == "transformers" and not _value(config, key):
        yield Refusal(key, "the transformers engine takes LoRA weights merged only", f"set {key}=true")
    factors = OmegaConf.select(config, "cinema.stages") or {}
    if strategy not in ("fsdp", "fsdp2") and any((stage or {}).get("lr_factor", 1) != 1 for stage in factors.values()):
        yield Refusal(
            "cinema.stages",
            f"lr_factor is known to work with the engines fsdp and fsdp2, and this is {strategy}",
            "drop lr_factor, or set actor_rollout_ref.actor.strategy=fsdp2",
        )
    buffer, limit = (
        _value(config, "reward.reward_kwargs.overlong_buffer_cfg"),
        _value(config, "data.max_response_length"),
    )
    if buffer and buffer.get("enable") and limit and not 0 < buffer.get("len", 0) <= limit:
        yield Refusal(
            "reward.reward_kwargs.overlong_buffer_cfg.len",
            f"{buffer.get('len')} tokens of {limit} (data.max_response_length) are to be shaped",
            f"set it between 1 and {limit}, or reward.reward_kwargs.overlong_buffer_cfg.enable=false",
        )


def _steps(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    """Whether every stage happens: verl ends at the total, or after the last epoch, whatever the stages say."""
    try:
        stages = CinemaSettings.from_config(config).stages
    except ValueError:
        return  # said by `_settings`
    limits = [("trainer.total_training_steps", _value(config, "trainer.total_training_steps"))]
    batch, rows = _value(config, "data.train_batch_size"), rows_of(config, "train", facts)
    epochs = _value(config, "trainer.total_epochs")
    if _whole(batch) and rows and rows >= batch and _whole(epochs):
        limits.append(("trainer.total_epochs", rows // batch * epochs))
    for key, total in limits:
        if not isinstance(total, int) or total >= stages.total_steps:
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
            f"{leave} to train them all, or shorten them: {_shortened(stages, total)}",
        )


def _shortened(stages: Stages, total: int) -> str:
    """The overrides that make a run as short as it would be."""
    given = stages.spans()
    ends = [0, *(round(total * last / stages.total_steps) for _, _, last in given)]
    steps = [last - before for before, last in pairwise(ends)]
    names = [f"cinema.{SHORTHANDS.get(stage.name, f'stages.{stage.name}.steps')}" for stage, _, _ in given]
    return " ".join(map("{}={}".format, names, steps)) + " (the same proportions)"


def _data_options(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    if str(_value(config, "data.custom_cls.path") or "").endswith("cinema_verl.data.dataset"):
        for fault in option_faults(config.data):
            key = fault.split()[0].partition("=")[0]  # with which each of them begins
            yield Refusal(key, fault, "correct that value")


# --- Reinforcement learning: how it is cut up -----------------------------------------------------------------


def _ranks(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What divides the GPUs: replicas of the rollout engine, and sequence parallelism."""
    gpus, rollout = _gpus(config), "actor_rollout_ref.rollout"
    parts = [_value(config, f"{rollout}.{name}_parallel_size") or 1 for name in ("tensor_model", "data")]
    parts.append(_value(config, f"{rollout}.pipeline_model_parallel_size") or 1)
    replica = parts[0] * parts[1] * parts[2]
    key = f"{rollout}.tensor_model_parallel_size"
    if _value(config, f"{rollout}.name") == "transformers" and replica != 1:
        yield Refusal(key, f"the transformers engine runs on one GPU a replica, not {replica}", f"set {key}=1")
    elif gpus % replica:
        yield Refusal(key, f"{gpus} GPUs cannot be cut into replicas of {replica}", f"set a divisor of {gpus}")
    size = _sequence_parallel(config)
    key = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
    if gpus % size:
        yield Refusal(key, f"{gpus} GPUs cannot be cut into groups of {size}", f"set a divisor of {gpus}")
    elif size > 1 and not _value(config, "actor_rollout_ref.model.use_remove_padding"):
        advice = "set actor_rollout_ref.model.use_remove_padding=true, which needs flash-attn, or 1"
        yield Refusal(key, f"sequences can be split over {size} GPUs only when they are packed", advice)


def _asynchronous(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What verl's asynchronous modes need."""
    if _value(config, "trainer.v1.trainer_mode") not in TRAINERS[1:]:
        return
    rollout, correction = "actor_rollout_ref.rollout", "algorithm.rollout_correction.rollout_is"
    if _value(config, correction) and not _value(config, f"{rollout}.calculate_log_probs"):
        yield Refusal(
            f"{rollout}.calculate_log_probs",
            f"without log-probabilities of the rollout, {correction}={_value(config, correction)} corrects nothing",
            f"set {rollout}.calculate_log_probs=true",
        )
    have, wanted = _value(config, "ray_kwargs.ray_init.num_gpus"), _gpus(config)
    if have is not None and have < wanted:
        key = "ray_kwargs.ray_init.num_gpus"
        yield Refusal(key, f"this Ray has {have}, and the run needs {wanted}", f"set {key}={wanted}, or ask for fewer")


def _log_probs(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What training with the rollout's log-probabilities needs (`cinema_verl.training.log_probs`)."""
    bypass = "algorithm.rollout_correction.bypass_mode"
    if not _value(config, bypass):
        return
    needed = {
        "actor_rollout_ref.rollout.calculate_log_probs": "there are no log-probabilities of the rollout to train with",
        "actor_rollout_ref.actor.calculate_entropy": "nothing measures the entropy of the policy",
    }
    for key, otherwise in needed.items():
        if not _value(config, key):
            yield Refusal(key, f"with {bypass}=true, {otherwise}", f"set {key}=true")


def _context(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Whether vLLM's context holds a whole trajectory; verl shortens responses to what is left, without a word."""
    key = "actor_rollout_ref.rollout.max_model_len"
    length, prompt, response = (
        _value(config, name) for name in (key, "data.max_prompt_length", "data.max_response_length")
    )
    if _value(config, "actor_rollout_ref.rollout.name") != "vllm" or not all(map(_whole, (length, prompt, response))):
        return
    if length < prompt + response:
        yield Refusal(
            key,
            f"{length} tokens are less than data.max_prompt_length + data.max_response_length = {prompt + response}: "
            "long prompts would be answered in what is left",
            f"set {key}={prompt + response}",
        )
    most = model_context(config)
    if most is not None and length > most:
        yield Refusal(key, f"{length} tokens are more than the model was made for: {most}", "lower the two limits")


def model_context(config: DictConfig) -> int | None:
    """Tokens that the model's `config.json` allows (`max_position_embeddings`); None where it is not here."""
    try:
        path = Path(str(_value(config, "actor_rollout_ref.model.path")), "config.json")
        found = json.loads(path.read_text(encoding="utf-8"))
        text = found.get("text_config") or found
        return int(text["max_position_embeddings"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # `_model` says what is wrong with the folder


def _rl_batches(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What verl asserts of the batch after the first rollout (`engine_workers.train_mini_batch`, `engine.utils`)."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    batch, n = _value(config, "data.train_batch_size"), _value(config, f"{rollout}.n")
    mini = _value(config, f"{actor}.ppo_mini_batch_size")
    for key, value in (("data.train_batch_size", batch), (f"{rollout}.n", n), (f"{actor}.ppo_mini_batch_size", mini)):
        if not _whole(value):
            yield Refusal(key, f"{value!r} is not a number of at least 1", "set one")
            return
    gpus, size = _gpus(config), _sequence_parallel(config)
    if gpus % size or _value(config, f"{actor}.strategy") not in ("fsdp", "fsdp2"):
        return  # said by `_ranks`; the arithmetic of other engines is not known here
    ranks, trajectories = gpus // size, mini * n
    dynamic = bool(_value(config, f"{actor}.use_dynamic_bsz"))
    if dynamic != bool(_value(config, f"{rollout}.log_prob_use_dynamic_bsz")):
        value = str(dynamic).lower()
        advice = f"set {rollout}.log_prob_use_dynamic_bsz={value}"
        yield Refusal(f"{rollout}.log_prob_use_dynamic_bsz", f"must equal {actor}.use_dynamic_bsz={value}", advice)
    if trajectories % ranks:
        yield Refusal(
            f"{actor}.ppo_mini_batch_size",
            f"{mini} questions x {n} rollouts = {trajectories} trajectories cannot be shared by {ranks} ranks",
            f"make ppo_mini_batch_size x n a multiple of {ranks}",
        )
        return
    if dynamic:
        longest = (_value(config, "data.max_prompt_length") or 0) + (_value(config, "data.max_response_length") or 0)
        for key in (f"{actor}.ppo_max_token_len_per_gpu", f"{rollout}.log_prob_max_token_len_per_gpu"):
            yield from _room(config, key, longest, size, "data.max_prompt_length + data.max_response_length")
        return
    # verl pads the batch with rows that count for nothing until mini-batches and ranks divide it.
    step = lcm(ranks, trajectories)
    for key, rows in (
        (f"{actor}.ppo_micro_batch_size_per_gpu", trajectories // ranks),
        (f"{rollout}.log_prob_micro_batch_size_per_gpu", ceil(batch * n / step) * step // ranks),
    ):
        yield from _divides(config, key, rows)


def _divides(config: DictConfig, key: str, rows: int) -> Iterator[Refusal]:
    micro = _value(config, key)
    if micro is None:
        return  # verl says so, before anything starts
    if not _whole(micro) or rows % micro:
        smaller = next(size for size in range(min(rows, micro if _whole(micro) else 1), 0, -1) if rows % size == 0)
        yield Refusal(key, f"{micro} does not divide the {rows} rows of a rank", f"set {key}={smaller}")


def _room(config: DictConfig, key: str, longest: int, size: int, limits: str) -> Iterator[Refusal]:
    tokens = _value(config, key)
    if isinstance(tokens, int) and tokens * size < longest:
        shared = f" x {size} (sequence parallelism)" if size > 1 else ""
        yield Refusal(
            key,
            f"{tokens}{shared} tokens are less than one sequence may have: {longest} ({limits})",
            f"set {key}={ceil(longest / size)} or more, or lower the limits",
        )


def cpus_wanted(config: DictConfig) -> int:
    """CPUs that verl's processes hold in Ray: with fewer, one of them waits for ever.

    TransferQueue holds one for each storage unit and for its controller, verl's resource pool three beside each GPU.
    Whatever starts after them (rollout servers, agent loops, reward workers) holds none.
    """
    units = 0
    if _value(config, "transfer_queue.backend.storage_backend", "SimpleStorage") == "SimpleStorage":
        units = _value(config, "transfer_queue.backend.SimpleStorage.num_data_storage_units") or 0
    return int(units + 1 + _COLOCATED * _gpus(config))


def slots_refusal(config: DictConfig, have: float, where: str) -> Refusal | None:
    """Whether Ray has CPUs enough for what verl starts; `where` says which Ray."""
    wanted = cpus_wanted(config)
    if have >= wanted:
        return None
    units = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
    return Refusal(
        "ray_kwargs.ray_init.num_cpus",
        f"{where} has {have:g} CPUs, and verl's processes hold {wanted}: {_value(config, units)} storage units, their "
        f"controller, and {_COLOCATED} for each of {_gpus(config)} GPUs. The run would wait for ever",
        f"lower {units}; ray_kwargs.ray_init.num_cpus={wanted} counts slots for processes, not cores, on one machine",
    )


def _slots(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    """Of a Ray that the run itself starts; of a cluster, `cinema-verl doctor` knows."""
    if facts.cpus is None or _value(config, "ray_kwargs.ray_init.address"):
        return
    given = _value(config, "ray_kwargs.ray_init.num_cpus")
    found = slots_refusal(config, given or facts.cpus, "this Ray" if given else "this machine")
    if found is not None:
        yield found


# --- Supervised fine-tuning -----------------------------------------------------------------------------------


def _no_section(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Keys that nobody would read."""
    if OmegaConf.select(config, "cinema") is not None:
        yield Refusal("cinema", "supervised fine-tuning has no such section, and would not look at it", "drop its keys")


def _sft_files(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """How often it is validated and saved, on what."""
    for key in ("trainer.save_freq", "trainer.test_freq"):
        if _value(config, key) == 0:
            yield Refusal(key, "0: verl divides by it after the first step", f"set {key}=-1 for never")
    test_freq = _value(config, "trainer.test_freq")
    if not _value(config, "data.val_files") and (test_freq == "after_each_epoch" or _whole(test_freq)):
        advice = "set trainer.test_freq=-1, or name data.val_files"
        yield Refusal("data.val_files", f"no file, and trainer.test_freq={test_freq} asks for a validation", advice)


def _sft_batches(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    batch, size = _value(config, "data.train_batch_size"), _value(config, "engine.ulysses_sequence_parallel_size") or 1
    if not _whole(batch):
        yield Refusal("data.train_batch_size", f"{batch!r} is not a number of at least 1", "set one")
        return
    # torchrun says how many processes there are; before it has started, the recipe's own keys do.
    processes = facts.processes or _gpus(config)
    if _value(config, "engine.strategy") not in ("fsdp", "fsdp2"):
        return  # the arithmetic of other engines is not known here
    if processes % size:
        key = "engine.ulysses_sequence_parallel_size"
        yield Refusal(
            key, f"{processes} processes cannot be cut into groups of {size}", f"set a divisor of {processes}"
        )
        return
    ranks = processes // size
    if batch % ranks:
        yield Refusal(
            "data.train_batch_size",
            f"{batch} rows cannot be shared by {ranks} ranks: verl would train on {batch // ranks * ranks} a step "
            "without a word",
            f"set a multiple of {ranks}",
        )
    elif _value(config, "data.use_dynamic_bsz"):
        key = "data.max_token_len_per_gpu"
        yield from _room(config, key, _value(config, "data.max_length") or 0, size, "data.max_length")
    else:
        yield from _divides(config, "data.micro_batch_size_per_gpu", batch // ranks)
    yield from _rows(config, facts)
    if rows_of(config, "val", facts) == 0 and _value(config, "data.val_files"):
        advice = "name files with rows; for no validation set data.val_files=null trainer.test_freq=-1"
        yield Refusal("data.val_files", "0 rows: there is nothing to validate on", advice)


# --- Both -----------------------------------------------------------------------------------------------------


def _trainer_values(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Values that verl meets when it compares, saves or resumes, minutes or hours later."""
    supervised = OmegaConf.select(config, "actor_rollout_ref") is None
    whens = ("after_each_epoch",) if supervised else ()
    keep = "max_ckpt_to_keep" if supervised else "max_actor_ckpt_to_keep"
    numbers = {"save_freq": whens, "test_freq": whens, "total_epochs": (), "total_training_steps": (None,)}
    for name, also in {**numbers, keep: (None,), "n_gpus_per_node": (), "nnodes": ()}.items():
        value = _value(config, f"trainer.{name}")
        if value is not None and value not in also and (isinstance(value, bool) or not isinstance(value, int)):
            known = " or ".join(["a whole number", *(one for one in also if one)])
            yield Refusal(f"trainer.{name}", f"{value!r} is not {known}", "correct the value")
    mode = _value(config, "trainer.resume_mode")
    if mode not in RESUME_MODES:
        yield Refusal("trainer.resume_mode", f"{mode!r} is none of {', '.join(RESUME_MODES)}", "set one of them")
    for name in ("val_before_train", "val_only"):
        if not isinstance(value := _value(config, f"trainer.{name}", False), bool):
            yield Refusal(f"trainer.{name}", f"{value!r} is neither true nor false", "set one of them")


def _rows(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    rows, batch = rows_of(config, "train", facts), _value(config, "data.train_batch_size")
    if rows is not None and _whole(batch) and rows < batch:
        detail = f"{rows:,} training rows, fewer than data.train_batch_size={batch}: not one step"
        yield Refusal("data.train_batch_size", detail, f"lower data.train_batch_size to {rows:,} or less")


def rows_of(config: DictConfig, split: str, facts: Facts) -> int | None:
    """Rows of a split that the run will use; None where that cannot be known."""
    rows = _footers(config, split) if facts.rows is None else facts.rows.get(split)
    most = _value(config, f"data.{split}_max_samples", -1)
    return min(rows, most) if rows is not None and _whole(most) else rows


def _footers(config: DictConfig, split: str) -> int | None:
    """Rows in the parquet files of a split, from their footers."""
    files = _value(config, f"data.{split}_files")
    files = [files] if isinstance(files, str) else list(files or ())
    if not files or not all(str(file).endswith(".parquet") and Path(file).is_file() for file in files):
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return sum(int(pq.read_metadata(file).num_rows) for file in files)
    except (OSError, pa.ArrowException):
        return None  # the data set says what is wrong with the file


def _model(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Whether verl can train this kind of model at all, from the folder's `config.json`."""
    key = "actor_rollout_ref.model.path" if OmegaConf.select(config, "actor_rollout_ref") is not None else "model.path"
    path = str(_value(config, key) or "")
    if path.startswith("~"):
        yield Refusal(key, f"{path}: neither verl nor transformers expands ~", "write the whole path")
    elif path.startswith(("/", "./", "../")) and not Path(path).is_dir():
        yield Refusal(key, f"{path} does not exist", "correct the path")
    elif Path(path).is_dir():
        strategy = "engine.strategy" if key == "model.path" else "actor_rollout_ref.actor.strategy"
        yield from _family(key, Path(path), strategy, _value(config, strategy))


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


def _gpus(config: DictConfig) -> int:
    each, nodes = _value(config, "trainer.n_gpus_per_node"), _value(config, "trainer.nnodes")
    return int((each if _whole(each) else 1) * (nodes if _whole(nodes) else 1))  # else said by `_trainer_values`


def _sequence_parallel(config: DictConfig) -> int:
    """verl takes the older key where it is set (`FSDPActorConfig.__post_init__`)."""
    older = _value(config, "actor_rollout_ref.actor.ulysses_sequence_parallel_size") or 1
    newer = _value(config, "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size") or 1
    return int(older if older > 1 else newer)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _value(config: DictConfig, key: str, default: Any = None) -> Any:
    """A value, the default where it is absent, null, or made of others that are."""
    try:
        found = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return default
    return default if found is None else found
