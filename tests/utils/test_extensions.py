"""Entry points of other packages: found, loaded once, and named when they cannot be used."""

import math

import pytest

from cinema_verl import prompts, schedule
from cinema_verl.data import sources
from cinema_verl.training import estimators
from cinema_verl.utils.extensions import ExtensionError, load
from cinema_verl.verify import registry

GROUP = "cinema_verl.tests"
ADAPTER = "from types import SimpleNamespace\nOURS = SimpleNamespace(name='x', benchmark=False)"
ASK = {
    registry.GROUP: registry.answer_types,
    sources.GROUP: sources.names,
    prompts.GROUP: prompts.modes,
    schedule.GROUP: schedule.shapes,
    estimators.GROUP: estimators.schemes,
}
"""The groups, and what every process asks that needs one of their names."""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setattr(schedule, "SHAPES", dict(schedule.SHAPES))
    monkeypatch.setattr(estimators, "_SCHEMES", dict(estimators._SCHEMES))


def test_every_distribution_adds_to_the_group(install):
    install("one", {GROUP: {"a": "math:sqrt"}})
    install("two", {GROUP: {"b": "math:pi"}})
    assert load(GROUP) == {"a": math.sqrt, "b": math.pi}
    assert load(GROUP) is load(GROUP)


def test_a_group_that_nobody_adds_to_is_empty():
    assert load("cinema_verl.nobody") == {}


@pytest.mark.parametrize("group", ASK)
@pytest.mark.parametrize(
    ("value", "code", "cause"),
    [
        ("no_such_module:a", "", "ModuleNotFoundError"),
        ("mine:no_such_name", "", "AttributeError"),
        ("mine:a", "1 / 0", "ZeroDivisionError"),
        ("mine:a", "a = 3", "3|int"),
    ],
)
def test_one_that_cannot_be_used_is_named_in_every_group(install, group, value, code, cause):
    install("mine", {group: {"x": value}}, code)
    for _ in range(2):  # the second time, too
        with pytest.raises(ExtensionError, match=cause) as caught:
            ASK[group]()
        for part in ("distribution mine 1.0", group, f"x = {value!r}"):
            assert part in str(caught.value)


@pytest.mark.parametrize(
    ("group", "name", "code", "says"),
    [
        (registry.GROUP, "mcq", "def a(answer, gold): ...", "exists already"),
        (sources.GROUP, "own", ADAPTER.replace("x", "own").replace("OURS", "a"), "ships with cinema-verl"),
        (sources.GROUP, "dock", ADAPTER.replace("OURS", "a"), "Adapter with name='dock'"),
        (prompts.GROUP, "cot", "a = 'Think.'", "ships with cinema-verl"),
        (prompts.GROUP, "brief", "a = ' '", "not a template's text"),
        (prompts.GROUP, "brief", "a = '{muse}x{/muse}'", "no tag"),
        (prompts.GROUP, "brief", "a = 'Look at <image>'", "stands for media"),
        (schedule.GROUP, "linear", "def a(t): return t", "exists already"),
        (schedule.GROUP, "grows", "def a(t): return 2 * t", "leaves"),
        (schedule.GROUP, "pole", "def a(t): return 0 / (t - 0.5)", "division by zero"),
        (estimators.GROUP, "cinema_dps", "def a(*given): return given[0]", "exists already"),
    ],
)
def test_a_name_that_is_taken_and_an_object_of_another_kind_are_refused(install, group, name, code, says):
    install("mine", {group: {name: "mine:a"}}, code)
    with pytest.raises(ExtensionError, match=says) as caught:
        ASK[group]()
    for part in ("distribution mine 1.0", group, f"{name} = 'mine:a'"):
        assert part in str(caught.value)


def test_two_objects_of_one_name_are_refused(install):
    install("one", {GROUP: {"a": "math:sqrt"}})
    install("two", {GROUP: {"a": "math:pi"}})
    with pytest.raises(ExtensionError, match=r"one 1\.0.*same name|two 1\.0.*same name"):
        load(GROUP)
