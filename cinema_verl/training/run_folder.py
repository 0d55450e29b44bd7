"""One run's files are one run's: what is in `trainer.default_local_dir`, and who may write to it.

A run writes everything below that folder: checkpoints, metrics, rollouts, validations, its resolved configuration
(`config.yaml`, of the latest start) and how it was started (`run.json`, an entry a start). The process that starts the
run makes the folder's path absolute, refuses a folder that holds another run, and holds its lock until it ends.
"""

import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from cinema_verl.runs.locate import CONFIG, METRICS, RUN
from cinema_verl.schedule import Stage
from cinema_verl.training.checkpoint import complete_steps, run_of, run_that_resumes, step_folder, steps_on_disk
from cinema_verl.training.refusal import fine_tunes
from cinema_verl.utils.files import Locked, atomic_write, only_one

LOCK: Final = ".run.lock"
PATIENCE: Final = 10.0
"""Seconds to wait for a lock: the helper processes of a run that was killed hold it until they notice."""

TENSORBOARD: Final = "TENSORBOARD_DIR"
_METRICS_PATH: Final = "VERL_FILE_LOGGER_PATH"
_ENV_VARS: Final = "ray_kwargs.ray_init.runtime_env.env_vars"
_PATHS: Final = ("default_local_dir", "rollout_data_dir", "validation_data_dir", "resume_from_path")
_FILES: Final = ("data.train_files", "actor_rollout_ref.model.path", "model.path")
_DECIDE: Final = {
    "cinema": "stages term_guard pattern_mode",
    "algorithm": "",
    "data": "train_batch_size seed shuffle train_max_samples max_prompt_length max_response_length max_length "
    "truncation cinema_prompt_mode prompt_key messages_key image_key apply_chat_template_kwargs "
    "enable_thinking_default",
    "actor_rollout_ref.model": "lora_rank lora_alpha target_modules exclude_modules",
    "actor_rollout_ref.actor": "ppo_mini_batch_size ppo_epochs loss_agg_mode clip_ratio clip_ratio_low clip_ratio_high "
    "clip_ratio_c grad_clip use_kl_loss kl_loss_coef kl_loss_type entropy_coeff policy_loss",
    "actor_rollout_ref.actor.fsdp_config": "mixed_precision",
    "actor_rollout_ref.actor.optim": "lr betas weight_decay lr_warmup_steps lr_warmup_steps_ratio lr_scheduler_type "
    "min_lr_ratio num_cycles",
    "actor_rollout_ref.rollout": "n temperature top_p top_k seed ignore_eos",
    "reward": "custom_reward_function reward_manager reward_kwargs",
    "model": "lora_rank lora_alpha target_modules exclude_modules",
    "engine": "mixed_precision",
    "optim": "lr betas weight_decay clip_grad lr_warmup_steps lr_warmup_steps_ratio lr_scheduler_type min_lr_ratio "
    "num_cycles",
    "trainer": "seed",
}
"""What decides a run: what it starts from, and what each step computes. How long it trains, where, on how many GPUs,
how often it saves and validates, and what it logs may change at a restart, and `_MAY_CHANGE`.

By section of either program's configuration, "" for the whole of it; beside them the contents of `_FILES`.
"""
_MAY_CHANGE: Final = ("algorithm.filter_groups.max_num_gen_batches",)
"""What a run that was stopped by its bound is advised to raise (`cinema_verl.training.dynamic_sampling`)."""
_STAGES: Final = "cinema.stages"
_UNSAID: Final = {field.name: field.default for field in fields(Stage)}
"""What a stage has that is not said."""
_LISTED: Final = 12  # differences in a message; our choice: of one program's folder given to the other there are 100
_PARTS: Final = re.compile(r"global_step_.*|\.global_step_.*|rollouts|validation|evaluation|tensorboard")
_SEEDS: Final = (
    "data.seed",
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.actor.data_loader_seed",
    "trainer.seed",
)
_PACKAGES: Final = (
    "cinema-verl",
    "verl",
    "torch",
    "transformers",
    "ray",
    "TransferQueue",
    "vllm",
    "flash-attn",
    "peft",
)
_SECRET: Final = re.compile(r"(?i)KEY|TOKEN|SECRET|PASSWORD")


class Taken(RuntimeError):
    """The folder is another run's; the message says whose, and what to do."""


def use_absolute_paths(config: DictConfig) -> None:
    """Make the run's own paths absolute, and let the whole cluster know where the logs go.

    A Ray worker resolves relative paths in the working directory of whoever started the cluster, and has its variables.

    Args:
        config: what the program gets from Hydra; it is changed.
    """
    for key in _PATHS:
        if path := OmegaConf.select(config, f"trainer.{key}"):
            config.trainer[key] = os.path.abspath(os.path.expanduser(path))  # else a folder "~" would be made
    if OmegaConf.select(config, "ray_kwargs") is None:
        return
    variables = {
        TENSORBOARD: tensorboard_path(config.trainer.default_local_dir),
        _METRICS_PATH: os.environ.get(_METRICS_PATH),
    }
    with open_dict(config):
        for name, path in variables.items():
            if path:
                OmegaConf.update(config, f"{_ENV_VARS}.{name}", os.path.abspath(path), force_add=True)


def metrics_path(folder: str | Path) -> Path:
    """Where the `file` logger of a run writes: `VERL_FILE_LOGGER_PATH`, if it is set, or into the run's folder."""
    return Path(os.environ.get(_METRICS_PATH) or Path(folder) / METRICS).absolute()


def tensorboard_path(folder: str | Path) -> Path:
    """Where the `tensorboard` logger of a run writes: `TENSORBOARD_DIR`, if it is set, or into the run's folder."""
    return Path(os.environ.get(TENSORBOARD) or Path(folder) / "tensorboard").absolute()


@contextmanager
def claimed(config: DictConfig, patience: float = PATIENCE) -> Iterator[Path]:
    """Hold the folder of a run for as long as the block lasts, and write down how the run was started.

    Args:
        config: the composed configuration, with absolute paths (`use_absolute_paths`).
        patience: seconds to wait for another process that has the folder.

    Yields:
        the folder.

    Raises:
        Taken: another process is at work in it, or it holds another run.
        OSError: it cannot be written.
    """
    folder = Path(config.trainer.default_local_dir)
    with ExitStack() as held:
        deadline = time.monotonic() + patience
        for key, lock in _locks(config).items():
            while True:
                try:
                    held.enter_context(only_one(lock))
                    break
                except Locked as error:
                    if time.monotonic() >= deadline:
                        what = f"another run is at work in {lock.parent}: wait for it, or give this one another {key}"
                        raise Taken(what) from error
                    time.sleep(min(0.2, patience))
                except (FileExistsError, NotADirectoryError) as error:
                    what = f"{lock.parent} can be no folder: there is a file in its way, or a link that leads nowhere"
                    raise Taken(f"{what}. Give this run another {key}") from error
        _record_start(folder, config)
        yield folder


def _locks(config: DictConfig) -> dict[str, Path]:
    """What a run locks, by the key that names it: its folder, and where else it writes."""
    folder, metrics = Path(config.trainer.default_local_dir), os.environ.get(_METRICS_PATH)
    locks = {"trainer.default_local_dir": folder / LOCK}
    for key, place in _dumps(config).items():
        if not place.is_relative_to(folder):
            locks[key] = place / LOCK
    if metrics:
        path = metrics_path(folder)
        locks[_METRICS_PATH] = path.with_name(f".{path.name}.lock")
    return locks


def _dumps(config: DictConfig) -> dict[str, Path]:
    """Where a run's rollouts and validations go, by key."""
    keys = ("trainer.rollout_data_dir", "trainer.validation_data_dir")
    return {key: Path(path) for key in keys if (path := OmegaConf.select(config, key))}


def refuse_taken(config: DictConfig) -> None:
    """What `claimed` would refuse, without a lock and without writing anything.

    Args:
        config: as Hydra composes it; it is not changed.

    Raises:
        Taken: the folder holds another run.
    """
    config = config.copy()
    use_absolute_paths(config)
    folder = Path(config.trainer.default_local_dir)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Taken(f"{folder} cannot be made or written to: {there} is no folder, or not yours to write to")
    _refuse_another_run(folder, config, _read(folder / RUN), deciding(config))


def refuse_validations_of_a_training(config: DictConfig) -> None:
    """Keep an evaluation from writing over what a training has validated: both call their files by the step.

    Args:
        config: with absolute paths (`use_absolute_paths`).

    Raises:
        Taken: `trainer.validation_data_dir` is a training's.
    """
    key = "trainer.validation_data_dir"
    folder = _dumps(config).get(key)
    if folder and ((folder / LOCK).exists() or (folder.name == "validation" and (folder.parent / RUN).exists())):
        raise Taken(f"{folder} has the validations of a training: give this evaluation another {key}")


# ---- whose folder it is ---------------------------------------------------------------------------------------------


def deciding(config: DictConfig) -> dict[str, Any]:
    """What decides a run, as plain values: see `_DECIDE`.

    Files and folders are known by their sizes, and first and last megabyte, so that a run can be moved.
    """
    keys = [f"{section}.{name}" if name else section for section, names in _DECIDE.items() for name in names.split(" ")]
    values = {key: _plain(OmegaConf.select(config, key)) for key in keys}
    files = {key: _plain(OmegaConf.select(config, key)) for key in _FILES}
    values |= {key: [_content_of(path) for path in _as_list(value)] for key, value in files.items() if value}
    return {name: value for name, value in _leaves(json.loads(json.dumps(values))) if value is not None}


def _refuse_another_run(folder: Path, config: DictConfig, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Go on with a run that is in the folder, or leave it alone.

    Args:
        before: what `_read` found.
        now: what decides this run.

    Raises:
        Taken: the folder holds something that this run would overwrite.
    """
    _refuse_part_of_another_run(config)
    trainer, metrics = config.trainer, metrics_path(folder)
    dumps = [folder / "rollouts", folder / "validation", *_dumps(config).values()]
    held = [_within(folder, path) for path in dict.fromkeys(dumps) if any(path.glob("*.jsonl"))]
    held += [f"global_step_{step}" for step in steps_on_disk(folder)]
    held += [str(metrics)] if metrics.is_file() and metrics.stat().st_size else []
    if not held:
        return
    way_out = f"Choose another {' and '.join(_locks(config))}"
    holds = f"{folder} holds a run already ({', '.join(held)})"
    if trainer.resume_mode == "disable":
        raise Taken(f"{holds}, and trainer.resume_mode=disable starts anew. {way_out}, or go on with that run: auto")
    source = branches_from(config)
    steps = steps_on_disk(folder)
    if source and not _came_from(Path(source), folder, before.get("branch_of")):
        raise Taken(f"{holds}, and this run starts from {source}. {way_out}")
    if not before and not steps:
        raise Taken(f"{holds}, and nothing says how it was started. {way_out}")
    # A run that was started without this record is taken for the one that it looks like.
    had, now = _with_order(before.get("decides", now)), _with_order(now)
    changed = [key for key in sorted(had.keys() | now.keys()) if _held(key, had) != _held(key, now)]
    if changed:
        listed = "".join(f"\n  {key} was {had.get(key)}, is {now.get(key)}" for key in changed[:_LISTED])
        listed += f"\n  and {len(changed) - _LISTED} more" if changed[_LISTED:] else ""
        raise Taken(
            f"{holds}, and this one would compute something else:{listed}\n{way_out}; to branch off, add "
            "trainer.resume_mode=resume_path trainer.resume_from_path=…/global_step_N"
        )


def _refuse_part_of_another_run(config: DictConfig) -> None:
    """Keep out of what another run writes to, and deletes, by itself: its checkpoints, rollouts and validations.

    Raises:
        Taken: naming that run.
    """
    folder = Path(config.trainer.default_local_dir)
    places = {"trainer.default_local_dir": folder, **_dumps(config)}
    for key, place in places.items():
        real = Path(os.path.realpath(place))
        for run in real.parents:
            inside = (run / RUN).exists() and run != Path(os.path.realpath(folder))
            if inside and _PARTS.fullmatch(real.relative_to(run).parts[0]):
                raise Taken(
                    f"{place} is a part of the run in {run}, which writes there by itself: choose another {key}"
                )


def _within(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _came_from(source: Path, folder: Path, branch_of: str | None) -> bool:
    """Whether the run in a folder branched off there, or has it as its last checkpoint, wherever both are by now."""
    steps = steps_on_disk(folder)
    known = [path for path in (branch_of, steps and step_folder(folder, steps[-1])) if path]
    if os.path.realpath(source) in map(os.path.realpath, known):
        return True
    branch = run_of(source) and run_that_resumes(source, from_path=True)
    return bool(branch) and any(run_of(step_folder(folder, step)) == branch for step in steps)


def branches_from(config: DictConfig) -> str | None:
    """The checkpoint that the configuration names; verl's SFT trainer looks at it in the mode `auto`, too."""
    named = config.trainer.resume_mode == "resume_path" or (fine_tunes(config) and config.trainer.resume_mode == "auto")
    return config.trainer.resume_from_path if named else None


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_bytes())
        return {"decides": dict(record["decides"]), "starts": list(record["starts"]), "branch_of": record["branch_of"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Taken(f"{path} cannot be read ({error!r}): move it away to go on with the run that is there") from error


def _content_of(path: str) -> str:
    """What a file, or a folder of weights, holds; the name as it is of what is not on this machine."""
    place = Path(path)
    if place.is_dir():
        patterns = ("config.json", "*.safetensors", "*.bin")
        files = sorted(found for pattern in patterns for found in place.glob(pattern))
    else:
        files = [place] if place.is_file() else []
    if not files:
        return path
    digest = hashlib.sha256()
    for one in files:
        size, name = one.stat().st_size, one.name if place.is_dir() else ""
        with open(one, "rb") as file:
            digest.update(f"{name} {size}".encode() + file.read(1 << 20))
            file.seek(max(size - (1 << 20), 0))
            digest.update(file.read())
    return f"{place.name} ({digest.hexdigest()[:12]})"


def _with_order(decides: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run, with the order of its stages, which is that of their keys."""
    names = dict.fromkeys(key.split(".")[2] for key in decides if key.startswith(f"{_STAGES}."))
    return {**decides, **({_STAGES: list(names)} if names else {})}


def _held(key: str, decides: Mapping[str, Any]) -> Any:
    """What a value says, however it is spelt.

    Of what `_content_of` says, the contents, whatever a file or folder is called by now; what a stage leaves unsaid, as
    it is then; nothing of what may change.
    """
    value = None if key in _MAY_CHANGE else decides.get(key)
    if value is None and key.startswith(f"{_STAGES}."):
        return _UNSAID.get(key.rpartition(".")[2])
    texts = value if isinstance(value, list) else []
    return [re.sub(r".* \(([0-9a-f]{12})\)", r"\1", str(text)) for text in texts] or value


def _as_list(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


# ---- what is written down -------------------------------------------------------------------------------------------


def _record_start(folder: Path, config: DictConfig) -> None:
    """Refuse another run's folder, or add this start to `run.json` and write `config.yaml`."""
    before, decides = _read(folder / RUN), deciding(config)
    _refuse_another_run(folder, config, before, decides)
    settings = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    _hide_secrets(settings)
    earlier = _earlier_settings(folder / CONFIG)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    start = _this_start(config) | {"after_step": max(complete_steps(folder), default=0)}
    if earlier is not None:
        had, has = dict(_leaves(earlier)), dict(_leaves(yaml.safe_load(text)))
        keys = sorted(had.keys() | has.keys())
        start["changed"] = {key: [had.get(key), has.get(key)] for key in keys if had.get(key) != has.get(key)}
    record = {
        "decides": decides,
        "branch_of": branches_from(config) or before.get("branch_of"),
        "starts": [*before.get("starts", []), start],
    }
    with atomic_write(folder / CONFIG) as file:
        file.write(text)
    with atomic_write(folder / RUN) as file:
        json.dump(record, file, indent=1)


def _earlier_settings(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, yaml.YAMLError) as error:
        raise Taken(f"{path} cannot be read ({error}): move it away to go on with the run that is there") from error


def _this_start(config: DictConfig) -> dict[str, Any]:
    """How this process was started, on what, and from which code."""
    installed = {
        distribution.name: distribution.version for distribution in map(_distribution, _PACKAGES) if distribution
    }
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "started_in": os.getcwd(),
        "overrides": [_hidden(override) for override in OmegaConf.select(config, "hydra.overrides.task") or ()],
        "command": [_hidden(argument) for argument in (sys.executable, *sys.orig_argv[1:])],
        "versions": {"python": platform.python_version(), **installed},
        "seeds": {key: value for key in _SEEDS if (value := OmegaConf.select(config, key)) is not None},
        "commits": {"cinema_verl": _commit(Path(__file__)), "started_in": _commit(Path.cwd())},
    }


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _commit(path: Path) -> str | None:
    """The commit of the checkout that a folder is in, or that tracks a file; None where there is none, or no git.

    "+changes" stands after a commit whose tracked files were edited.
    """
    folder = path if path.is_dir() else path.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not path.is_dir() and git("ls-files", "--error-unmatch", path.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _hide_secrets(settings: Any) -> None:
    """Blank the values of environment variables that are named like a key; other settings hold none."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key == "env_vars" and isinstance(value, dict):
            settings[key] = {name: "***" if _SECRET.search(str(name)) else kept for name, kept in value.items()}
        else:
            _hide_secrets(value)


def _hidden(argument: str) -> str:
    name, equals, _ = argument.partition("=")
    return f"{name}=***" if equals and "env_vars" in name and _SECRET.search(name) else argument
