"""Answer types of other distributions: real ones on ``sys.path``, found as in any other process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cinema_verl import verify as package
from cinema_verl.utils.extensions import load
from cinema_verl.verify import Gold, Verdict, answer_types, decide, register, registry, verify

RULE = """
from cinema_verl.verify import Verdict

def check(answer, gold):
    return Verdict(len(answer) == len(gold.text), "length")
"""


def distribution(folder: Path, name: str, entry_points: str, **modules: str) -> None:
    """Install what an installer leaves behind: modules and a dist-info."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry_points}\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins with the package's types and leaves nothing behind."""
    before, modules = dict(registry.CHECKERS), set(sys.modules)
    monkeypatch.setattr(registry, "_loaded", False)
    load.cache_clear()
    yield
    load.cache_clear()
    registry.CHECKERS.clear()
    registry.CHECKERS.update(before)
    for module in set(sys.modules) - modules:
        if module.startswith("their_"):
            del sys.modules[module]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def same_length(answer: str, gold: Gold) -> Verdict:
    return Verdict(len(answer) == len(gold.text), "length")


def test_register() -> None:
    assert register("length", same_length) is same_length
    assert verify("dog", "cat", "length") is True
    assert "length" in answer_types()
    assert answer_types() == package.ANSWER_TYPES
    for name in ("mcq", "length"):
        with pytest.raises(ValueError, match="registered already"):
            register(name, same_length)
    for name in ("", " length"):
        with pytest.raises(ValueError, match="without spaces"):
            register(name, same_length)
    with pytest.raises(TypeError, match="str, not a function"):
        register("other", "same_length")  # type: ignore[call-overload]


def test_register_decorates() -> None:
    @register("longer")
    def longer(answer: str, gold: Gold) -> Verdict:
        return Verdict(len(answer) > len(gold.text), "longer")

    assert decide("ab", "a", "longer") == Verdict(True, "longer")
    assert longer("a", Gold("ab")).correct is False


def test_a_distribution_adds_a_type(folder: Path) -> None:
    distribution(folder, "their-rules", "their_length = their_rules:check", their_rules=RULE)
    assert "their_rules" not in sys.modules
    assert verify("B", "B", "mcq") is True
    assert "their_rules" not in sys.modules, "a type that is known needs no look around"
    assert verify("dog", "cat", "their_length") is True
    assert answer_types()[:2] == ("mcq", "mcq_multi")
    assert answer_types()[-1] == "their_length"


def test_a_new_process_has_it_too(folder: Path) -> None:
    distribution(folder, "their-rules", "their_length = their_rules:check", their_rules=RULE)
    program = "from cinema_verl.verify import verify; print(verify('dog', 'cat', 'their_length'))"
    path = f"{folder}:{Path(package.__file__).parents[2]}"
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["True"]


def test_a_module_may_register_what_its_entry_point_names_and_ask_for_the_types(folder: Path) -> None:
    text = RULE.replace("def check", "@register('their_length')\ndef check") + "\nseen = answer_types()\n"
    text = text.replace("import Verdict", "import Verdict, answer_types, register")
    distribution(folder, "their-rules", "their_length = their_rules:check", their_rules=text)
    assert verify("dog", "cat", "their_length") is True


@pytest.mark.parametrize(
    ("entry_points", "rule", "message"),
    [
        ("their_length = their_nothing:check", RULE, "ModuleNotFoundError"),
        ("their_length = their_rules:nothing", RULE, "AttributeError"),
        ("their_length = their_rules:check", "1 / 0", "ZeroDivisionError"),
        ("their_length = their_rules:check", "check = 'B'", "is str, not a function"),
        ("mcq = their_rules:check", RULE, "mcq.*their-rules 1.2.* exists already"),
    ],
)
def test_a_broken_distribution_is_named_every_time(folder: Path, entry_points: str, rule: str, message: str) -> None:
    distribution(folder, "their-rules", entry_points, their_rules=rule)
    known = dict(registry.CHECKERS)
    for ask in (answer_types, answer_types, lambda: verify("a", "a", "their_length"), lambda: package.ANSWER_TYPES):
        with pytest.raises(RuntimeError, match=message) as caught:
            ask()
        assert "distribution their-rules 1.2" in str(caught.value)
    assert known == registry.CHECKERS
    assert verify("B", "B", "mcq") is True, "what is known does not depend on it"


def test_two_distributions_with_one_type_are_both_named(folder: Path) -> None:
    distribution(folder, "their-rules", "their_length = their_rules:check", their_rules=RULE)
    distribution(folder, "their-others", "their_length = their_others:check", their_others=RULE)
    with pytest.raises(RuntimeError, match="their-") as caught:
        answer_types()
    assert "their-rules 1.2" in str(caught.value)
    assert "their-others 1.2" in str(caught.value)


def test_an_unknown_type_lists_theirs_as_well(folder: Path) -> None:
    distribution(folder, "their-rules", "their_length = their_rules:check", their_rules=RULE)
    with pytest.raises(ValueError, match="judge, their_length"):
        verify("a", "a", "essay")
