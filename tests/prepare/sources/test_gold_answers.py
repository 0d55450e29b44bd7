"""What a source's answer is: unwrapped, typed, and, but for what is rejected later, a correct answer to itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.faults import gold_fault
from cinema_verl.prepare.sources.gold_answers import MAX_WORDS, boxes, one_of, read, unwrap
from cinema_verl.prepare.sources.gold_parts import as_list
from cinema_verl.verify import verify


def reason_of(call, *arguments, **keywords):
    with pytest.raises(Rejected) as rejected:
        call(*arguments, **keywords)
    return rejected.value.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>B</answer>", "B"),
        ("<answer> 3.5 </answer>", "3.5"),
        (r"\boxed{A}", "A"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"so \boxed{x_{1}^{2}} holds", "x_{1}^{2}"),
        (r"<answer>\boxed{7}</answer>", "7"),
        ("Answer: B", "B"),
        ("The wheel turns left.\nAnswer: B", "B"),
        ("The answer is (B).", "(B)"),
        ("$3\\sqrt{2}$", r"3\sqrt{2}"),
        ("**12**", "12"),
        ("B. the red one", "B. the red one"),
        ("(0, 1)", "(0, 1)"),
    ],
)
def test_unwrapping(text, expected):
    assert unwrap(text) == expected


def test_several_answers_in_boxes_or_tags_are_several_parts():
    assert reason_of(unwrap, r"\boxed{1} and \boxed{2}") == "multi_part"
    assert reason_of(unwrap, "<answer>1</answer><answer>2</answer>") == "multi_part"


def test_a_box_that_is_never_closed_holds_nothing():
    assert boxes(r"\boxed{a} \boxed{b") == ["a"]
    assert boxes(r"\boxed{\{1\}}") == [r"\{1\}"]


@pytest.mark.parametrize(
    ("text", "answer_type"),
    [
        ("Yes", "yesno"),
        ("no.", "yesno"),
        ("True", "yesno"),
        ("真", "yesno"),
        ("假", "yesno"),
        ("Yes, both of them do.", "yesno"),
        ("right", "text"),  # a direction
        ("y", "text"),  # a variable
        ("B", "mcq"),
        ("(c)", "text"),
        ("A, C", "mcq_multi"),
        ("12", "number"),
        ("1,200", "number"),
        (r"17^\circ", "number"),
        ("12 cm", "number"),
        ("three", "number"),
        (r"\frac{3}{2}", "number"),
        ("x = 3", "number"),
        ("(1,200)", "latex"),  # a point, not 1200
        (r"3\sqrt{2}", "latex"),
        ("2x+1", "latex"),
        ("19:54", "latex"),
        ("3:4", "latex"),
        ("x>3", "latex"),
        (r"\angle ABC", "latex"),
        ("1/2/2020", "text"),
        ("red", "text"),
        ("the Eiffel Tower", "text"),
        ("5 apples", "number"),
        ("东京", "text"),
        ("Alice and Bob", "text"),
        ("①③", "text"),  # statements, not 13
        ("①、②、④", "text"),
        ("none", "text"),
        ("1990s", "text"),  # no seconds
        ("7:30 AM", "text"),
        ("No. 3", "text"),  # no denial
        ("约5", "number"),
        ("about 5", "number"),
        ("5左右", "number"),
        ("答案：5", "number"),
        ("3-1", "latex"),
    ],
)
def test_the_rules_that_infer_a_type(text, answer_type):
    gold = read(text)
    assert gold.answer_type == answer_type
    assert verify(gold.answer, gold.answer, gold.answer_type) is True


def test_an_option_may_be_a_sign():
    assert read("-", options=("+", "-")).answer == "B"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_answer"),
        (r"\boxed{}", "no_answer"),
        ("N/A", "no_answer"),
        ("nan", "no_answer"),
        ("-", "no_answer"),
        ("[]", "no_answer"),
        ("A man is riding a bicycle along the river", "free_text"),
        ("two lines\nof text", "free_text"),
        ("x" * 20_000, "free_text"),
        ("(1) 90° (2) 45°", "multi_part"),
        ("1) 3; 2) 4", "multi_part"),
        ("①3 ②4", "multi_part"),
        ("（1）3（2）5", "multi_part"),
        ("3; 4", "multi_part"),
        ("x=1 or x=2", "multi_part"),
    ],
)
def test_what_no_rule_can_check_is_rejected_by_name(text, reason):
    assert reason_of(read, text) == reason


OPTIONS = ("a cat", "a dog", "both")


@pytest.mark.parametrize(
    "text", ["B", "b", "(B)", "B. a dog", "B: a dog", "a dog", "A dog.", r"\boxed{B}", "Answer: B"]
)
def test_every_way_to_name_an_option_becomes_its_letter(text):
    gold = read(text, options=OPTIONS)
    assert (gold.answer_type, gold.answer, gold.options) == ("mcq", "B", OPTIONS)


@pytest.mark.parametrize("text", ["left / right", "①③", "8{degrees}", "3, 4", "a ## b", "1.3.4.", "['x', 'y']"])
def test_an_option_may_be_what_would_be_something_else_without_options(text):
    gold = read(text, options=("none of them", text))
    assert (gold.answer_type, gold.answer) == ("mcq", "B")


def test_several_options_are_a_set():
    gold = read("A, C", options=OPTIONS)
    assert (gold.answer_type, gold.answer) == ("mcq_multi", "A, C")
    assert reason_of(read, "A, C", options=OPTIONS, answer_type="mcq") == "not_an_option"


@pytest.mark.parametrize("text", ["D", "a horse", "the dog or the cat"])
def test_a_gold_that_is_no_option_is_rejected(text):
    assert reason_of(read, text, options=OPTIONS) == "not_an_option"


def test_the_text_of_two_options_names_neither():
    assert reason_of(read, "red", options=("red", "red", "blue")) == "not_an_option"
    assert read("C", options=("red", "red", "blue")).answer == "C"


@pytest.mark.parametrize(
    "question",
    [
        "Which?\nA. a cat\nB. a dog\nC. both",
        "Which?\n(A) a cat\n(B) a dog\n(C) both\nAnswer with the letter.",
        "Which?\nA: a cat\nB: a dog\nC: both",
        "Which? (A) a cat (B) a dog (C) both",
        "Which? A. a cat B. a dog C. both",
        "Which?\n\nA) a cat\n\nB) a dog\n\nC) both",
    ],
)
def test_options_that_the_question_lists(question):
    gold = read("B", question=question)
    assert (gold.answer_type, gold.answer, gold.options) == ("mcq", "B", OPTIONS)
    assert read("a dog", question=question).answer == "B"
    assert reason_of(read, "E", question=question) == "not_an_option"


def test_options_that_the_question_lists_and_the_gold_is_not_one_of():
    gold = read("12", question="Take (A) the first and (B) the second. How many in all?")
    assert (gold.answer_type, gold.options) == ("number", ())


def test_options_that_are_pictures_leave_their_letters():
    gold = read("B", question="Which?\nA. <image>\nB. <image>", answer_type="mcq")
    assert (gold.answer_type, gold.answer, gold.options) == ("mcq", "B", ())


def test_alternatives_of_one_type():
    gold = read(r"4+\sqrt{2} ## \sqrt{2}+4")
    assert (gold.answer_type, gold.answer) == ("latex", r"4+\sqrt{2}")
    assert read("0.5 ## 1/2").answer == "0.5"
    assert read("cat ## tabby ## cat").aliases == ("tabby",)
    assert one_of(["cat", "tabby"]).aliases == ("tabby",)


@pytest.mark.parametrize("golds", [["3", "cat"], ["3", "4"], ["Yes", "No"]])
def test_alternatives_that_are_other_answers(golds):
    assert reason_of(one_of, golds) == "several_golds"


def test_no_alternatives_at_all():
    assert reason_of(one_of, []) == "no_answer"
    assert reason_of(read, "##") == "no_answer"


def test_a_stated_type_is_kept_and_checked():
    assert read("Exit to the left, please", answer_type="ocr").answer_type == "ocr"
    assert read("2.4", answer_type="number", tolerance=0.05).tolerance == 0.05
    many = read("many", answer_type="number")
    assert gold_fault(many.answer, many.answer_type).code == "gold_unreadable"
    assert reason_of(read, "3", answer_type="essay") == "answer_type"
    assert reason_of(read, "seven", answer_type="mcq") == "not_an_option"


def test_a_list_that_was_written_as_text():
    assert as_list("['a', 'b']") == ["a", "b"]
    assert as_list("[1, 2]") == ["1", "2"]
    assert as_list("[" * 5000 + "]" * 5000) is None
    assert as_list("[__import__('os')]") is None
    assert as_list("a") is None


@given(st.text(max_size=200), st.text(max_size=60), st.lists(st.text(min_size=1, max_size=8), max_size=5))
def test_every_gold_verifies_against_itself_or_is_rejected(text, question, options):
    try:
        gold = read(text, question=question, options=options)
    except Rejected:
        return
    right = verify(gold.answer, gold.answer, gold.answer_type, options=gold.options, aliases=gold.aliases)
    rejected = gold_fault(gold.answer, gold.answer_type, options=gold.options, aliases=gold.aliases)
    assert (right is True) == (rejected is None)
    if gold.answer_type == "text":
        assert len(gold.answer.split()) <= MAX_WORDS
