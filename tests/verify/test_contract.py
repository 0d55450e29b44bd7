"""What holds for every answer type: the interface, its errors, and bounded work on hostile input."""

import math
from pathlib import Path

import pytest

from cinema_verl import verify as package
from cinema_verl.verify import ANSWER_TYPES, MAX_CHARS, Verdict, decide, judge, latex, verify
from cinema_verl.verify.verdict import TIMEOUT

GOLDS = {
    "mcq": "B",
    "mcq_multi": "AC",
    "yesno": "yes",
    "number": "42",
    "latex": r"\frac{1}{2}",
    "ordering": "BAC",
    "ocr": "hello world",
    "regression": "100",
    "text": "cat",
    "judge": "because it rains",
}


def test_one_module_a_type() -> None:
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert set(ANSWER_TYPES) <= modules
    assert set(GOLDS) == set(ANSWER_TYPES)


@pytest.mark.parametrize("answer_type", ["essay", "", None, 3, "MCQ"])
def test_unknown_type_lists_the_known(answer_type: object) -> None:
    with pytest.raises(
        ValueError, match=r"mcq, mcq_multi, yesno, number, latex, ordering, ocr, regression, text, judge"
    ):
        verify("B", "B", answer_type)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [42, 4.2, ["B"], b"B"])
def test_other_python_types_are_named(value: object) -> None:
    with pytest.raises(TypeError, match=f"gold must be str, got {type(value).__name__}"):
        verify("B", value, "mcq")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"answer must be str or None, got {type(value).__name__}"):
        verify(value, "B", "mcq")  # type: ignore[arg-type]


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -0.1])
def test_bad_tolerance(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        verify("1", "1", "number", tolerance=tolerance)


@pytest.mark.parametrize("answer_type", ANSWER_TYPES)
def test_no_answer_is_wrong_and_an_unreadable_gold_abstains_whatever_the_answer(answer_type: str) -> None:
    for answer in (None, "", "x" * (MAX_CHARS + 1)):
        assert verify(answer, GOLDS[answer_type], answer_type) is False
        assert verify(answer, "", answer_type) is None
        assert verify(answer, "x" * (MAX_CHARS + 1), answer_type) is None
    assert verify(GOLDS[answer_type], GOLDS[answer_type], answer_type) is True


def test_the_reason_is_said() -> None:
    assert decide("B", "B", "mcq") == Verdict(True, "equal")
    assert decide("C", "B", "mcq") == Verdict(False, "different")
    assert decide("A or B", "B", "mcq") == Verdict(False, "answer not readable")
    assert decide(None, "B", "mcq") == Verdict(False, "no answer")
    assert decide("B" * 99_999, "B", "mcq") == Verdict(False, "answer too long")
    assert decide("B", "", "mcq") == Verdict(None, "gold not readable")


def test_latex_engine_decides_what_spelling_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def engine(answer: str, gold: str) -> Verdict | None:
        asked.append((answer, gold))
        return Verdict(True, "equivalent") if gold == "a+b" else None

    monkeypatch.setattr(latex, "_engine", engine)
    assert decide("$b+a$", "b-a ## a+b", "latex") == Verdict(True, "equivalent")
    assert asked == [("b+a", "b-a"), ("b+a", "a+b")]
    assert verify("b+a", "b-a", "latex") is False
    del asked[:]
    assert verify("a+b", "a+b", "latex") is True, "equal spelling needs no engine"
    assert verify("b+a", "c", "latex") is False, "other letters, another expression"
    assert verify("17*23", "391", "latex") is False, "a number wants a number"
    assert verify("0.3", "0.7", "latex") is False
    assert verify("b+a or b", "a+b", "latex") is False
    assert asked == []


def test_the_engine_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latex, "_engine", lambda answer, gold: TIMEOUT)
    assert decide("b+a", "a+b", "latex") == TIMEOUT
    monkeypatch.setattr(latex, "_engine", lambda answer, gold: None)
    assert decide("b+a", "a+b", "latex") == Verdict(False, "different")
    latex.set_engine(None)
    assert decide("b+a", "a+b", "latex") == Verdict(False, "different")


def test_decimals_are_handed_over_as_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(latex, "_engine", lambda *question: asked.append(question))
    decide("0.25x", r"x-1.5", "latex")
    assert asked == [(r"(\frac{25}{100})x", r"x-(\frac{15}{10})")]


def test_a_second_try_inside_an_answer_is_none() -> None:
    gold = "the quick brown fox jumps over the lazy dog and runs " * 3
    assert verify(gold + "x", gold, "ocr") is True
    assert verify(gold + "<answer>x", gold, "ocr") is False
    assert verify("B</think>", "B", "mcq") is False
    assert verify("<answer>", "", "mcq") is None
    assert verify("a < b", "a < b", "text") is True


HOSTILE = [
    "B" * 10_000_000,
    "(" * MAX_CHARS,
    "{" * MAX_CHARS,
    "(" * (MAX_CHARS // 2) + "B" + ")" * (MAX_CHARS // 2),
    r"\boxed{" * 1_400,
    r"\boxed{" * 1_000 + "B" + "}" * 1_000,
    r"\frac{" * 1_600,
    "**answer" + " " * 9_000 + "x",
    "is " * 3_333,
    "A, " * 3_333,
    "1," + "111," * 2_400,
    "9" * MAX_CHARS,
    "-" + "\u3000" * 9_000 + "x",
    "1" + " " * 9_000 + "x",
    "9**9**9",
    "9^{9^{9^{9}}}",
    "\ud800" * MAX_CHARS,
    "\x00" * MAX_CHARS,
    "\u0301\u0323" * (MAX_CHARS // 2),
    "\ufdfa" * MAX_CHARS,
    "the correct " * 800,
    "=>" * 5_000,
    "_" * MAX_CHARS,
    r"\(" * (MAX_CHARS // 2),
    "$" * MAX_CHARS,
    "\\" * MAX_CHARS,
    r",\!" * (MAX_CHARS // 3),
    "5 m" + "·m" * 4_900,
    "1" + " 111" * 2_400,
    "=x" * 5_000,
    "<image " * 1_400,
    "a red car " * 1_000,
    "order of the " * 700,
    "一百" * 5_000,
    "A11" * 3_000 + "!",
    "(NH4)2" * 1_600 + "!",
    "H" + "_11" * 3_000 + "!",
    r"\boxed{1}" * 1_100,
    "there are 1 " * 800,
    "x_1=3, " * 1_400,
]
OPTIONS = (
    ("a red car", "a blue car", "two dogs"),
    ("1", "2", "2.2"),
    (r"$\sqrt{2}$", r"$2\sqrt{2}$", "1:2"),
    ("红色", "蓝色"),
)


@pytest.mark.parametrize("answer_type", ANSWER_TYPES)
def test_hostile_input_is_wrong_and_cheap(answer_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything worse than linear in the length cap would take minutes here. What asks others has tests of its own."""
    monkeypatch.setattr(latex, "_engine", None)
    monkeypatch.setattr(judge.Judge, "ask", lambda *_: judge.NOT_SAME)
    monkeypatch.setattr(judge, "_judge", judge.Judge.__new__(judge.Judge))
    for text in HOSTILE:
        assert verify(text, GOLDS[answer_type], answer_type) is False, text[:40]
        assert verify(GOLDS[answer_type], text, answer_type) in (False, None), text[:40]
    if answer_type.startswith("mcq"):
        for text in HOSTILE:
            for options in OPTIONS:
                assert verify(text, "B", answer_type, options=options) is False, text[:40]
