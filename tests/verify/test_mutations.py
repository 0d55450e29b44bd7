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


THINGS = ("wash", "leave the house", "wake", "eat")


@given(st.permutations(range(4)), st.permutations(range(4)), st.sampled_from(range(4)), st.sampled_from(range(4)))
def test_an_order_of_options_is_one_in_letters_numbers_and_texts(
    order: list[int], other: list[int], form: int, gold_form: int
) -> None:
    forms = (
        lambda i: "ABCD"[i],
        lambda i: str(i + 1),
        lambda i: THINGS[i],
        lambda i: f"{'ABCD'[i]}. {THINGS[i]}",
    )
    gold = ", ".join(forms[gold_form](i) for i in order)
    assert verify(", ".join(forms[form](i) for i in other), gold, "ordering", options=THINGS) is (order == other)


def test_without_options_a_letter_is_no_number() -> None:
    assert verify("CADB", "3, 1, 4, 2", "ordering") is False
    assert verify("A. wash, B. wake, C. eat, D. leave the house", "ABCD", "ordering", options=THINGS) is False


@given(
    st.integers(2, 10**6),
    st.sampled_from(("dozen", "pairs", "crores", "lakhs", "myriads", "quadrillions", "millions", "hundreds", "halves")),
    st.sampled_from(("", " eggs")),
)
def test_what_multiplies_a_number_is_not_what_is_counted(value: int, multiple: str, things: str) -> None:
    for answer_type in ("number", "latex"):
        assert verify(f"{value} {multiple}{things}", str(value), answer_type) is not True


@given(st.integers(-90, 360), st.sampled_from(("°", r"^\circ", "°C", "℃", "°F", " degrees", " degrees Celsius")))
def test_an_angle_is_no_temperature(value: int, unit: str) -> None:
    said = "C" in unit or "F" in unit or unit == "℃"
    for answer_type in ("number", "latex"):
        assert verify(f"{value}{unit}", f"{value}°", answer_type) is not said
    assert verify(f"{value}{unit}", f"{value}°C", "number") is (unit != "°F")


@given(st.from_regex("[a-z]{2,6}", fullmatch=True))
def test_a_word_is_not_its_letters_apart(word: str) -> None:
    assert verify(" ".join(word), rf"\text{{{word}}}", "latex") is not True
    assert verify(rf"\text{{{word}}}", rf"\text{{{word}}}", "latex") is True


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(("Image {}", "the {} image", "#{}", "picture {}", "{}")))
def test_an_option_that_is_a_picture_is_met_by_its_number_alone(shown: int, said: int, form: str) -> None:
    options = tuple(f"Image {number}" for number in (3, 8, 1, 5))
    ordinals = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]
    answer = form.format(ordinals[said - 1] if form.startswith("the") else said)
    expected = said == (3, 8, 1, 5)[shown % 4]
    assert verify(answer, "ABCD"[shown % 4], "mcq", options=options) is expected
    labelled = verify(f"{'ABCD'[shown % 4]}. {answer}", "ABCD"[shown % 4], "mcq", options=options)
    assert labelled is expected, "a letter beside another picture contradicts itself"


KITES = ("the red kite", "the blue kite", "the red boat", "the blue boat")


@given(st.sampled_from(range(4)), st.sampled_from(range(4)))
def test_a_letter_whose_remark_has_another_options_words_scores_for_nothing(labelled: int, said: int) -> None:
    _, colour, thing = KITES[said].split()
    answer = f"{'ABCD'[labelled]}, the {thing} is {colour} in both pictures"
    assert verify(answer, "ABCD"[labelled], "mcq", options=KITES) is (labelled == said)


@given(st.sampled_from(("AB", "KLM", "∠PQR", "x_1", "S_n")), st.sampled_from(("AC", "BCD", "∠PRQ", "x_2", "S_m")))
def test_a_colon_names_a_value_as_an_equation_does(name: str, other: str) -> None:
    for answer_type in ("number", "latex"):
        assert verify(f"{name}: 6.5", "6.5", answer_type) is True
        assert verify(f"{other}: 6.5", f"{name} = 6.5", answer_type) is False
        assert verify(f"{name}: 6.5: 7", "6.5", answer_type) is False
        assert verify("B: 6.5", "6.5", answer_type) is False, "a letter alone is a label"


@given(st.lists(st.tuples(st.sampled_from(("H", "C", "Na", "Fe", "O")), st.integers(2, 12)), min_size=2, max_size=4))
def test_a_formula_has_its_counts_where_they_are(parts: list[tuple[str, int]]) -> None:
    gold = "".join(f"{symbol}_{{{count}}}" for symbol, count in parts)
    assert verify("".join(f"{symbol}{count}" for symbol, count in parts), gold, "latex") is True
    wrong = [(symbol, count + 1) for symbol, count in parts]
    assert verify("".join(f"{symbol}{count}" for symbol, count in wrong), gold, "latex") is False
