"""What a run writes down, and which folders it leaves alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

from cinema_verl.registration.command_line import PROGRAMS, program_of
from cinema_verl.runs.locate import CONFIG, METRICS, RUN, locate
from cinema_verl.training.before_start import RefuseBeforeStart
from cinema_verl.training.checkpoint import TRACKER, write_progress
from cinema_verl.training.run_folder import (
    LOCK,
    Taken,
    claimed,
    metrics_path,
    refuse_validations_of_a_training,
    use_absolute_paths,
)
from cinema_verl.training.stop_signal import EXIT_CODE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("VERL_FILE_LOGGER_PATH", "TENSORBOARD_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def configured(*overrides, recipe="cinema_cpu"):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            PROGRAMS[program_of(recipe)],
            overrides=[f"+recipe={recipe}", "trainer.default_local_dir=run", *overrides],
            return_hydra_config=True,
        )
    use_absolute_paths(config)
    return config


def start(*overrides, recipe="cinema_cpu"):
    with claimed(configured(*overrides, recipe=recipe), patience=0):
        pass


def train(folder, last=3):
    """What a run of a few steps leaves."""
    (folder / METRICS).write_text("".join(json.dumps({"step": i, "data": {}}) + "\n" for i in range(1, last + 1)))
    (folder / f"global_step_{last}").mkdir(parents=True)


def run_of(folder):
    return json.loads((folder / RUN).read_text())


@pytest.mark.parametrize(
    "part", ["global_step_4", "global_step_4/actor", "rollouts", "rollouts/mine", "validation", "global_step_5.partial"]
)
def test_a_run_is_no_part_of_another(folder, part):
    """Which writes there by itself, and deletes its old checkpoints."""
    start()
    train(folder)
    for place in (f"trainer.default_local_dir={folder}/{part}", f"trainer.rollout_data_dir={folder}/{part}"):
        own = "trainer.default_local_dir=other" if "rollout" in place.partition("=")[0] else place
        with pytest.raises(Taken, match="is a part of the run in"):
            start(own, place)
    (folder / "rollouts").mkdir(exist_ok=True)
    (folder.parent / "link").symlink_to(folder / "rollouts")
    with pytest.raises(Taken, match="is a part of the run in"):
        start("trainer.default_local_dir=other", "trainer.validation_data_dir=link")
    start(f"trainer.default_local_dir={folder}/mine")


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("cinema_cpu", "+data.apply_chat_template_kwargs.enable_thinking=false"),
        ("cinema_cpu", "actor_rollout_ref.actor.policy_loss.loss_mode=gspo"),
        ("cinema_cpu", "actor_rollout_ref.actor.kl_loss_type=mse"),
        ("cinema_cpu", "actor_rollout_ref.actor.clip_ratio_c=5"),
        ("cinema_cpu", "actor_rollout_ref.actor.optim.min_lr_ratio=0.3"),
        ("cinema_cpu", "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16"),
        ("cinema_cpu", "actor_rollout_ref.rollout.ignore_eos=true"),
        ("cinema_cpu", "data.prompt_key=question"),
        ("cinema_cold_start_cpu", "+data.apply_chat_template_kwargs.enable_thinking=false"),
        ("cinema_cold_start_cpu", "data.enable_thinking_default=true"),
        ("cinema_cold_start_cpu", "model.exclude_modules=null"),
        ("cinema_cold_start_cpu", "optim.min_lr_ratio=0.3"),
    ],
)
def test_a_run_does_not_go_on_with_another_loss_prompt_or_schedule(folder, recipe, change):
    start(recipe=recipe)
    train(folder)
    start(recipe=recipe)
    with pytest.raises(Taken, match="compute something else"):
        start(change, recipe=recipe)


def test_the_folder_of_the_other_program_is_refused_in_a_few_lines(folder):
    start()
    train(folder)
    with pytest.raises(Taken, match=r"and \d+ more") as error:
        start(recipe="cinema_cold_start_cpu")
    assert len(str(error.value).splitlines()) < 20


# ---- where ------------------------------------------------------------------------------------------------------


def test_the_paths_of_a_run_are_absolute_before_verl_sees_them(folder):
    config = configured()
    assert config.trainer.default_local_dir == str(folder)
    assert config.trainer.rollout_data_dir == f"{folder}/rollouts"
    assert config.trainer.validation_data_dir == f"{folder}/validation"
    assert metrics_path(config.trainer.default_local_dir) == folder / METRICS


def test_where_the_driver_says_the_metrics_go_the_cluster_writes_them(folder, monkeypatch):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", "elsewhere/m.jsonl")
    for recipe in ("cinema", "cinema_cpu"):
        variables = configured(recipe=recipe).ray_kwargs.ray_init.runtime_env.env_vars
        assert variables["VERL_FILE_LOGGER_PATH"] == str(folder.parent / "elsewhere" / "m.jsonl")
        assert variables["TENSORBOARD_DIR"] == f"{folder}/tensorboard"
    assert metrics_path(folder) == folder.parent / "elsewhere" / "m.jsonl"


def test_hydra_hands_the_changed_paths_to_the_program(folder, files_of_digits):
    """Through Hydra itself: what its callback changes is what the program and `.hydra/` get."""
    program = """
import hydra
import verl
@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config):
    print("got", config.trainer.default_local_dir)
main()
"""
    (folder.parent / "program.py").write_text(program)
    shutil.copytree(files_of_digits / "outputs", folder.parent / "outputs")
    arguments = ["+recipe=cinema_cpu", "trainer.default_local_dir=run"]
    done = subprocess.run(
        [sys.executable, "program.py", *arguments, "hydra.run.dir=hydra"],
        capture_output=True,
        text=True,
        cwd=folder.parent,
    )
    assert f"got {folder}\n" in done.stdout, done.stderr
    assert yaml.safe_load((folder.parent / "hydra" / ".hydra" / "config.yaml").read_text())["trainer"][
        "default_local_dir"
    ] == str(folder)


# ---- what is written down ---------------------------------------------------------------------------------------


def test_a_start_is_written_down(folder):
    start("data.seed=7")
    (started,) = run_of(folder)["starts"]
    assert started["command"] == [sys.executable, *sys.orig_argv[1:]]
    assert started["started_in"] == str(folder.parent)
    assert started["overrides"][:2] == ["+recipe=cinema_cpu", "trainer.default_local_dir=run"]
    assert started["seeds"]["data.seed"] == 7
    assert {"python", "torch", "verl", "transformers"} <= started["versions"].keys()
    config = yaml.safe_load((folder / CONFIG).read_text())
    assert config["trainer"]["rollout_data_dir"] == f"{folder}/rollouts"
    assert "hydra" not in config


def test_a_restart_adds_what_has_changed(folder):
    start()
    train(folder)
    start("trainer.save_freq=7")
    first, second = run_of(folder)["starts"]
    assert "changed" not in first
    assert second["changed"] == {"trainer.save_freq": [21, 7]}
    assert yaml.safe_load((folder / CONFIG).read_text())["trainer"]["save_freq"] == 7


@pytest.mark.parametrize("recipe", ["cinema", "cinema_cold_start_cpu"])
def test_every_recipe_can_be_written_down(folder, recipe):
    start(recipe=recipe)
    assert run_of(folder)["decides"]["data.train_batch_size"] > 0


def test_the_commit_is_that_of_the_checkout(folder):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (folder.parent / "reward.py").write_text("")
    for command in (["init", "-q"], ["add", "reward.py"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    start()
    (folder.parent / "reward.py").write_text("edited")
    start()
    first, second = (started["commits"]["started_in"] for started in run_of(folder)["starts"])
    assert (first, second) == (head, f"{head}+changes")


def test_values_of_keys_are_not_written_down(folder, monkeypatch):
    argument = "+ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY=abracadabra"
    monkeypatch.setattr(sys, "orig_argv", [*sys.orig_argv, argument])
    start(argument)
    for name in (RUN, CONFIG):
        assert "abracadabra" not in (folder / name).read_text()
        assert "WANDB_API_KEY" in (folder / name).read_text()


# ---- whose folder it is -----------------------------------------------------------------------------------------


def test_the_same_command_goes_on(folder):
    start()
    train(folder)
    start()
    start("trainer.n_gpus_per_node=2", "trainer.test_freq=5", "actor_rollout_ref.rollout.gpu_memory_utilization=0.5")
    assert len(run_of(folder)["starts"]) == 3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.resume_mode=disable", "starts anew"),
        ("cinema.coefficient=0.2", "cinema.stages.exploration.coefficient was 0.1, is 0.2"),
        ("cinema.exploration_steps=90", "cinema.stages.exploration.steps was 84, is 90"),
        ("cinema.stages.exploration.filter=acc", "cinema.stages.exploration.filter was None, is acc"),
        ("cinema.stages.exploration.lr_factor=0.5", "cinema.stages.exploration.lr_factor was 1.0, is 0.5"),
        ("cinema.stages.exploitation=null", "cinema.stages was ['exploration', 'exploitation'], is ['exploration']"),
        ("cinema.annealing_shape=cosine", "cinema.stages.exploitation.shape was linear, is cosine"),
        ("cinema.term_guard=floor", "cinema.term_guard was none, is floor"),
        ("cinema.pattern_mode=set", "cinema.pattern_mode was exact, is set"),
        ("algorithm.filter_groups.enable=false", "algorithm.filter_groups.enable was True, is False"),
        ("reward.reward_kwargs.overlong_buffer_cfg.len=9", "overlong_buffer_cfg.len was 16, is 9"),
        ("data.train_files=other.parquet", "data.train_files was"),
        ("actor_rollout_ref.model.path=/models/other", "actor_rollout_ref.model.path was"),
        ("+data.seed=2", None),
    ],
)
def test_another_run_is_refused_and_nothing_is_touched(folder, override, says):
    start()
    train(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(Taken) as refused:
        start(override if says else "data.seed=2")
    assert (says or "data.seed was 1, is 2") in str(refused.value)
    assert "trainer.default_local_dir" in str(refused.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([], ["cinema.stages.exploration.steps=84", "cinema.stages.exploitation.shape=linear"]),
        (["cinema.stages.exploitation=null"], ["~cinema.stages.exploitation"]),
        (
            ["+cinema.stages.polish={steps: 5, coefficient: 0}"],
            ["+cinema.stages.polish={steps: 5, coefficient: 0.0, lr_factor: 1, shape: constant, filter: null}"],
        ),
    ],
)
def test_the_same_stages_in_other_words_go_on(folder, first, then):
    start(*first)
    train(folder)
    start(*then)
    start(*first)
    with pytest.raises(Taken, match="compute something else"):
        start(*then, "cinema.stages.exploration.coefficient=0.2")


def test_the_same_stages_in_another_order_are_another_run(folder):
    start()
    train(folder)
    first = "{steps: ${cinema.exploration_steps}, coefficient: ${cinema.coefficient}}"
    with pytest.raises(Taken, match=r"cinema\.stages was \['exploration', 'exploitation'\], is \['exploitation', 'ex"):
        start("~cinema.stages.exploration", f"+cinema.stages.exploration={first}")


def test_a_run_that_its_bound_ended_goes_on_with_a_larger_one(folder):
    """As its message says."""
    start("cinema.when_exhausted=stop")
    train(folder)
    start("cinema.when_exhausted=stop", "algorithm.filter_groups.max_num_gen_batches=20")
    start("cinema.when_exhausted=continue")


def test_a_run_that_left_nothing_can_be_started_otherwise(folder):
    start()
    start("data.train_batch_size=4")
    assert run_of(folder)["decides"]["data.train_batch_size"] == 4


def test_a_run_without_a_record_is_gone_on_with(folder):
    (folder / "global_step_5").mkdir(parents=True)
    start()
    assert len(run_of(folder)["starts"]) == 1


def test_metrics_of_nobody_knows_which_run_are_left_alone(folder):
    folder.mkdir()
    (folder / METRICS).write_text('{"step": 1, "data": {}}\n')
    with pytest.raises(Taken, match="nothing says how it was started"):
        start()


def test_a_record_that_cannot_be_read_is_no_permission(folder):
    start()
    (folder / RUN).write_text("{")
    with pytest.raises(Taken, match="cannot be read"):
        start()


def write_progress_of(checkpoint, run, step):
    checkpoint.mkdir(parents=True, exist_ok=True)
    write_progress(checkpoint, run, step)


def branch(step):
    return "trainer.resume_mode=resume_path", f"trainer.resume_from_path={step}"


def test_a_branch_has_a_folder_of_its_own_and_the_same_command_goes_on_with_it(folder):
    elsewhere = folder.parent / "first" / "global_step_2"
    start(*branch(elsewhere))
    train(folder)
    start(*branch(elsewhere))
    start()
    start(*branch(elsewhere))
    with pytest.raises(Taken, match="starts from"):
        start(*branch(folder.parent / "first" / "global_step_1"))


def test_a_branch_goes_on_where_both_folders_were_moved(folder):
    """The command names the moved ones, and the branch knows its source by who wrote it."""
    source = folder.parent / "first" / "global_step_2"
    write_progress_of(source, "first-run", 2)
    start(*branch(source))
    train(folder)
    write_progress_of(folder / "global_step_4", "first-run+2", 4)
    (folder.parent / "first").rename(folder.parent / "archive")
    start(*branch(folder.parent / "archive" / "global_step_2"))
    write_progress_of(folder.parent / "archive" / "global_step_1", "first-run", 1)
    with pytest.raises(Taken, match="starts from"):
        start(*branch(folder.parent / "archive" / "global_step_1"))


def test_a_link_to_the_source_of_a_branch_is_the_source(folder):
    source = folder.parent / "first" / "global_step_2"
    source.mkdir(parents=True)
    start(*branch(source))
    train(folder)
    (folder.parent / "link").symlink_to(folder.parent / "first")
    start(*branch(folder.parent / "link" / "global_step_2"))


def test_settings_that_cannot_be_read_are_named(folder):
    start()
    train(folder)
    (folder / CONFIG).write_text("trainer: [")
    with pytest.raises(Taken, match=r"config\.yaml cannot be read"):
        start()


def test_going_back_would_overwrite_and_the_last_step_would_not(folder):
    start()
    train(folder, last=3)
    (folder / "global_step_2").mkdir()
    start(*branch(folder / "global_step_3"))
    with pytest.raises(Taken, match="starts from"):
        start(*branch(folder / "global_step_2"))


def test_sft_branches_in_its_mode_auto(folder):
    start(recipe="cinema_cold_start_cpu")
    train(folder)
    with pytest.raises(Taken, match="starts from"):
        start("trainer.resume_from_path=/elsewhere/global_step_1", recipe="cinema_cold_start_cpu")


def test_a_run_can_be_moved_and_weights_are_told_apart(folder, tiny_model):
    models = [folder.parent / name / "model" for name in ("here", "moved", "trained")]
    for model in models:
        shutil.copytree(tiny_model, model)
    (weights,) = models[2].glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-4] ^= 1
    weights.write_bytes(data)
    here, moved, trained = (f"actor_rollout_ref.model.path={model}" for model in models)
    start(here)
    train(folder)
    folder.rename(folder.parent / "copy")
    (folder.parent / "copy").rename(folder)
    start(moved)
    with pytest.raises(Taken, match=r"actor_rollout_ref\.model\.path"):
        start(trained)
    models[0].rename(models[0].with_name("renamed"))
    start(f"actor_rollout_ref.model.path={models[0].with_name('renamed')}")


def test_rows_may_be_renamed_and_are_told_apart(folder):
    first, second, other = (folder.parent / name for name in ("first.parquet", "second.parquet", "other.parquet"))
    first.write_bytes(b"PAR1 rows PAR1"), second.write_bytes(b"PAR1 rows PAR1"), other.write_bytes(b"PAR1 ROWS PAR1")
    start(f"data.train_files={first}")
    train(folder)
    start(f"data.train_files={second}")
    with pytest.raises(Taken, match=r"data\.train_files was \['.*parquet \(.*, is \['other\.parquet"):
        start(f"data.train_files={other}")


@pytest.mark.parametrize("kind", ["a file", "below a file", "a dangling link"])
def test_what_can_be_no_folder_is_said(folder, kind):
    if kind == "a dangling link":
        folder.symlink_to("nowhere")
    elif kind == "a file":
        folder.touch()
    else:
        (folder.parent / "file").touch()
        folder.symlink_to(folder.parent / "file" / "run")
    with pytest.raises(Taken, match=r"/run can be no folder.*another trainer\.default_local_dir"):
        start()


def test_two_at_once_are_refused(folder):
    with claimed(configured()), pytest.raises(Taken, match="another run is at work"):
        start()
    start()


@pytest.mark.parametrize("kind", ["rollout", "validation"])
def test_two_runs_that_share_where_they_write_are_refused(folder, kind):
    """In folders of their own, with the same one for what they dump: at once, and one after the other."""
    shared = f"trainer.{kind}_data_dir={folder.parent}/shared"
    other = f"trainer.default_local_dir={folder.parent}/other"
    with claimed(configured(shared)), pytest.raises(Taken, match=f"another trainer.{kind}_data_dir"):
        start(shared, other)
    train(folder)
    (folder.parent / "shared" / "1.jsonl").write_text("{}\n")
    start(shared)
    with pytest.raises(Taken, match=r"/shared\)"):
        start(shared, other)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_evaluation_writes_over_no_validation_of_a_training(folder, files_of_digits, monkeypatch, elsewhere):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "outputs").symlink_to(files_of_digits / "outputs")
    shared = (f"trainer.validation_data_dir={folder.parent if elsewhere else folder}/validation",)
    start(*shared)
    evaluated = configured(*shared, recipe="cinema_evaluate_cpu")
    with pytest.raises(Taken, match="has the validations of a training"):
        refuse_validations_of_a_training(evaluated)
    with pytest.raises(SystemExit, match="has the validations of a training"):
        RefuseBeforeStart().on_job_start(evaluated)
    own = configured(f"trainer.validation_data_dir={folder}/evaluation/global_step_3", recipe="cinema_evaluate_cpu")
    refuse_validations_of_a_training(own)


def test_two_runs_that_share_their_metrics_are_refused(folder, monkeypatch):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(folder.parent / "metrics.jsonl"))
    other = f"trainer.default_local_dir={folder.parent}/other"
    with claimed(configured()):
        with pytest.raises(Taken, match="another VERL_FILE_LOGGER_PATH"):
            start(other)
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(folder.parent / "others.jsonl"))
        start(other)


def test_the_lock_is_waited_for_while_a_killed_run_ends(folder):
    folder.mkdir()
    program = f"""
import sys, time
from cinema_verl.utils.files import only_one
with only_one({str(folder / LOCK)!r}):
    print("held", flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Taken):
            start()
        other.kill()
        with claimed(configured(), patience=60):
            pass


def test_hydra_cannot_make_a_warning_of_it(folder, files_of_digits, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "outputs").symlink_to(files_of_digits / "outputs")
    start()
    train(folder)
    with pytest.raises(SystemExit, match="nothing was started") as stopped:
        RefuseBeforeStart().on_job_start(configured("cinema.coefficient=0.2"))
    assert "coefficient" in str(stopped.value)


def test_an_evaluation_and_other_ranks_claim_nothing(folder, files_of_digits, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "outputs").symlink_to(files_of_digits / "outputs")
    RefuseBeforeStart().on_job_start(configured(recipe="cinema_evaluate_cpu"))
    assert not folder.exists()
    monkeypatch.setenv("RANK", "1")
    RefuseBeforeStart().on_job_start(configured())
    assert not folder.exists()


# ---- where the report looks -------------------------------------------------------------------------------------


def test_the_folder_is_enough_for_a_report(folder):
    start("cinema.coefficient=0.3")
    train(folder)
    moved = Path(shutil.move(folder, folder.parent / "moved"))
    found = locate(moved)
    assert found.metrics == moved / METRICS
    assert found.setting("cinema.coefficient") == 0.3
    assert "cinema.coefficient=0.3" in found.overrides
    assert not any("hydra" in note for note in found.notes)
    assert os.fspath(found.metrics.parent) == str(moved)


def test_the_page_names_what_there_is():
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    section = page[page.index("## Reinforcement learning") : page.index("## The cold start")]
    for name in (RUN, CONFIG, METRICS, TRACKER, "rollouts/", "validation/", "tensorboard/", str(EXIT_CODE)):
        assert name in section
