"""What is built is what is in the repository, and both kinds of installation work from any directory."""

import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from cinema_verl import __version__

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = ("__pycache__", "*.pyc", "*.egg-info", "build", "dist", "outputs", ".git", ".venv", ".*_cache", "tests")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository to build from: setuptools leaves its traces beside the source."""
    copy = tmp_path_factory.mktemp("source") / "cinema-verl"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    return copy


def pip(*arguments, python=sys.executable):
    line = [sys.executable, "-m", "pip", "--python", str(python), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set()
    for package in ("cinema_verl", "cinema_verl/recipes", "hydra_plugins"):  # rglob does not follow the link
        wanted |= {
            f"{package}/{path.relative_to(ROOT / package)}"
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    assert held == wanted
    assert "hydra_plugins/cinema_verl_searchpath/__init__.py" in held
    assert "hydra_plugins/__init__.py" not in held, "it would hide the Hydra plugins of others"
    assert {name for name in held if name.endswith("recipe/cinema.yaml")} == {"cinema_verl/recipes/recipe/cinema.yaml"}


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"cinema_verl-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: verl<0.10,>=0.9.1\n" in metadata
    assert "[verl.plugins]\ncinema = cinema_verl.plugin\n" in entry_points
    assert "cinema-verl = cinema_verl.cli:main" in entry_points


@pytest.fixture
def bare(tmp_path):
    """A virtual environment with everything that is installed here but cinema-verl."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}:
        for entry in Path(packages).iterdir():
            ours = entry.name.startswith(("cinema_verl", "__editable__.cinema_verl", "__editable___cinema_verl"))
            if not ours and not (purelib / entry.name).exists():
                (purelib / entry.name).symlink_to(entry)
    return python


COMPOSE = """
import sys, verl
from hydra import compose, initialize_config_module

with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", overrides=sys.argv[1:])
print(config.trainer.v1.trainer_mode, config.get("recipe"), sys.modules["cinema_verl"].__file__)
"""


@pytest.mark.slow
def test_a_wheel_installs_and_composes_from_elsewhere(bare, wheel, run):
    pip("install", "--no-deps", "--no-index", wheel, python=bare)
    # With the plugin kept out the namespace package alone has to do.
    for environment in ({}, {"VERL_USE_EXTERNAL_PLUGINS": "none"}):
        done = run("-c", COMPOSE, "+recipe=cinema", python=bare, **environment)
        assert done.returncode == 0, done.stderr
        mode, recipe, where = done.stdout.split()
        assert (mode, recipe) == ("cinema", "None")
        assert Path(where).is_relative_to(bare.parents[1])
    command = subprocess.run([bare.parent / "cinema-verl", "--version"], capture_output=True, text=True, check=True)
    assert command.stdout == f"cinema-verl {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lenient", "strict", "compat"])
def test_an_editable_install_composes_from_elsewhere(bare, source, mode, run):
    editable = ("--no-build-isolation", "--config-settings", f"editable_mode={mode}", "--editable", source)
    pip("install", "--no-deps", "--no-index", *editable, python=bare)
    for environment in ({}, {"VERL_USE_EXTERNAL_PLUGINS": "none"}):
        done = run("-c", COMPOSE, "+recipe=cinema", python=bare, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[:2] == ["cinema", "None"]


@pytest.mark.slow
def test_without_an_installation_the_place_of_the_recipe_must_be_named(bare, run):
    code = COMPOSE.replace(', sys.modules["cinema_verl"].__file__', "")
    done = run("-c", code, "+recipe=cinema", python=bare)
    assert done.stdout.split() == ["sync", "cinema"], "what docs/fail_closed.md says cannot be refused"
    done = run("-c", code, "+recipe@_global_=cinema", python=bare)
    assert done.returncode == 1
    assert "recipe@_global_" in done.stderr


def test_make_installs_the_torch_that_the_extra_asks_for():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = [pin for pin in project["optional-dependencies"]["cpu"] if pin.startswith("torch==")]
    assert f"TORCH  ?= {torch[0]}\n" in (ROOT / "Makefile").read_text()
