"""Entry points of other packages: found, loaded once, and named when they cannot be loaded."""

import pytest

from cinema_verl.utils.extensions import ExtensionError, load


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with entry points of the group `cinema_verl.tests` on the path."""

    def install(name: str, *entries: str) -> None:
        folder = tmp_path / name
        info = folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text("[cinema_verl.tests]\n" + "\n".join(entries) + "\n")
        monkeypatch.syspath_prepend(folder)

    load.cache_clear()
    yield install
    load.cache_clear()


def test_every_distribution_adds_to_the_group(install):
    install("one", "a = math:sqrt")
    install("two", "b = math:pi")
    import math

    assert load("cinema_verl.tests") == {"a": math.sqrt, "b": math.pi}
    assert load("cinema_verl.tests") is load("cinema_verl.tests")


def test_a_group_that_nobody_adds_to_is_empty():
    assert load("cinema_verl.nobody") == {}


@pytest.mark.parametrize(
    ("value", "cause"), [("no_such_module:a", "ModuleNotFoundError"), ("math:no_such_name", "AttributeError")]
)
def test_a_broken_one_is_named(install, value, cause):
    install("broken", f"a = {value}")
    with pytest.raises(ExtensionError) as error:
        load("cinema_verl.tests")
    for part in ("broken 1.2", "cinema_verl.tests", "a = ", value, cause):
        assert part in str(error.value)


def test_two_objects_of_one_name_are_refused(install):
    install("one", "a = math:sqrt")
    install("two", "a = math:pi")
    with pytest.raises(ExtensionError, match=r"one 1\.2.*same name|two 1\.2.*same name"):
        load("cinema_verl.tests")
