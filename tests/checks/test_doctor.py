"""`cinema-verl doctor` in a good environment and in broken ones."""

import json
import shutil
import subprocess
from importlib import metadata

import pytest

from cinema_verl.checks import cluster, doctor, process
from cinema_verl.checks.compose import compose
from cinema_verl.checks.doctor import inspect_config
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.selection import inspect_selection
from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.training.arithmetic import too_small

DOCTOR = ("-m", "cinema_verl", "doctor", "--json")


def findings(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], dict]:
    assert done.stdout, done.stderr
    return {(found["where"], found["what"]): found for found in json.loads(done.stdout)}


def test_all_is_well_here_in_the_driver_and_in_a_ray_worker(run):
    done = run(*DOCTOR, "--recipe", "cinema_cpu", VERL_PLATFORM="cpu")
    found = findings(done)
    assert {key: f["detail"] for key, f in found.items() if f["ok"] is False} == {}
    assert done.returncode == 0
    worker = next(where for where, _ in found if where.startswith("Ray worker on "))
    for where in ("driver", worker):
        for what in ("versions", "requirements", "plugin", "platform", *(name for name, _, _ in process.REGISTRIES)):
            assert (where, what) in found
    assert found["recipe", "trainer"]["detail"] == "cinema"
    assert found["recipe", "estimator"]["detail"] == "cinema_dps"
    assert found["recipe", "rollout"]["detail"] == "transformers"
    assert (worker, "rollout transformers, imports") in found


def test_without_the_plugin_it_says_what_keeps_it_out(run):
    done = run(*DOCTOR, "--no-ray", VERL_USE_EXTERNAL_PLUGINS="none")
    found = findings(done)
    assert done.returncode == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=none" in found["driver", "plugin"]["detail"]
    assert "unset VERL_USE_EXTERNAL_PLUGINS" in found["driver", "plugin"]["advice"]
    assert found["driver", "trainer cinema"]["ok"] is False


def test_with_a_plugin_that_cannot_load_it_shows_why(run):
    code = "import sys; sys.modules['wrapt'] = None; from cinema_verl.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run("-c", code, "doctor", "--json", "--no-ray")
    broken = findings(done)["driver", "import verl"]
    assert done.returncode == 1
    assert "wrapt" in broken["detail"]


def test_a_recipe_that_is_not_there():
    config, found = compose("cinemma", [])
    assert config is None
    assert found[-1].ok is False
    assert "Could not find 'recipe/cinemma'" in found[-1].detail
    assert "cinema_cpu" in found[-1].detail


def test_a_selection_that_is_not_there_and_one_that_is_not_cinemas():
    overrides = ["actor_rollout_ref.rollout.name=vllm", "algorithm.adv_estimator=grpo", "trainer.v1.trainer_mode=cine"]
    config, _ = compose("cinema_cpu", [*overrides, "trainer.use_v1=false", "data.train_batch_size=0"])
    found = {finding.what: finding for finding in inspect_config(config, rl=True)}
    assert found["trainer"].ok is False
    assert "cinema, cinema_colocate_async, cinema_separate_async, colocate_async" in found["trainer"].advice
    assert found["trainer.use_v1"].ok is False
    assert found["estimator"].ok is None
    assert "a baseline" in found["estimator"].detail
    assert found["validation"].ok is False
    if process.version_of("vllm") is None:
        assert found["rollout vllm, imports"].ok is False
        assert "cinema-verl[gpu]" in found["rollout vllm, imports"].advice


def test_an_engine_is_imported_as_the_run_imports_it(monkeypatch, tmp_path):
    """`import vllm` was well where verl's server module died of what that imports."""
    assert process.engine_finding("driver", "transformers").ok is True
    (tmp_path / "vllm_like.py").write_text(
        "def __getattr__(name):\n"
        "    raise RuntimeError('libcuda is missing') if name == 'SamplingParams' else AttributeError(name)\n"
    )
    (tmp_path / "server_of_it.py").write_text("from vllm_like import SamplingParams\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert process.importable("driver", "vllm_like", "", "").ok is True
    monkeypatch.setitem(process.ENGINES, "vllm", "server_of_it")
    found = process.engine_finding("driver", "vllm")
    assert found.ok is False
    assert "libcuda is missing" in found.detail


@pytest.mark.parametrize(
    "given", [["+recipe=cinema_cold_start", "model.path=m"], ["model.path=m", "--recipe", "cinema_cold_start"]]
)
def test_the_recipe_is_named_as_the_run_names_it(monkeypatch, given):
    asked = []
    monkeypatch.setattr(doctor, "examine", lambda recipe, overrides, with_ray: asked.append((recipe, overrides)) or [])
    assert doctor.main(given) == 0
    assert asked == [("cinema_cold_start", ["model.path=m"])]
    with pytest.raises(SystemExit) as stopped:
        doctor.main([*given, "+recipe=cinema"])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_a_configuration_that_the_run_would_refuse_is_not_well(run):
    """Misspelt settings used to be "All is well" here, and a refusal minutes into the run."""
    done = run(*DOCTOR, "--no-ray", "--recipe", "cinema_cpu", "+cinema.coeficient=0.05", "cinema.annealing_shape=cosin")
    assert done.returncode == 1
    assert "coeficient" in findings(done)["recipe", "cinema"]["detail"]


def test_fine_tuning_is_judged_too():
    config, _ = compose("cinema_cold_start", ["data.val_files=null", "model.path=somebody/model"])
    found = {finding.what: finding for finding in inspect_config(config, rl=False)}
    assert found["data.val_files"].ok is False


@pytest.mark.parametrize(
    ("recipe", "key"), [("cinema_cold_start", "model.path"), ("cinema", "actor_rollout_ref.model.path")]
)
def test_the_folder_of_the_model_is_looked_at_as_the_run_looks_at_it(recipe, key, tmp_path):
    shutil.copytree(digits_cold_start(), tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}<think>\n{% endif %}")
    config, _ = compose(recipe, [f"{key}={tmp_path}/model", "trainer.test_freq=-1"])
    found = {finding.what: finding for finding in inspect_config(config, rl=recipe == "cinema")}
    assert found[key].ok is False
    assert "opens <think>" in found[key].detail


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_a_ray_is_judged_as_the_run_judges_it(device):
    config, _ = compose("cinema", ["trainer.nnodes=2"])
    (well,) = cluster.resource_findings(config, {device: 16.0, "CPU": 57.0})
    assert well.ok is True
    assert well.detail.startswith("16 GPUs, 57 CPUs; ")
    for have in ({device: 8.0, "CPU": 57.0}, {device: 16.0, "CPU": 56.0}, {device: 8.0, "CPU": 4.0}, {}):
        found = cluster.resource_findings(config, have)
        assert [(each.what, each.detail) for each in found] == [each[:2] for each in too_small(config, have)]
        assert not any(each.ok for each in found)


def test_an_environment_without_the_entry_point(monkeypatch):
    monkeypatch.delitem(process.sys.modules, "cinema_verl.plugin", raising=False)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    found = process._plugin("driver")
    assert found.ok is False
    assert "pip install cinema-verl" in found.advice


def test_a_dependency_of_the_wrong_version(monkeypatch):
    versions = {"cinema-verl": "0.1.0", "verl": "0.9.1", "transformers": "6.0"}
    monkeypatch.setattr(process, "version_of", versions.get)
    monkeypatch.setattr(metadata, "requires", lambda name: ["transformers<5.11"] if name == "verl" else ["wrapt>=1.16"])
    details = [found.detail for found in process._requirements("driver")]
    assert details == ["cinema-verl needs wrapt>=1.16, found none", "verl needs transformers<5.11, found 6.0"]


def test_a_finding_prints_its_advice_only_when_it_is_needed():
    assert str(Finding("driver", "plugin", True, "loaded", "reinstall")) == "✓ plugin: loaded"
    assert str(Finding("driver", "plugin", False, "gone", "reinstall")) == "✗ plugin: gone\n    → reinstall"
    assert str(Finding("driver", "vllm", None, "not installed")) == "- vllm: not installed"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], ["steps 1 to 84, exploration: 84 steps", "steps 85 to 120, exploitation: 36 steps"]),
        (["cinema.stages.exploration=null"], ["steps 1 to 36, exploitation: 36 steps"]),
        (["trainer.v1.trainer_mode=sync", "algorithm.adv_estimator=grpo"], []),  # verl's own knows no stages
    ],
)
def test_what_the_run_does_at_which_step(overrides, said):
    config, _ = compose("cinema_cpu", overrides)
    stages = [finding.detail for finding in inspect_selection(config) if finding.what == "stage"]
    assert [",".join(detail.split(",")[:2]) for detail in stages] == said
