"""Mutations of a correct answer that must never be accepted: a property for each kind of wrong accept."""

from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cinema_verl.verify import decide, latex, math_pool, number, verify
from cinema_verl.verify.verdict import CONTRADICTORY


@pytest.fixture(autouse=True, scope="module")
def _no_engine() -> Iterator[None]:
    latex.set_engine(None)
    yield
    latex.set_engine(math_pool.equivalent)


# ---- numbers ---------------------------------------------------------------------------------------------------------

values = st.one_of(
    st.integers(0, 10**6).map(str),
    st.decimals(0, 1000, places=2).map(str),
    st.builds(lambda a, b: rf"\frac{{{a}}}{{{b}}}", st.integers(1, 99), st.integers(2, 99)),
)
groups = st.lists(st.integers(100, 999).map(str), min_size=1, max_size=3)
LIST_SEPARATORS = [", ", "、", "，", "; ", " and ", r",\ ", r",\,", ",~", ", \n", " , ", r",\quad ", " or "]


@given(
    st.integers(1, 999).map(str),
    groups,
    st.sampled_from(LIST_SEPARATORS),
    st.sampled_from(["{}", "${}$", r"\boxed{{{}}}"]),
)
def test_a_list_is_not_the_number_of_its_digits(first: str, others: list[str], separator: str, wrapping: str) -> None:
    listed, joined = wrapping.format(separator.join([first, *others])), "".join([first, *others])
    assert verify(listed, joined, "number") is False
    assert verify(joined, listed, "number") is None
    assert verify(listed, f"{int(joined):,}", "number") is False


@given(st.integers(0, 10**12), st.sampled_from([",", " ", "'", "{,}", r",\!", r"\,", "\u202f", "\u2019"]))
def test_grouped_digits_are_the_number(value: int, separator: str) -> None:
    assert verify(f"{value:,}".replace(",", separator), str(value), "number") is True


bases = st.integers(2, 36)


@given(
    st.integers(1, 10**6), bases, bases, st.sampled_from(["{}_{}", "{}_{{{}}}", "{}_{{({})}}", "${}_{}$", "{} base {}"])
)
def test_a_base_is_part_of_the_number(digits: int, base: int, other: int, form: str) -> None:
    assume(base != other)
    gold = form.format(digits, base)
    assert verify(form.format(digits, base), gold, "number") is True
    assert verify(form.format(digits, other), gold, "number") is False
    assert verify(str(digits), gold, "number") is False
    assert verify(gold, str(digits), "number") is False


SYMBOLS = [
    "x",
    "y",
    "w",
    "X",
    "AB",
    "CD",
    "x_1",
    "x_{2}",
    r"\alpha",
    r"\beta",
    r"\angle ABC",
    r"\angle ABD",
    "f(1)",
    "f(2)",
]


@given(values, st.sampled_from(SYMBOLS), st.sampled_from(SYMBOLS), st.sampled_from([" = ", "=", " := ", " ≈ "]))
def test_another_variable_is_another_answer(value: str, name: str, other: str, sign: str) -> None:
    assert verify(f"{name}{sign}{value}", value, "number") is True
    assert verify(value, f"{name}={value}", "number") is True
    assert verify(f"{other}{sign}{value}", f"{name}={value}", "number") is (name == other)


@given(values, st.sampled_from(SYMBOLS), st.sampled_from(SYMBOLS), values)
def test_a_chain_or_a_second_equation_is_no_value(value: str, name: str, other: str, second: str) -> None:
    for answer in (
        f"{name}={other}={value}",
        f"{name}={value}, {other}={second}",
        f"2{name}={value}",
        f"{second}={value}",
    ):
        assert verify(answer, value, "number") is False


UNITS = [
    "cm",
    "m",
    "m²",
    "km/h",
    "m/s",
    "m/s²",
    "kg",
    "g",
    "s",
    "min",
    "°",
    "N·m",
    "kJ/mol",
    "MB",
    "GB",
    "$",
    "mol",
    "nm",
]


@given(values, st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_another_unit_is_another_answer(value: str, unit: str, other: str) -> None:
    assert verify(f"{value} {other}", f"{value} {unit}", "number") is (unit == other)
    assert verify(f"{value} {other}", value, "number") is True


@given(values, st.sampled_from([*"abkxyzXYM", "π", "x^2", "ab", "L/g", "sin x", "and", "or more"]), st.booleans())
def test_a_factor_is_no_unit(value: str, factor: str, spaced: bool) -> None:
    assert verify(f"{value}{' ' if spaced else ''}{factor}", value, "number") is False


@given(st.sampled_from(sorted(number.units())), values)
def test_every_unit_is_itself_behind_a_number(unit: str, value: str) -> None:
    assert verify(f"{value} {unit}", f"{value} {unit}", "number") is True
    assert verify(f"{value} {unit}", f"{value} {number.units()[unit]}", "number") is True


# ---- multiple choice -------------------------------------------------------------------------------------------------

LABELS = [
    *("{letter}. {text}", "({letter}) {text}", "{letter}) {text}", "{letter}: {text}", "{letter}, {text}"),
    *("[{letter}] {text}", "{letter} ({text})", "{text} ({letter})", "{letter} - {text}", "{letter}\n{text}"),
    *("**{letter}.** {text}", "The answer is ({letter}) {text}.", "{text}, option {letter}", "{letter} -> {text}"),
    r"\textbf{{({letter})}} {text}",
]
numbers = st.lists(st.integers(0, 400), min_size=5, max_size=5, unique=True)


def spelt(value: int, spelling: int) -> str:
    """A quarter of ``value`` in one of several spellings."""
    sign = "-" if value < 0 else ""
    return (
        f"{value / 4:g}",
        f"${value / 4}$",
        rf"{sign}\frac{{{abs(value)}}}{{4}}",
        rf"{sign}\dfrac{{{abs(2 * value)}}}{{8}}",
        f"x = {value / 4:g}",
        f"{value}/4",
    )[spelling]


@given(numbers, st.integers(0, 3), st.integers(0, 4), st.sampled_from(LABELS), st.integers(0, 5), st.integers(0, 3))
def test_a_letter_and_a_value_that_disagree_score_for_nothing(
    values: list[int], labelled: int, said: int, label: str, spelling: int, option_spelling: int
) -> None:
    """The fifth value is no option."""
    options = tuple(spelt(value, option_spelling) for value in values[:4])
    answer = label.format(letter="ABCD"[labelled], text=spelt(values[said], spelling))
    for gold in "ABCD":
        expected = labelled == said and gold == "ABCD"[labelled]
        assert verify(answer, gold, "mcq", options=options) is expected, (answer, gold, options)


WORDS = ["red", "red car", "a dark red car", "blue", "car", "the blue bus", "seven trees", "trees", "half", "half past"]


@given(
    st.lists(st.sampled_from(WORDS), min_size=5, max_size=5, unique=True),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(LABELS),
)
def test_a_letter_and_another_options_words_score_for_nothing(
    words: list[str], labelled: int, said: int, label: str
) -> None:
    answer = label.format(letter="ABCD"[labelled], text=words[said])
    for gold in "ABCD":
        verdict = verify(answer, gold, "mcq", options=tuple(words[:4]))
        assert verdict is (labelled == said and gold == "ABCD"[labelled]), (answer, gold, words)


def test_the_reason_of_a_contradiction_is_said() -> None:
    assert decide("(D) 4√3", "D", "mcq", options=("1", "2", "3", "6")) == CONTRADICTORY
    assert decide("D. 3", "D", "mcq", options=("1", "2", "3", "6")) == CONTRADICTORY
    assert decide("D. 3", "3", "mcq", options=("1", "2", "3", "6")) == CONTRADICTORY
    assert decide("D or 3", "D", "mcq", options=("1", "2", "3", "6")).reason == "answer not readable"


# ---- others ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True),
    st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True),
)
def test_numbers_of_statements_are_no_number_and_no_other_statements(numbers: list[int], others: list[int]) -> None:
    circled = "".join("①②③④⑤⑥⑦⑧⑨"[i - 1] for i in numbers)
    assert verify("、".join(f"({i})" for i in numbers), circled, "text") is True
    assert verify("".join(map(str, numbers)), circled, "text") is False
    assert verify("".join(f"({i})" for i in others), circled, "text") is (numbers == others)


@given(
    st.permutations([1, 2, 3, 4]),
    st.permutations([1, 2, 3, 4]),
    st.sampled_from(["<image {}>", "({})", "{}. ", "Image {}", "第{}张", "{}"]),
)
def test_an_order_is_only_itself(order: list[int], other: list[int], form: str) -> None:
    gold = ", ".join(map(str, order))
    assert verify(", ".join(form.format(i) for i in other), gold, "ordering") is (order == other)
    assert verify(" < ".join(form.format(i) for i in reversed(order)), gold, "ordering") is False
