"""Do the numbers of a run fit together: batches, ranks, rows, tokens, and the CPUs that verl's processes hold?

verl asserts some of it after the first rollout, minutes into a run; where the rest is wrong, it trains something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import ceil, lcm, prod
from pathlib import Path
from typing import Final

from omegaconf import DictConfig

from cinema_verl.training.refusal import Facts, Refusal, gpus_of, is_whole, value_of
from cinema_verl.training.settings import group_sizes

_COLOCATED: Final = 3  # CPUs that verl reserves beside each GPU (`ResourcePoolManager.max_colocate_count`)
_STANDALONE: Final = 2  # the same, of a rollout replica with GPUs of its own (`RolloutReplica.init_standalone`)
SEPARATE: Final = "cinema_separate_async"
"""The trainer that generates on GPUs of its own."""


def ranks(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What divides the GPUs: replicas of the rollout engine, and sequence parallelism."""
    gpus, rollout, replica = gpus_of(config), "actor_rollout_ref.rollout", _replica(config)
    key = f"{rollout}.tensor_model_parallel_size"
    if value_of(config, f"{rollout}.name") == "transformers" and replica != 1:
        yield Refusal(key, f"the transformers engine runs on one GPU a replica, not {replica}", f"set {key}=1")
    elif gpus % replica:
        yield Refusal(key, f"{gpus} GPUs cannot be cut into replicas of {replica}", f"set a divisor of {gpus}")
    size = _sequence_parallel(config)
    key = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
    if gpus % size:
        yield Refusal(key, f"{gpus} GPUs cannot be cut into groups of {size}", f"set a divisor of {gpus}")
    elif size > 1 and not value_of(config, "actor_rollout_ref.model.use_remove_padding"):
        advice = "set actor_rollout_ref.model.use_remove_padding=true, which needs flash-attn, or 1"
        yield Refusal(key, f"sequences can be split over {size} GPUs only when they are packed", advice)


def context(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Whether vLLM's context holds a whole trajectory; verl shortens responses to what is left, without a word."""
    key = "actor_rollout_ref.rollout.max_model_len"
    length, prompt, response = (
        value_of(config, name) for name in (key, "data.max_prompt_length", "data.max_response_length")
    )
    vllm = value_of(config, "actor_rollout_ref.rollout.name") == "vllm"
    if not (vllm and is_whole(length) and is_whole(prompt) and is_whole(response)):
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
        path = Path(str(value_of(config, "actor_rollout_ref.model.path")), "config.json")
        found = json.loads(path.read_text(encoding="utf-8"))
        text = found.get("text_config") or found
        return int(text["max_position_embeddings"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # the verdict says what is wrong with the folder


def rl_batches(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """What verl asserts of the batch after the first rollout (`engine_workers.train_mini_batch`, `engine.utils`)."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    batch, n = value_of(config, "data.train_batch_size"), value_of(config, f"{rollout}.n")
    mini = value_of(config, f"{actor}.ppo_mini_batch_size")
    for key, value in (("data.train_batch_size", batch), (f"{rollout}.n", n), (f"{actor}.ppo_mini_batch_size", mini)):
        if not is_whole(value):
            yield Refusal(key, f"{value!r} is not a number of at least 1", "set one")
            return
    gpus, size = gpus_of(config), _sequence_parallel(config)
    if gpus % size or value_of(config, f"{actor}.strategy") not in ("fsdp", "fsdp2"):
        return  # said by `ranks`; the arithmetic of other engines is not known here
    dynamic = bool(value_of(config, f"{actor}.use_dynamic_bsz"))
    if dynamic != bool(value_of(config, f"{rollout}.log_prob_use_dynamic_bsz")):
        value = str(dynamic).lower()
        advice = f"set {rollout}.log_prob_use_dynamic_bsz={value}"
        yield Refusal(f"{rollout}.log_prob_use_dynamic_bsz", f"must equal {actor}.use_dynamic_bsz={value}", advice)
    if dynamic:
        longest = sum(value_of(config, f"data.max_{part}_length", 0) for part in ("prompt", "response"))
        for key in (f"{actor}.ppo_max_token_len_per_gpu", f"{rollout}.log_prob_max_token_len_per_gpu"):
            yield from _room(config, key, longest, size, "data.max_prompt_length + data.max_response_length")
    if value_of(config, "trainer.v1.trainer_mode") == SEPARATE:
        batch = mini  # each update has a batch of its own
    ranks = gpus // size
    for group in dict.fromkeys(group_sizes(config)):
        trajectories = mini * group
        if trajectories % ranks:
            yield Refusal(
                f"{actor}.ppo_mini_batch_size",
                f"{mini} questions x {group} rollouts = {trajectories} trajectories cannot be shared by {ranks} ranks",
                f"make ppo_mini_batch_size x n a multiple of {ranks}",
            )
        elif not dynamic:
            # verl pads the batch with rows that count for nothing until mini-batches and ranks divide it.
            step = lcm(ranks, trajectories)
            for key, rows in (
                (f"{actor}.ppo_micro_batch_size_per_gpu", trajectories // ranks),
                (f"{rollout}.log_prob_micro_batch_size_per_gpu", ceil(batch * group / step) * step // ranks),
            ):
                yield from _divides(config, key, rows)


def separate(config: DictConfig) -> Iterator[Refusal]:
    """What verl asserts of separate_async (`PPOTrainerSeparateAsync`), and what it finds out after minutes."""
    rollout, key = "actor_rollout_ref.rollout", "trainer.v1.separate_async.parameter_sync_step"
    batch, updates = value_of(config, "data.train_batch_size"), value_of(config, key)
    mini = value_of(config, "actor_rollout_ref.actor.ppo_mini_batch_size")
    if is_whole(batch) and is_whole(updates) and is_whole(mini) and batch != updates * mini:
        yield Refusal(
            key,
            f"data.train_batch_size={batch} is to be trained in {updates} updates of ppo_mini_batch_size={mini}, which "
            f"are {updates * mini}",
            f"set data.train_batch_size={updates * mini}",
        )
    gpus, replica = _rollout_gpus(config), _replica(config)
    if not gpus or gpus % replica:
        yield Refusal(
            f"{rollout}.n_gpus_per_node",
            f"{gpus} GPUs of their own for generation, in replicas of {replica}",
            f"set {rollout}.nnodes and {rollout}.n_gpus_per_node to a multiple of {replica} GPUs beside the trainer's",
        )
    key = f"{rollout}.checkpoint_engine.backend"
    if value_of(config, key) in (None, "naive"):
        advice = f"set {key}=nccl, or gloo on a CPU"
        yield Refusal(key, "weights reach processes elsewhere by a checkpoint engine only", advice)


def sft_batches(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    """What verl's SFT program asserts of the batch, or makes smaller."""
    batch = value_of(config, "data.train_batch_size")
    size = value_of(config, "engine.ulysses_sequence_parallel_size") or 1
    if not is_whole(batch):
        yield Refusal("data.train_batch_size", f"{batch!r} is not a number of at least 1", "set one")
        return
    # torchrun says how many processes there are; before it has started, the recipe's own keys do.
    processes = facts.processes or gpus_of(config)
    if value_of(config, "engine.strategy") not in ("fsdp", "fsdp2"):
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
    elif value_of(config, "data.use_dynamic_bsz"):
        key = "data.max_token_len_per_gpu"
        yield from _room(config, key, value_of(config, "data.max_length") or 0, size, "data.max_length")
    else:
        yield from _divides(config, "data.micro_batch_size_per_gpu", batch // ranks)
    yield from enough_rows(config, facts)
    if rows_of(config, "val", facts) == 0 and value_of(config, "data.val_files"):
        advice = "name files with rows; for no validation set data.val_files=null trainer.test_freq=-1"
        yield Refusal("data.val_files", "0 rows: there is nothing to validate on", advice)


def _divides(config: DictConfig, key: str, rows: int) -> Iterator[Refusal]:
    micro = value_of(config, key)
    if micro is None:
        return  # verl says so, before anything starts
    if not is_whole(micro) or rows % micro:
        smaller = next(size for size in range(min(rows, micro if is_whole(micro) else 1), 0, -1) if rows % size == 0)
        yield Refusal(key, f"{micro} does not divide the {rows} rows of a rank", f"set {key}={smaller}")


def _room(config: DictConfig, key: str, longest: int, size: int, limits: str) -> Iterator[Refusal]:
    tokens = value_of(config, key)
    if isinstance(tokens, int) and tokens * size < longest:
        shared = f" x {size} (sequence parallelism)" if size > 1 else ""
        yield Refusal(
            key,
            f"{tokens}{shared} tokens are less than one sequence may have: {longest} ({limits})",
            f"set {key}={ceil(longest / size)} or more, or lower the limits",
        )


def _rollout_gpus(config: DictConfig) -> int:
    """GPUs that generate and do nothing else: verl looks at these keys in mode separate_async only."""
    if value_of(config, "trainer.v1.trainer_mode") != SEPARATE:
        return 0
    each, nodes = (value_of(config, f"actor_rollout_ref.rollout.{name}") for name in ("n_gpus_per_node", "nnodes"))
    return int(each * nodes) if is_whole(each) and is_whole(nodes) else 0


def _replica(config: DictConfig) -> int:
    """GPUs of one replica of the rollout engine."""
    parts = ("tensor_model", "data", "pipeline_model")
    return prod(value_of(config, f"actor_rollout_ref.rollout.{name}_parallel_size") or 1 for name in parts)


def _sequence_parallel(config: DictConfig) -> int:
    """verl takes the older key where it is set (`FSDPActorConfig.__post_init__`)."""
    older = value_of(config, "actor_rollout_ref.actor.ulysses_sequence_parallel_size") or 1
    newer = value_of(config, "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size") or 1
    return int(older if older > 1 else newer)


def enough_rows(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    """Whether there are as many rows as one batch takes."""
    rows, batch = rows_of(config, "train", facts), value_of(config, "data.train_batch_size")
    if rows is not None and is_whole(batch) and rows < batch:
        detail = f"{rows:,} training rows, fewer than data.train_batch_size={batch}: not one step"
        yield Refusal("data.train_batch_size", detail, f"lower data.train_batch_size to {rows:,} or less")


def rows_of(config: DictConfig, split: str, facts: Facts) -> int | None:
    """Rows of a split that the run will use; None where that cannot be known."""
    rows = _footers(config, split) if facts.rows is None else facts.rows.get(split)
    most = value_of(config, f"data.{split}_max_samples", -1)
    return min(rows, most) if rows is not None and is_whole(most) else rows


def _footers(config: DictConfig, split: str) -> int | None:
    """Rows in the parquet files of a split, from their footers."""
    files = value_of(config, f"data.{split}_files")
    files = [files] if isinstance(files, str) else list(files or ())
    if not files or not all(str(file).endswith(".parquet") and Path(file).is_file() for file in files):
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return sum(int(pq.read_metadata(file).num_rows) for file in files)
    except (OSError, pa.ArrowException):
        return None  # the data set says what is wrong with the file


def gpus_wanted(config: DictConfig) -> int:
    """GPUs that verl's processes hold in Ray: those that train, and those that generate and do nothing else."""
    return gpus_of(config) + _rollout_gpus(config)


def gpus_there(resources: Mapping[str, float]) -> float:
    """GPUs of a Ray, as verl counts them (`ResourcePoolManager`): NPUs where there are no GPUs."""
    return resources.get("GPU", resources.get("NPU", 0.0))


def gpus_refusal(config: DictConfig, have: float, where: str) -> Refusal | None:
    """Whether a Ray has GPUs enough; `where` says which Ray."""
    train, only_generate = gpus_of(config), _rollout_gpus(config)
    if have >= train + only_generate:
        return None
    parts = f"{train} of trainer.n_gpus_per_node x trainer.nnodes"
    parts += f", {only_generate} of actor_rollout_ref.rollout" if only_generate else ""
    return Refusal(
        "trainer.n_gpus_per_node",
        f"{where} has {have:g} GPUs, and the run needs {train + only_generate} ({parts})",
        "ask for fewer, or for a Ray that has them: more nodes (`ray status`), RAY_ADDRESS, "
        "ray_kwargs.ray_init.num_gpus",
    )


def cpus_wanted(config: DictConfig) -> int:
    """CPUs that verl's processes hold in Ray: with fewer, one of them waits for ever.

    TransferQueue holds one for each storage unit and for its controller, verl's resource pools three beside each GPU
    that trains, and two beside each that only generates.
    Whatever starts after them (rollout servers, agent loops, reward workers) holds none.
    """
    units = 0
    if value_of(config, "transfer_queue.backend.storage_backend", "SimpleStorage") == "SimpleStorage":
        units = value_of(config, "transfer_queue.backend.SimpleStorage.num_data_storage_units") or 0
    return int(units + 1 + _COLOCATED * gpus_of(config) + _STANDALONE * _rollout_gpus(config))


def slots_refusal(config: DictConfig, have: float, where: str) -> Refusal | None:
    """Whether Ray has CPUs enough for what verl starts; `where` says which Ray."""
    wanted = cpus_wanted(config)
    if have >= wanted:
        return None
    units = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
    more = f", {_STANDALONE} for each of {_rollout_gpus(config)} that generate" if _rollout_gpus(config) else ""
    return Refusal(
        "ray_kwargs.ray_init.num_cpus",
        f"{where} has {have:g} CPUs, and verl's processes hold {wanted}: {value_of(config, units)} storage units, "
        f"their controller, {_COLOCATED} for each of {gpus_of(config)} GPUs{more}. The run would wait for ever",
        f"lower {units}; ray_kwargs.ray_init.num_cpus={wanted} counts slots for processes, not cores, on one machine",
    )


def too_small(config: DictConfig, resources: Mapping[str, float]) -> Iterator[Refusal]:
    """What the run holds and the cluster does not have: verl would find out after its workers have started, or wait.

    Args:
        config: of reinforcement learning.
        resources: of all nodes (`ray.cluster_resources`).
    """
    found = (
        gpus_refusal(config, gpus_there(resources), "the cluster"),
        slots_refusal(config, resources.get("CPU", 0.0), "the cluster"),
    )
    yield from (refusal for refusal in found if refusal is not None)


def slots(config: DictConfig, facts: Facts) -> Iterator[Refusal]:
    """Of a Ray that the run itself starts; of a cluster, `cinema-verl doctor` knows."""
    if facts.cpus is None or value_of(config, "ray_kwargs.ray_init.address"):
        return
    cpus, gpus = (value_of(config, f"ray_kwargs.ray_init.num_{kind}") for kind in ("cpus", "gpus"))
    if gpus is not None and (found := gpus_refusal(config, gpus, "this Ray")) is not None:
        yield found
    if (found := slots_refusal(config, cpus or facts.cpus, "this Ray" if cpus else "this machine")) is not None:
        yield found
