"""A bad configuration ends in the driver, before Ray or a process group: the real programs are started."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import load_file, save_file

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
    with pytest.raises(SystemExit, match=r"nothing was started: .*distribution mine 1\.0"):
        RefuseBeforeStart().on_job_start(composed("cinema_cpu"))


@pytest.mark.parametrize("module", ["verdict.refusals", "resume.resume_refusals"])
def test_a_verdict_that_fails_ends_the_run_as_well(module, files_of_digits, monkeypatch):
    """Hydra makes a warning of an exception, and a run that nobody has judged would go on."""

    def fails(*_):
        raise AttributeError("no such key")

    monkeypatch.setattr(f"cinema_verl.training.before_start.{module.partition('.')[2]}", fails)
    with pytest.raises(SystemExit, match="nothing was started: AttributeError: no such key"):
        RefuseBeforeStart().on_job_start(composed("cinema_cpu"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("algorithm.adv_estimator", "grpoo"),
        ("actor_rollout_ref.rollout.name", "transformer"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "cinemaa"),
    ],
)
def test_a_name_that_verl_does_not_know_ends_the_run_here(key, value, files_of_digits):
    """verl looks for the estimator after the first rollout."""
    with pytest.raises(SystemExit, match=f"{key}: {value} is not registered"):
        RefuseBeforeStart().on_job_start(composed("cinema_cpu", f"{key}={value}"))


def test_what_can_be_trained_goes_on(files_of_digits):
    RefuseBeforeStart().on_job_start(composed("cinema_cpu"))


def with_weights(change):
    def spoil(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return spoil


def with_json(name, **values):
    def spoil(folder):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_bytes()) | values))

    return spoil


SPOILT = {
    "LoRA": (
        with_weights(lambda old: {f"base_model.model.{n}": w for n, w in old.items()}),
        "LoRA weights: merge them",
    ),
    "missing": (with_weights(lambda old: {n: w for n, w in old.items() if "merger" not in n}), "would be random"),
    "foreign": (with_weights(lambda old: old | {"value_head": torch.zeros(1)}), "1 are not the model's"),
    "processor": (
        with_json("processor_config.json", processor_class="Glm4vProcessor"),
        "goes with Qwen2_5_VLProcessor",
    ),
    "family": (
        with_json("config.json", model_type="kimi_vl", auto_map={"AutoConfig": "code.C"}),
        "use a model of Qwen2",
    ),
}
TRAINS = {"cinema_cpu": "actor_rollout_ref.model.path", "cinema_colocate_async_cpu": "actor_rollout_ref.model.path"}
TRAINS |= {"cinema_cold_start_cpu": "model.path", "cinema_evaluate_cpu": "actor_rollout_ref.model.path"}


@pytest.mark.parametrize("recipe", TRAINS)
@pytest.mark.parametrize("fault", SPOILT)
def test_a_folder_that_is_not_whole_is_refused_by_every_program(recipe, fault, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    shutil.copytree(tiny_model, tmp_path / "model")
    spoil, says = SPOILT[fault]
    spoil(tmp_path / "model")
    needed = ["data.val_files=rows.parquet"] if recipe == "cinema_evaluate_cpu" else []
    with pytest.raises(SystemExit, match=says):
        RefuseBeforeStart().on_job_start(composed(recipe, f"{TRAINS[recipe]}={tmp_path}/model", *needed))


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
