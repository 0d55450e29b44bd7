"""Repeated warnings of dependencies are filtered, others and the user's own filters are not."""

import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from cinema_verl.training.quiet import FILTERS, PYTHONS, SHOW, filter_warnings

KEY = f"ray_kwargs.ray_init.runtime_env.env_vars.{PYTHONS}"


@pytest.fixture
def filtered(monkeypatch):
    """The variable that a run's processes get."""
    monkeypatch.delenv(SHOW, raising=False)
    monkeypatch.delenv(PYTHONS, raising=False)

    def filtered(config=None, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = OmegaConf.create({"ray_kwargs": {"ray_init": {"num_cpus": 1}}} if config is None else config)
        filter_warnings(config)
        return OmegaConf.select(config, KEY)

    return filtered


def warns(variable, category, message):
    code = f"import warnings; warnings.warn({message!r}, {category})"
    environment = {name: value for name, value in os.environ.items() if name != PYTHONS} | {PYTHONS: variable}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment).stderr
    assert "Invalid -W option" not in said
    return message in said


def test_python_understands_them(filtered):
    variable = filtered()
    assert not warns(variable, "UserWarning", "megatron engine is not available: ModuleNotFoundError()")
    assert not warns(variable, "UserWarning", "'set_vital' is deprecated, please do not call")
    assert warns(variable, "UserWarning", "this model has no such layer")
    assert warns(variable, "FutureWarning", "Warning: another module's")


def test_what_the_user_filters_wins(filtered):
    assert filtered(**{PYTHONS: "default"}) == ",".join([*FILTERS, "default"])
    assert warns(filtered(**{PYTHONS: "default"}), "UserWarning", "megatron engine is not available: x")
    own = {"ray_kwargs": {"ray_init": {"runtime_env": {"env_vars": {PYTHONS: "error"}}}}}
    assert filtered(own) == "error"


def test_a_switch_shows_them(filtered):
    assert filtered(**{SHOW: "1"}) is None
    assert filtered({"trainer": {}}) is None
