"""The plugin: light, loud, and only in the processes that need it."""

import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from cinema_verl import __version__
from cinema_verl.registration import hooks

LIST_MODULES = "import sys, verl; print(*sys.modules)"


def modules(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded(run):
    return run("-c", LIST_MODULES)


@pytest.fixture(scope="module")
def kept_out(run):
    return run("-c", LIST_MODULES, VERL_USE_EXTERNAL_PLUGINS="none")


def test_import_verl_gains_next_to_nothing(loaded, kept_out):
    gained = modules(loaded) - modules(kept_out)
    ours = {name for name in gained if name.split(".")[0] == "cinema_verl"}
    assert ours == {
        "cinema_verl",
        "cinema_verl.registration",
        "cinema_verl.registration.command_line",
        "cinema_verl.registration.moved",
        "cinema_verl.training",
        "cinema_verl.training.cpu",
        "cinema_verl.training.cpu.platform",
        "cinema_verl.utils",
        "cinema_verl.utils.torchvision",
        "cinema_verl.registration.hooks",
        "cinema_verl.plugin",
    }
    assert {name.split(".")[0] for name in gained - ours} <= {"wrapt", "packaging"}


def test_the_core_needs_neither_torch_nor_verl(run):
    code = """
import importlib, sys
core = ("meta_action", "prompts", "verify", "reward", "diversity", "schedule")
for name in (*core, "training.settings", "registration.command_line", "cli"):
    importlib.import_module(f"cinema_verl.{name}")
print(*sys.modules)
"""
    assert not modules(run("-c", code)) & {"torch", "verl", "ray", "transformers", "hydra"}


def test_one_line_says_that_it_is_loaded(loaded):
    lines = [line for line in loaded.stderr.splitlines() if line.startswith("cinema-verl")]
    assert len(lines) == 1
    assert lines[0].startswith(f"cinema-verl {__version__} loaded into verl 0.9.")
    for name in ("trainer cinema", "estimator cinema_dps", "agent loop cinema", "rollout transformers", "recipes"):
        assert name in lines[0]


def test_only_the_first_rank_of_torchrun_says_it(run):
    assert "cinema-verl" not in run("-c", "import verl", RANK="1").stderr


def test_a_process_that_another_one_started_is_no_driver(run, tmp_path):
    """vLLM's engine and its workers: they inherit a command line that is not theirs, and would each announce it."""
    (tmp_path / "program.py").write_text("""
import multiprocessing, sys
def child():
    import verl
    from cinema_verl.registration import hooks
    print("driver" if hooks.is_driver() else "child", hooks.HOOKS[0].provides)
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
    sys.exit(process.exitcode)
""")
    done = run(str(tmp_path / "program.py"), "+recipe=cinemma")
    assert (done.returncode, done.stdout.strip()) == (0, "child trainer cinema"), done.stderr
    assert "loaded into verl" not in done.stderr


def test_a_plugin_that_cannot_load_stops_the_process_and_says_why(run):
    # A missing dependency, where verl itself would go on without a word.
    done = run("-c", "import sys; sys.modules['wrapt'] = None; import verl; print('trained')")
    assert done.returncode == 1
    assert "trained" not in done.stdout
    for part in ("Traceback", "ModuleNotFoundError", "wrapt", "cinema-verl doctor", "VERL_USE_EXTERNAL_PLUGINS=none"):
        assert part in done.stderr


def test_verl_runs_without_it_when_asked_to(kept_out):
    assert "cinema_verl" not in modules(kept_out)
    assert "cinema-verl" not in kept_out.stderr


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0", "0.10.0.dev0", "1.0"])
def test_an_untested_verl_is_refused(version, monkeypatch):
    monkeypatch.setattr(hooks, "verl_version", lambda: version)
    monkeypatch.delenv(hooks.ALLOW_UNTESTED, raising=False)
    monkeypatch.setattr(hooks, "HOOKS", ())
    with pytest.raises(hooks.PluginError, match=rf"verl {re.escape(version)} is outside .*{hooks.ALLOW_UNTESTED}=1"):
        hooks.install()


def test_an_untested_verl_can_be_insisted_on(monkeypatch, capsys):
    monkeypatch.setattr(hooks, "verl_version", lambda: "0.10.0")
    monkeypatch.setenv(hooks.ALLOW_UNTESTED, "1")
    monkeypatch.setattr(hooks, "HOOKS", ())
    hooks.install()
    assert "loaded into verl 0.10.0" in capsys.readouterr().err


def test_the_tested_range_is_the_one_that_pip_enforces():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert f"verl{hooks.TESTED_VERL}" in project["dependencies"]


def test_a_registration_that_fails_fails_the_import_of_verl():
    hook = hooks.Hook("verl.some.registry", "cinema_verl.no_such_module", "a thing")
    with pytest.raises(
        hooks.PluginError, match=r"a thing when verl\.some\.registry was imported.*no_such_module"
    ) as caught:
        hooks.run(hook, ModuleType("verl.some.registry"))
    # verl wraps imports of optional engines in `except ImportError`.
    assert not isinstance(caught.value, ImportError)


RAY_WORKER = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": BROKEN}})

@ray.remote
class Worker:
    def __init__(self):
        import verl

    def train(self):
        return "trained"

try:
    print(ray.get(Worker.remote().train.remote(), timeout=120))
except ray.exceptions.ActorDiedError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_worker_that_cannot_load_it_tells_the_driver(run, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wrapt.py").write_text("raise RuntimeError('this node is different')")
    done = run("-c", f"BROKEN = {str(tmp_path / 'broken')!r}\n{RAY_WORKER}")
    assert "cinema-verl" in done.stdout
    assert "this node is different" in done.stdout
    assert "trained" not in done.stdout
