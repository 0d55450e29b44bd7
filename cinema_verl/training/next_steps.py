"""What a training that is through says: where the policy is, and the commands that come next."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.checkpoint import complete_steps, step_folder
from cinema_verl.training.refusal import fine_tunes
from cinema_verl.utils import native_reasoning


def next_steps(config: DictConfig) -> str:
    """A line each: a name, and a folder or a command with the real paths, to be copied.

    Args:
        config: of the training, with absolute paths.
    """
    folder = Path(config.trainer.default_local_dir)
    steps = complete_steps(folder)
    lines = list(
        (_after_sft if fine_tunes(config) else _after_rl)(config, step_folder(folder, steps[-1]) if steps else None)
    )
    return "\n".join(f"  {name:<12}{text}" for name, text in lines)


def _after_sft(config: DictConfig, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    policy = checkpoint and checkpoint / "huggingface"
    if policy and _has_weights(policy):
        yield "policy", f"{policy}    (actor_rollout_ref.model.path of reinforcement learning)"


def _after_rl(config: DictConfig, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    folder = config.trainer.default_local_dir
    yield "report", shlex.join(["cinema-verl", "report", folder])
    if checkpoint is None:
        return
    exported = f"{folder}/policy-{checkpoint.name.removeprefix('global_step_')}"
    policy = checkpoint / "actor" / "huggingface"
    weights = [_override("actor_rollout_ref.model.path", policy)]
    if _has_weights(policy):
        yield "policy", str(policy)
    else:
        weights = [
            _override("actor_rollout_ref.model.path", config.actor_rollout_ref.model.path),
            "trainer.resume_mode=resume_path",
            _override("trainer.resume_from_path", checkpoint),
        ]
    files = config.data.val_files
    files = [os.path.abspath(file) for file in ([files] if isinstance(files, str) else files or [])]
    recipe = "cinema_evaluate_cpu" if config.trainer.device == "cpu" else "cinema_evaluate"
    mode = OmegaConf.select(config, "data.cinema_prompt_mode")
    reasoning = OmegaConf.select(config, native_reasoning.KEY)
    overrides = [
        f"+recipe={recipe}",
        *weights,
        f"data.val_files=[{','.join(map(_quoted, files))}]",
        *([f"data.cinema_prompt_mode={mode}"] if mode else []),
        *([f"{native_reasoning.KEY}={reasoning}"] if reasoning not in (None, "none") else []),
        _override("trainer.validation_data_dir", f"{folder}/evaluation/{checkpoint.name}"),
    ]
    yield "evaluation", shlex.join(["python", "-m", "verl.trainer.main_ppo", *overrides])
    yield "export", shlex.join(["cinema-verl", "export", folder, "--output", exported])
    yield "ask", shlex.join(["cinema-verl", "ask", exported, "--image", "a.jpg", "--image", "b.jpg", "…"])


def _override(key: str, value: object) -> str:
    return f"{key}={_quoted(str(value))}"


def _quoted(value: str) -> str:
    """A text as Hydra reads it back: a folder of an ablation is likely named "lr=1e-6, n=8"."""
    if re.fullmatch(r"[\w/.:+%@-]+( [\w/.:+%@-]+)*", value, flags=re.ASCII):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", value) + "'"


def _has_weights(directory: Path) -> bool:
    return any(directory.glob("*.safetensors")) or any(directory.glob("*.bin"))
