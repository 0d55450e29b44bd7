"""Old dotted names: each gives an error that names a module which is there."""

import importlib
import importlib.util

import pytest
import verl  # noqa: F401  registers the plugin, and with it the finder
from verl.utils.import_utils import load_class_from_fqn, load_extern_object

from cinema_verl.registration.moved import MOVED, MovedModules
from cinema_verl.utils.resolvers import PACKAGE, package_path


def test_there_are_no_old_modules_left():
    assert len(MOVED) > 90
    present = [old for old in MOVED if list(PACKAGE.glob(f"{old.replace('.', '/')}.py"))]
    assert present == []


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_answered_with_one_that_can_be_imported(old):
    new = f"cinema_verl.{MOVED[old]}"
    assert importlib.util.find_spec(new) is not None
    package = f"cinema_verl.{MOVED.get(old.rpartition('.')[0], '')}"
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module(f"cinema_verl.{old}")
    # Where a whole package has moved, the error is about the package, and names modules that went elsewhere.
    assert new in str(error.value) or (package in str(error.value) and new == f"{package}.{old.rpartition('.')[2]}")
    with pytest.raises(ModuleNotFoundError, match=rf"cinema_verl\.{old} has moved: it is {new} now"):
        MovedModules().find_spec(f"cinema_verl.{old}")


@pytest.mark.parametrize("name", ["cinema_verl.nowhere", "cinema_verl.verify.trainer", "trainer", "other.trainer"])
def test_no_other_name_is_answered(name):
    assert MovedModules().find_spec(name) is None


def test_what_configs_say_reaches_the_user_through_verl():
    with pytest.raises(ImportError) as error:
        load_class_from_fqn("cinema_verl.agent_loop_manager.SharingAgentLoopManager", "AgentLoopManager")
    assert "cinema_verl.training.agent_loop_manager now" in f"{error.value} {error.value.__cause__}"
    with pytest.raises(ModuleNotFoundError, match=r"cinema_verl\.prepare\.sources now"):
        load_extern_object("pkg://cinema_verl.data.adapters.own", "convert")


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [
        *(("rollout", "engine", name) for name in ("ServerAdapter", "TransformersReplica", "TransformersServer")),
        *(("demo", "__main__", name) for name in ("main", "training_command")),
    ],
)
def test_names_of_a_module_that_is_a_package_now(package, module, name):
    with pytest.raises(ImportError, match=rf"cinema_verl\.{package}\.{module}\.{name} now"):
        exec(f"from cinema_verl.{package} import {name}", {})
    assert hasattr(importlib.import_module(f"cinema_verl.{package}.{module}"), name)
    with pytest.raises(ImportError, match=r"cannot import name 'Nothing'"):
        exec(f"from cinema_verl.{package} import Nothing", {})


def test_a_resource_that_has_moved():
    with pytest.raises(FileNotFoundError, match=r"it has moved: \$\{cinema_package:demo/digits_cold_start\}"):
        package_path("cpu/digits_cold_start")
    assert package_path("demo/digits_cold_start")
