"""What no text may do: make a wrong answer right, score for two golds, or change a verdict by company or order."""

import random
from collections.abc import Iterator
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.verify import ANSWER_TYPES, latex, math_pool, verify

PURE = tuple(kind for kind in ANSWER_TYPES if kind != "judge")


@pytest.fixture(autouse=True, scope="module")
def _no_engine() -> Iterator[None]:
    """Spelling only: the workers have tests of their own, and these properties are about thousands of answers."""
    latex.set_engine(None)
    yield
    latex.set_engine(math_pool.equivalent)


OPTIONS = ("a red car", "a blue car", "two dogs", "none of the above")
LETTERS = "ABCD"
# What a policy might say around an answer: other answers, hedges, wrapping, conclusions, noise.
FRAGMENTS = [
    *LETTERS, *LETTERS.lower(), *OPTIONS, *(f"({x})" for x in LETTERS), *(f"{x}." for x in LETTERS),
    *(f"so {x}" for x in LETTERS), *(f"the answer is {x}" for x in LETTERS), *(f"Option {x}" for x in LETTERS),
    "or", "and", "maybe", "not", "both", "either", "I think", "A man", "because", "all of them", "**", "$", "?", ",",
    r"\boxed{", "}", "(", ")", "答案是", "选", "或", "42", "yes", "no", "\n", "\u200b", "<b>",
]  # fmt: skip
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=6)
separators = st.sampled_from([" ", ", ", "; ", "\n", ". ", " or ", " and ", "/", ": "])
answers = st.one_of(
    st.text(max_size=12),
    st.builds(lambda parts, separator: separator.join(parts), fragments, separators),
    st.from_regex(r"[-+]?[0-9]{1,4}([.,/][0-9]{1,3})?( ?(cm|%|or 5|million))?", fullmatch=True),
)


@given(answers, answers, st.sampled_from(PURE))
def test_never_raises(answer: str, gold: str, answer_type: str) -> None:
    verdict = verify(answer, gold, answer_type, options=OPTIONS if answer_type.startswith("mcq") else ())
    assert verdict in (True, False, None)
    assert verify(answer, gold, answer_type, options=OPTIONS if answer_type.startswith("mcq") else ()) is verdict


@given(answers, st.sampled_from(PURE))
def test_a_readable_gold_is_its_own_right_answer(gold: str, answer_type: str) -> None:
    assert verify(gold, gold, answer_type) in (True, None)


@given(answers, st.sampled_from([(), OPTIONS]))
def test_an_answer_is_right_for_one_letter_at_most(answer: str, options: tuple[str, ...]) -> None:
    assert sum(verify(answer, letter, "mcq", options=options) is True for letter in ascii_uppercase) <= 1


@given(answers)
def test_an_answer_is_right_for_one_side_at_most(answer: str) -> None:
    assert not (verify(answer, "yes", "yesno") and verify(answer, "no", "yesno"))


@given(answers)
def test_an_answer_is_right_for_one_number_at_most(answer: str) -> None:
    """Percent aside, whose hundredth counts as well."""
    if "%" not in answer:
        assert sum(verify(answer, str(value), "number") is True for value in range(60)) <= 1


@given(st.lists(st.sampled_from(LETTERS), min_size=2, max_size=4, unique=True), separators)
def test_enumerating_options_never_scores(letters: list[str], separator: str) -> None:
    answer = separator.join(letters)
    texts = separator.join(OPTIONS[LETTERS.index(letter)] for letter in letters)
    for gold in LETTERS:
        assert verify(answer, gold, "mcq", options=OPTIONS) is False
        assert verify(answer, gold, "mcq") is False
        assert verify(texts, gold, "mcq", options=OPTIONS) is False
        assert verify("".join(letters), gold, "mcq_multi", options=OPTIONS) is False


@given(st.sampled_from(LETTERS), st.sampled_from(LETTERS), fragments, fragments, separators, st.booleans())
def test_a_wrong_choice_stays_wrong_whatever_stands_around_it(
    wrong: str, gold: str, before: list[str], after: list[str], separator: str, as_text: bool
) -> None:
    if wrong == gold:
        return
    said = OPTIONS[LETTERS.index(wrong)] if as_text else wrong
    answer = separator.join([*before, said, *after])
    assert verify(answer, gold, "mcq", options=OPTIONS) is False


NUMBER_FRAGMENTS = ["42", "or", "maybe", "about", "so", "=", ",", ".", "(", ")", "$", "cm", "%", "\n", "to", "+", "not"]


@given(st.lists(st.sampled_from(NUMBER_FRAGMENTS), max_size=4), st.lists(st.sampled_from(NUMBER_FRAGMENTS), max_size=4))
def test_a_wrong_number_stays_wrong_whatever_stands_around_it(before: list[str], after: list[str]) -> None:
    assert verify(" ".join([*before, "41", *after]), "42", "number") is False


@given(answers, st.sampled_from(["cat", "a red bus stop", "红色"]))
def test_free_text_is_never_right_for_containing_the_gold(extra: str, gold: str) -> None:
    answer = f"dog {gold} {extra}"
    for answer_type in ("text", "ocr"):
        assert verify(answer, gold, answer_type) is False


@pytest.mark.parametrize("seed", [0, 1])
def test_verdicts_do_not_depend_on_order(seed: int) -> None:
    """Readings are cached; the cache must not show."""
    rng = random.Random(seed)
    rows = [
        (answer, gold, answer_type)
        for answer_type in PURE
        for answer in ("B", "b.", "AC", "yes", "42", "4.2e1", "BAC", "cat", r"\frac12", "0.5", "A or B")
        for gold in ("B", "AC", "yes", "42", "BAC", "cat", "1/2")
    ]
    first = {row: verify(*row) for row in rows}
    rng.shuffle(rows)
    assert all(verify(*row) is first[row] for row in rows)
