"""docs/extending.md is followed: its package is written, installed on a path, and used in other processes."""

import json
import re
from pathlib import Path

import pytest
import tomllib
from PIL import Image

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installer would make of the page's package."""
    site = tmp_path_factory.mktemp("site")
    files = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert {name for name, _ in files} == {
        "pyproject.toml",
        *(f"my_cinema/{name}.py" for name in ("answers", "harbour", "words", "training")),
    }
    for name, text in files:
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    (site / "my_cinema" / "__init__.py").touch()
    project = tomllib.loads((site / "pyproject.toml").read_text())["project"]
    info = site / f"my_cinema-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    assert len(sections) == 5
    (info / "entry_points.txt").write_text("\n".join(sections))
    return site


def test_an_answer_type_is_known_to_the_reward_and_to_questions(run, package):
    code = """
from cinema_verl.reward import compute_score
from cinema_verl.verify import verify
cases = [("3,-4", "(3, -4)"), ("north", "(3, -4)"), ("1,1", "x")]
print(*(verify(answer, gold, "coordinate") for answer, gold in cases))
row = {"answer_type": "coordinate", "num_images": 2}
print(compute_score("harbour", "<focus>a tug</focus><answer>(3, 4)</answer>", "3,4", row)["score"])
"""
    done = run("-c", code, PYTHONPATH=str(package))
    assert done.stdout.split() == ["True", "False", "None", "1.0"], done.stderr


def test_a_source_and_a_benchmark_are_prepared_and_known(run, package, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), (9, 9, 200 if name == "a" else 9)).save(tmp_path / f"{name}.png")
    row = {"id": "1", "question": "Where is the tug now?", "pictures": ["a.png", "b.png"], "where": "(3, 4)"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", "where": "far"}) + "\n")
    command = ["-m", "cinema_verl", "prepare", "harbour", "--input", str(tmp_path), "--output", str(tmp_path / "out")]
    done = run(*command, "--workers", "0", PYTHONPATH=str(package))
    assert done.returncode == 0, done.stderr
    (question,) = map(json.loads, (tmp_path / "out" / "questions" / "part-00000.jsonl").read_text().splitlines())
    assert (question["source"], question["answer_type"], question["answer"]) == ("harbour", "coordinate", "(3, 4)")
    (rejected,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert rejected["reason"] == "gold_unreadable"
    code = "from cinema_verl.data import sources; print(*sources.names('benchmark'))"
    assert "harbour_test" in run("-c", code, PYTHONPATH=str(package)).stdout.split()


def test_a_prompt_mode_a_shape_and_an_estimator(run, package):
    code = """
import numpy as np
from cinema_verl.prompts import modes, system_prompt
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training.estimators import schemes
print("brief" in modes(), system_prompt("brief"))
schedule = AnnealingSchedule(0.1, exploration_steps=2, annealing_steps=2, shape="half")
print([schedule(step) for step in (1, 2, 3, 4)])
scheme = schemes()["first_of_its_kind"]
acc, patterns, groups = np.array([1, 1, 1, 0]), np.array(["a", "a", "b", "c"]), np.array(["g"] * 4)
print(scheme.credit(np.ones(4), acc, patterns, groups, 0.1).tolist(), "torch" in __import__("sys").modules)
"""
    done = run("-c", code, PYTHONPATH=str(package))
    assert done.stdout.splitlines() == [
        "True Look, then answer: <focus>what you see</focus><answer>the answer</answer>",
        "[0.1, 0.1, 0.05, 0.0]",
        "[1.1, 1.0, 1.1, 1.0] False",
    ], done.stderr


@pytest.mark.slow
def test_the_trainer_hands_the_estimator_to_verl_under_its_name(run, package):
    code = """
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from cinema_verl.training.advantage import group_estimator
print(group_estimator("first_of_its_kind") is get_adv_estimator_fn("first_of_its_kind"))
"""
    done = run("-c", code, PYTHONPATH=str(package))
    assert done.stdout.split() == ["True"], done.stderr


@pytest.mark.slow
def test_a_ray_worker_finds_them_too(run, package):
    code = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
def ask():
    from cinema_verl.prompts import modes
    from cinema_verl.schedule import shapes
    from cinema_verl.training.estimators import schemes
    from cinema_verl.verify import verify
    found = "brief" in modes(), "half" in shapes(), "first_of_its_kind" in schemes()
    return verify("3,4", "(3, 4)", "coordinate"), *found
print(*ray.get(ask.remote()))
"""
    done = run("-c", code, PYTHONPATH=str(package))
    assert done.stdout.split() == ["True"] * 4, done.stderr
