"""A run on a cluster: what Ray is told, that all nodes have one installation, and how many ranks go on."""

import os
import pickle

import pytest
import torch
from hydra import compose, initialize_config_module

from cinema_verl.registration.command_line import PROGRAMS, program_of
from cinema_verl.training import same_version
from cinema_verl.training.arithmetic import too_small
from cinema_verl.training.before_start import RefuseBeforeStart
from cinema_verl.training.checkpoint import TRACKER, shard_path, write_progress
from cinema_verl.training.cluster import prepare
from cinema_verl.training.resume import resume_refusals
from cinema_verl.training.same_version import VARIABLE, VersionsDiffer, installed, refuse_different


def composed(*overrides, recipe="cinema_cpu"):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(PROGRAMS[program_of(recipe)], overrides=[f"+recipe={recipe}", *overrides])


@pytest.mark.parametrize("recipe", ["cinema", "cinema_cpu"])
def test_a_cluster_that_is_there_has_its_own_cpus_and_gpus(recipe):
    config = composed(recipe=recipe)
    prepare(config, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert (config.ray_kwargs.ray_init.num_cpus, config.ray_kwargs.ray_init.num_gpus) == (None, None)
    config = composed("+ray_kwargs.ray_init.address=auto", recipe=recipe)
    prepare(config, {})
    assert config.ray_kwargs.ray_init.num_cpus is None


def test_a_ray_of_its_own_has_what_the_recipe_says():
    config = composed()
    prepare(config, {})
    assert (config.ray_kwargs.ray_init.num_cpus, config.ray_kwargs.ray_init.num_gpus) == (16, 1)


def test_the_whole_cluster_is_told_what_started_the_run():
    for recipe in ("cinema", "cinema_cpu"):
        config = composed(recipe=recipe)
        prepare(config, {})
        assert config.ray_kwargs.ray_init.runtime_env.env_vars[VARIABLE] == installed()
    prepare(composed(recipe="cinema_cold_start"), {})  # fine-tuning has no Ray


def test_what_is_installed_is_versions_and_code(monkeypatch, tmp_path):
    package = tmp_path / "cinema_verl"
    (package / "training").mkdir(parents=True)
    monkeypatch.setattr(same_version, "__file__", str(package / "training" / "same_version.py"))
    seen = set()
    for code in ("a", "b", "a"):
        (package / "reward.py").write_text(code)
        installed.cache_clear()
        seen.add(installed())
    installed.cache_clear()
    assert len(seen) == 2
    assert all(text.startswith("cinema-verl 0") and ", verl 0" in text for text in seen)


def test_a_process_with_other_packages_says_so_before_it_does_anything(monkeypatch):
    same_version.refuse_another_version()
    monkeypatch.setenv(VARIABLE, installed())
    same_version.refuse_another_version()
    monkeypatch.setenv(VARIABLE, "cinema-verl 0.0.9 (000000000000), verl 0.9.1")
    with pytest.raises(VersionsDiffer, match=r"0\.0\.9 \(0{12}\)") as found:
        same_version.refuse_another_version()
    assert installed() in str(found.value)
    assert isinstance(pickle.loads(pickle.dumps(found.value)), VersionsDiffer), "it travels from a node to the driver"


def test_ranks_of_torchrun_compare_all():
    refuse_different([("a", "1"), ("b", "1"), ("a", "1")])
    with pytest.raises(VersionsDiffer, match=r"a: 1\n  b: 2\n"):
        refuse_different([("a", "1"), ("b", "2"), ("a", "1")])


@pytest.mark.parametrize(
    ("recipe", "gpus", "cpus"),
    [("cinema_colocate_async", 8, 33), ("cinema_separate_async", 4 + 4, 29), ("cinema_separate_async_cpu", 2, 7)],
)
def test_a_cluster_that_is_too_small_ends_the_run_before_its_workers_start(recipe, gpus, cpus):
    """A storage unit each and their controller hold a CPU; three stand beside a GPU that trains, two beside others."""

    def said(**resources):
        return [refusal.key for refusal in too_small(composed(recipe=recipe), resources)]

    assert said(GPU=gpus, CPU=cpus) == said(NPU=gpus, CPU=cpus) == []
    assert said(GPU=gpus - 1, CPU=cpus) == said(CPU=cpus) == ["trainer.n_gpus_per_node"]
    assert said(GPU=gpus, CPU=cpus - 1) == ["ray_kwargs.ray_init.num_cpus"]


@pytest.mark.parametrize("contents", ["[model]", "[hf_model]", "[model,optimizer]"])
def test_a_run_does_not_go_on_with_half_of_what_it_was(tmp_path, contents):
    """verl would load the weights, and begin with a new optimiser or the schedule's first step, without a word."""
    overrides = [f"trainer.default_local_dir={tmp_path}", f"{SAVED}={contents}"]
    assert resume_refusals(composed(*overrides)) == []
    (tmp_path / TRACKER).write_text("4")
    (refusal,) = resume_refusals(composed(*overrides))
    assert refusal.key == "actor_rollout_ref.actor.checkpoint.load_contents"


SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"


# ---- another number of ranks ------------------------------------------------------------------------------------


def shards(folder, ranks):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model", "optim", "extra_state"):
        for rank in range(ranks):
            torch.save({}, shard_path(folder, name, ranks, rank))


def saved(folder, step, ranks):
    checkpoint = folder / f"global_step_{step}"
    shards(checkpoint / "actor", ranks)
    torch.save({}, checkpoint / "data.pt")
    return checkpoint


def resuming(folder, *overrides):
    return resume_refusals(composed(f"trainer.default_local_dir={folder}", *overrides))


def test_a_checkpoint_of_another_number_of_ranks_is_refused_with_the_command_that_helps(tmp_path):
    checkpoint = saved(tmp_path, 5, ranks=2)
    assert resuming(tmp_path, "trainer.n_gpus_per_node=2") == []
    assert resuming(tmp_path, "trainer.nnodes=2") == []
    assert resuming(tmp_path, "trainer.resume_mode=disable") == []
    (refusal,) = resuming(tmp_path)
    assert refusal.what.startswith(f"{checkpoint} was saved by 2 ranks, and this run has 1")
    assert f"cinema-verl reshard {checkpoint} --world-size 1" in refusal.advice
    shards(checkpoint / "actor", 1)  # what that command writes
    assert resuming(tmp_path) == []


def test_the_checkpoint_is_the_one_that_will_be_loaded(tmp_path):
    assert resuming(tmp_path) == [], "a new run"
    saved(tmp_path, 5, ranks=1)
    saved(tmp_path, 6, ranks=2)
    (refusal,) = resuming(tmp_path)
    assert "global_step_6" in refusal.what
    from_path = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/global_step_5")
    assert resuming(tmp_path, *from_path) == []
    (refusal,) = resuming(tmp_path, *from_path, "trainer.nnodes=3")
    assert "global_step_5" in refusal.what


@pytest.mark.parametrize("recipe", ["cinema_cpu", "cinema_cold_start_cpu"])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(tmp_path, recipe):
    def said(*overrides):
        config = composed(f"trainer.default_local_dir={tmp_path}", *overrides, recipe=recipe)
        return [refusal.key for refusal in resume_refusals(config)]

    saved(tmp_path, 5, ranks=1).joinpath("data.pt").unlink()  # begun, never ended: nothing was lost
    assert said() == []
    (tmp_path / TRACKER).write_text("4")
    assert said() == ["trainer.default_local_dir"]
    assert said("trainer.resume_mode=disable") == []


@pytest.mark.parametrize("recipe", ["cinema_cpu", "cinema_cold_start_cpu"])
def test_a_checkpoint_that_is_named_must_be_one(tmp_path, recipe):
    def said(path, *overrides):
        mode = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}")
        config = composed(f"trainer.default_local_dir={tmp_path}/new", *mode, *overrides, recipe=recipe)
        return [(refusal.key, refusal.what) for refusal in resume_refusals(config)]

    def advised(path):
        mode = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}")
        (refusal,) = resume_refusals(composed(f"trainer.default_local_dir={tmp_path}/new", *mode, recipe=recipe))
        return refusal.advice

    whole, half = saved(tmp_path, 5, ranks=1), saved(tmp_path, 7, ranks=1)
    if recipe == "cinema_cold_start_cpu":
        shards(whole, 1)
        (whole / "actor").rename(whole / "other")
        (whole / "data.pt").rename(whole / "data_0.pt")
    next(half.rglob("optim*")).unlink()
    assert said(whole) == []
    for path, what in (
        ("null", "no checkpoint"),
        (tmp_path / "global_step_6", "does not exist"),
        (tmp_path, "no checkpoint: its name"),
        (half, "not whole"),
    ):
        ((key, found),) = said(path)
        assert key == "trainer.resume_from_path"
        assert what in found
    (tmp_path / "latest").symlink_to(whole)
    for path in (tmp_path, tmp_path / "latest"):
        assert advised(path) == f"name one: {whole}"
    whole.rename(renamed := whole.with_name("global_step_50"))
    if recipe == "cinema_cpu":  # the other's is known by `progress.json` alone, which `saved` does not write
        write_progress(renamed, "this", 5)
        assert "not whole" in said(renamed)[0][1]
        (renamed / "progress.json").unlink()
    renamed.rename(whole)
    if recipe == "cinema_cpu":  # an evaluation needs the shards alone
        (whole / "data.pt").unlink()
        assert said(whole, "trainer.val_only=true") == []
        assert len(said(whole)) == 1
    unread = composed(f"trainer.resume_from_path={whole}", "trainer.resume_mode=disable", recipe=recipe)
    assert "would not be looked at" in resume_refusals(unread)[0].what


@pytest.mark.usefixtures("files_of_digits")
def test_the_driver_ends_the_run(tmp_path):
    saved(tmp_path / "run", 5, ranks=2)
    before = sorted(os.listdir(tmp_path / "run"))
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=["+recipe=cinema_cpu", f"trainer.default_local_dir={tmp_path}/run"],
            return_hydra_config=True,
        )
    with pytest.raises(SystemExit, match="cinema-verl reshard"):
        RefuseBeforeStart().on_job_start(config)
    assert sorted(os.listdir(tmp_path / "run")) == before
