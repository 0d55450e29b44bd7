"""A bad configuration ends in the driver, before Ray or a process group: the real programs are started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from cinema_verl.registration.command_line import PROGRAMS, RL_TRAINER, SFT_TRAINER, program_of
from cinema_verl.training import estimators
from cinema_verl.training.before_start import RefuseBeforeStart


def composed(recipe, *overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = [f"+recipe={recipe}", *overrides]
        return compose(PROGRAMS[program_of(recipe)], overrides=overrides, return_hydra_config=True)


@pytest.mark.parametrize("recipe", ["cinema", "cinema_cpu", "cinema_evaluate_cpu", "cinema_cold_start_one"])
def test_recipes_have_the_check_before_anything_else(recipe):
    first, *others = [callback["_target_"] for callback in composed(recipe).hydra.callbacks.values()]
    assert first == f"{RefuseBeforeStart.__module__}.{RefuseBeforeStart.__qualname__}"
    assert others == ["cinema_verl.registration.sft_patch.CinemaSFT"] * recipe.startswith("cinema_cold_start")


def test_every_reason_is_given_at_once():
    files = "data.val_files=/nowhere/x.parquet"
    overrides = ("trainer.total_training_steps=6", "actor_rollout_ref.actor.ppo_mini_batch_size=0", files)
    config = composed("cinema_cpu", *overrides)
    with pytest.raises(SystemExit) as stopped:
        RefuseBeforeStart().on_job_start(config)
    said = str(stopped.value)
    assert "trainer.total_training_steps" in said
    assert "ppo_mini_batch_size" in said
    assert "/nowhere/x.parquet does not exist" in said
    assert "nothing was started" in said


def test_an_extension_that_cannot_be_used_ends_the_run_here(install):
    install("mine", {estimators.GROUP: {"x": "nowhere:a"}})
    with pytest.raises(SystemExit, match=r"distribution mine 1\.0 .* Nothing was started"):
        RefuseBeforeStart().on_job_start(composed("cinema_cpu"))


def test_what_can_be_trained_goes_on(files_of_digits):
    RefuseBeforeStart().on_job_start(composed("cinema_cpu"))


def test_a_folder_of_lora_weights_is_refused(tmp_path, tiny_model):
    from safetensors.torch import load_file, save_file

    for path in Path(tiny_model).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"base_model.model.{name}": value for name, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(SystemExit, match="LoRA weights: merge them"):
        RefuseBeforeStart().on_job_start(composed("cinema_cpu", f"actor_rollout_ref.model.path={tmp_path}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        (RL_TRAINER, ["+recipe=cinema_cpu", "+cinema.coeficient=0.05", "cinema.annealing_shape=cosin"], "coeficient"),
        (RL_TRAINER, ["+recipe=cinema_cpu", "trainer.total_training_steps=6"], "stage 2 (exploitation"),
        (RL_TRAINER, ["+recipe=cinema_cpu", "data.train_files=gone.parquet"], "gone.parquet does not exist"),
        (SFT_TRAINER, ["+recipe=cinema_cold_start_cpu", "data.train_batch_size=15"], "data.micro_batch_size_per_gpu"),
    ],
)
def test_the_real_program_ends_before_anything_starts(tmp_path, program, arguments, says):
    command = [sys.executable, "-m", program, *arguments, f"hydra.run.dir={tmp_path}/hydra"]
    environment = os.environ | {"RAY_TMPDIR": str(tmp_path / "ray")}  # where a raylet would write first of all
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "nothing was started" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"hydra"}
