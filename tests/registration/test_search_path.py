"""`+recipe=cinema` gets the recipe or an error, never verl's defaults: every row of docs/fail_closed.md."""

import json
import re

import pytest

from cinema_verl.registration.command_line import (
    PROGRAMS,
    RECIPES,
    RL_TRAINER,
    SFT_TRAINER,
    check_command_line,
    program_of,
    running_program,
)
from cinema_verl.registration.command_line import shipped_recipes as shipped

# Composes each command line (override,override,…) of sys.argv; prints what came out, or the error.
COMPOSE = """
import json, sys
import verl  # first, as every program of verl does
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

said = {}
with initialize_config_module("verl.trainer.config", version_base=None):
    sources = [source.provider for source in GlobalHydra.instance().config_loader().get_sources()]
    for line in sys.argv[1:]:
        try:
            config = compose("ppo_trainer", overrides=line.split())
        except Exception as error:
            said[line] = f"{type(error).__name__}: {error}"
        else:
            said[line] = [config.trainer.v1.trainer_mode, config.algorithm.adv_estimator, config.get("recipe")]
print(json.dumps([sources.count("cinema_verl"), said]))
"""
LOST = "import sys; sys.modules['hydra_plugins'] = None\n"  # as if the namespace package were not there
CINEMA = ["cinema", "cinema_dps", None]
DEFAULTS = ["sync", "gae", "cinema"]


def composed(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_composes_from_any_directory_and_nothing_else_does(run):
    lines = ("+recipe=cinema", "+recipe=[cinema]", "+recipe@_global_=cinema", "+recipe=cinema trainer.nnodes=2")
    misspelt = ("+recipe=cinemma", "+recipe@_global_=cinemma", "+recipe=[cinema,cinemma]")
    unlike = ("recipe=cinema", "++recipe=cinema")
    times, said = composed(run("-c", COMPOSE, *lines, *misspelt, *unlike))
    assert times == 1, "the plugin and Hydra's scan both register the search path"
    for line in lines:
        assert said[line] == CINEMA
    for line in misspelt:
        assert said[line].startswith("MissingConfigException: In 'ppo_trainer': Could not")
    for line in misspelt[:2]:
        assert all(f"\t{name}\n" in said[line] for name in shipped()), "Hydra lists what there is"
    for line in unlike:
        assert said[line].startswith("ConfigCompositionException")


def test_the_command_of_the_readme_composes_and_values_can_be_overridden(run):
    overrides = ("+recipe=cinema", "algorithm.gamma=0.5", "cinema.coefficient=0.2")
    done = run("-m", RL_TRAINER, *overrides, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    for line in ("trainer_mode: cinema", "adv_estimator: cinema_dps", "gamma: 0.5", "coefficient: 0.2"):
        assert line in done.stdout


def test_it_composes_through_the_plugin_where_the_namespace_package_is_lost(run):
    assert composed(run("-c", LOST + COMPOSE, "+recipe=cinema")) == [1, {"+recipe=cinema": CINEMA}]


def test_without_the_plugin_the_recipe_names_a_trainer_that_verl_does_not_know(run):
    code = """
from cinema_verl.utils.torchvision import ensure_torchvision_importable

ensure_torchvision_importable()
from verl.trainer.ppo.v1 import get_trainer_cls

get_trainer_cls("cinema")
"""
    done = run("-c", COMPOSE + code, "+recipe=cinema", VERL_USE_EXTERNAL_PLUGINS="none")
    assert json.loads(done.stdout) == [1, {"+recipe=cinema": CINEMA}]
    assert done.returncode == 1
    assert "Unknown trainer 'cinema'" in done.stderr


def test_a_misspelt_group_is_refused(run):
    done = run("-m", RL_TRAINER, "+recipes=cinema", "--cfg", "job")
    assert done.returncode == 1
    assert "The group is called recipe: +recipe=cinema" in done.stderr


def test_a_recipe_under_the_wrong_program_is_refused(run):
    done = run("-m", SFT_TRAINER, "+recipe=cinema", "--cfg", "job")
    assert done.returncode == 1
    assert f"+recipe=cinema is for {RL_TRAINER}, and this is {SFT_TRAINER}" in done.stderr


def test_the_estimator_refuses_to_be_grpo_under_another_trainer():
    import torch

    from cinema_verl.training.advantage import group_estimator

    with pytest.raises(RuntimeError, match=r"trainer\.v1\.trainer_mode=cinema"):
        group_estimator("cinema_dps")(torch.ones(2, 3), torch.ones(2, 3), ["a", "a"])


def test_the_open_door_and_the_two_ways_past_it(run):
    # Where cinema-verl is not installed at all, nothing of ours can object. If this fails, Hydra has closed the door.
    trap, sure = "+recipe=cinema", ("+recipe@_global_=cinema", "+recipe=cinema cinema.coefficient=0.1")
    done = run("-c", LOST + COMPOSE, trap, *sure, VERL_USE_EXTERNAL_PLUGINS="none")
    times, said = composed(done)
    assert times == 0
    assert said[trap] == DEFAULTS
    assert all(said[line].startswith(("ConfigCompositionException", "MissingConfigException")) for line in sure)


# ---- the check of the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["+recipe=cinema"],
        ["+recipe=[cinema,mine]", "trainer.experiment_name=cinema"],
        ["+recipe@_global_=cinema"],
        ["+recipe=mine", "--config-dir=conf"],
        ["+experiment=cinema", "--config-dir", "conf"],
        ["+trainer.note=cinema"],
        ["trainer.project_name=cinema", "+data.list=[cinema]"],
        [],
        ["-k", "recipe", "+", "=", "+=", "++recipe"],
    ],
)
def test_what_is_not_ours_to_refuse(arguments):
    check_command_line(arguments, RL_TRAINER)


@pytest.mark.parametrize(
    "argument", ["+recipes=cinema", "++reciep=cinema_cpu", "+recipes@_global_=cinema", "+rl=[a, 'cinema']"]
)
def test_what_is(argument):
    with pytest.raises(SystemExit, match="cinema-verl: "):
        check_command_line([argument], RL_TRAINER)


def test_the_ray_trainer_takes_the_recipes_of_the_sft_trainer():
    check_command_line(["+recipe=cinema_sft"], "verl.trainer.sft_trainer_ray")
    with pytest.raises(SystemExit, match=rf"\+recipe=cinema is for {RL_TRAINER}, and this is .*sft_trainer_ray"):
        check_command_line(["+recipe=cinema"], "verl.trainer.sft_trainer_ray")


def test_another_program_may_have_any_group():
    check_command_line(["+experiment=cinema", "+recipes=cinema"], None)


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("python -m verl.trainer.main_ppo +recipe=cinema", RL_TRAINER),
        ("python -um verl.trainer.main_ppo", RL_TRAINER),
        ("python -u -X faulthandler -mverl.trainer.main_ppo", RL_TRAINER),
        ("python -m verl.trainer.main_ppo -m trainer.seed=1,2", RL_TRAINER),  # Hydra's multirun
        ("/usr/bin/python3 -u -m verl.trainer.sft_trainer", SFT_TRAINER),  # a rank of torchrun
        ("python -m verl.trainer.sft_trainer_ray", "verl.trainer.sft_trainer_ray"),
        ("python -m debugpy --listen 5678 -m verl.trainer.main_ppo", RL_TRAINER),
        ("python -m cProfile -o out -m verl.trainer.main_ppo", RL_TRAINER),
        ("python /src/verl/verl/trainer/main_ppo.py +recipe=cinema", RL_TRAINER),
        ("python -m pdb ../verl/verl/trainer/sft_trainer.py", SFT_TRAINER),
        ("python -I /venv/bin/cinema-verl doctor +recipe=cinema", "cinema_verl"),
        ("python -m cinema_verl preflight +recipe=cinema", "cinema_verl"),
        ("python app.py +experiment=cinema", None),
        ("python -m app +experiment=cinema", None),
        ("python app.py -m +experiment=cinema", None),
        ("python app.py path=/src/verl/verl/trainer/main_ppo.py", None),
        ("python /src/main_ppo.py", None),
        ("python -m verl.trainer.main_eval", None),
        ("python", None),
        ("", None),
    ],
)
def test_which_program_is_running(line, program):
    assert running_program(line.split()) == program


def test_the_path_of_verls_file_is_enough(monkeypatch, tmp_path):
    (tmp_path / "verl" / "trainer").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "verl" / "trainer")
    assert running_program(["python", "main_ppo.py"]) == RL_TRAINER


APPLICATION = """
import hydra
import verl

@hydra.main(config_path=None, version_base=None)
def main(config):
    print("experiment:", config.experiment)

main()
"""


def test_an_unrelated_application_that_imports_verl_runs(run, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    done = run(str(tmp_path / "app.py"), "+experiment=cinema", "hydra.run.dir=.")
    assert (done.returncode, done.stdout) == (0, "experiment: cinema\n"), done.stderr


def test_verls_program_is_checked_when_its_file_is_run(run):
    from importlib.util import find_spec

    file = str(find_spec(RL_TRAINER).origin)
    done = run(file, "+recipes=cinema", "--cfg", "job")
    assert done.returncode == 1
    assert "The group is called recipe: +recipe=cinema" in done.stderr


def test_an_installation_without_recipes_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("cinema_verl.registration.command_line.RECIPES", tmp_path)
    with pytest.raises(SystemExit, match="Install cinema-verl again"):
        check_command_line(["+recipe=cinema"], RL_TRAINER)


def test_the_header_of_every_shipped_recipe_shows_its_command():
    assert len(shipped()) == len(list(RECIPES.glob("recipe/*"))) >= 4
    for name in shipped():
        header = (RECIPES / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")
        assert re.search(rf"-m {program_of(name)} '?\+recipe=(\[\w+,)?{name}\b", header)
        assert program_of(name) in PROGRAMS
