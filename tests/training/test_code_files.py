"""Code that a configuration names and that is not there ends a run before anything starts."""

import pytest
from omegaconf import OmegaConf

from cinema_verl.training.code_files import missing_code
from cinema_verl.training.refusal import Facts


def refused(path, name, section="reward.custom_reward_function"):
    config = OmegaConf.create()
    OmegaConf.update(config, section, {"path": path, "name": name}, force_add=True)
    return list(missing_code(config, Facts()))


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from os import path as where\nscore = len\nclass Rows: ...\nasync def judge(): raise SystemExit\n")
    return path


@pytest.mark.parametrize("name", ["where", "score", "Rows", "judge"])
def test_what_a_file_has_is_found_and_nothing_is_run(mine, name):
    assert refused(str(mine), name) == refused(f"file://{mine}", name) == []


def test_a_name_that_is_not_there_and_the_nearest_one(mine):
    (found,) = refused(str(mine), "scores")
    assert (found.key, "Did you mean score?" in found.advice) == ("reward.custom_reward_function.name", True)
    (found,) = refused("pkg://cinema_verl.data.dataset", "CinemaDatasett", "data.custom_cls")
    assert (found.key, "Did you mean CinemaDataset?" in found.advice) == ("data.custom_cls.name", True)
    assert refused("pkg://cinema_verl.reward", "compute_score_async") == []


@pytest.mark.parametrize("path", ["/nowhere/mine.py", "pkg://cinema_verl.rewards", "pkg://no_such_package.reward"])
def test_a_file_or_module_that_is_not_there(path):
    (found,) = refused(path, "score")
    assert found.key == "reward.custom_reward_function.path"


@pytest.mark.parametrize(
    "text", ["from os import *\n", "try:\n    import x\nexcept ImportError:\n    pass\n", "def (\n"]
)
def test_what_cannot_be_known_without_running_it_is_left_to_the_run(mine, text):
    mine.write_text(text)
    assert refused(str(mine), "anything") == []
    assert refused("hdfs://somewhere/mine.py", "anything") == refused(None, None) == []
