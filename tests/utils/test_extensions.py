"""Entry points of other packages: found, loaded once, and named when they cannot be loaded."""

import math

import pytest

from cinema_verl.utils.extensions import ExtensionError, load

GROUP = "cinema_verl.tests"


def test_every_distribution_adds_to_the_group(install_entry_points):
    install_entry_points("one", GROUP, "a = math:sqrt")
    install_entry_points("two", GROUP, "b = math:pi")
    assert load(GROUP) == {"a": math.sqrt, "b": math.pi}
    assert load(GROUP) is load(GROUP)


def test_a_group_that_nobody_adds_to_is_empty():
    assert load("cinema_verl.nobody") == {}


@pytest.mark.parametrize(
    ("value", "cause"), [("no_such_module:a", "ModuleNotFoundError"), ("math:no_such_name", "AttributeError")]
)
def test_a_broken_one_is_named(install_entry_points, value, cause):
    install_entry_points("broken", GROUP, f"a = {value}")
    with pytest.raises(ExtensionError) as error:
        load(GROUP)
    for part in ("broken 1.2", GROUP, "a = ", value, cause):
        assert part in str(error.value)


def test_two_objects_of_one_name_are_refused(install_entry_points):
    install_entry_points("one", GROUP, "a = math:sqrt")
    install_entry_points("two", GROUP, "a = math:pi")
    with pytest.raises(ExtensionError, match=r"one 1\.2.*same name|two 1\.2.*same name"):
        load(GROUP)
