"""The grammar of trajectories: the format rule case by case, what is recovered from broken text, and bounded work."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl import meta_action
from cinema_verl.meta_action import (
    ACTIONS,
    ANSWER,
    PATTERN_MODES,
    TAGS,
    Trajectory,
    ViolationCode,
    parse,
    pattern_in_mode,
    pattern_of,
)

WELL_FORMED = [
    ("<think>x</think><answer>B</answer>", "think>answer", "B"),
    ("<global>x</global>\n<focus>y</focus> \t<hint>z</hint><think>w</think>\n\n<answer>B</answer>\n", None, "B"),
    ("<think>a</think><think>a</think><answer>4</answer>", "think>think>answer", "4"),
    ("<hint>x < 3 and <b>bold</b></hint><answer>y > 2</answer>", "hint>answer", "y > 2"),
    ("<think>not tags: <think >, </ think>, <answers>, <hin></think><answer>A</answer>", "think>answer", "A"),
    ("<focus>图2</focus>\u3000<answer>真</answer>", "focus>answer", "真"),
    ("<think>x</think><answer>\n B \n</answer>", "think>answer", "B"),
    ("<think>\ud800\x00x</think><answer>\ud800</answer>", "think>answer", "\ud800"),
]


@pytest.mark.parametrize(("text", "pattern", "answer"), WELL_FORMED)
def test_well_formed(text: str, pattern: str | None, answer: str) -> None:
    trajectory = parse(text)
    assert trajectory.violations == ()
    assert trajectory.is_well_formed(num_images=2)
    assert trajectory.pattern == (pattern or "global>focus>hint>think>answer")
    assert trajectory.answer == answer


BROKEN = [
    # text, (code, position) of every fault, pattern, answer
    ("", [("no_action", 0), ("no_answer", 0)], "", None),
    ("just text", [("text_outside", 0), ("no_action", 9), ("no_answer", 9)], "", None),
    ("<answer>B</answer>", [("no_action", 0), ("starts_with_answer", 0)], "answer", "B"),
    ("<think>x</think>", [("no_answer", 16)], "think", None),
    ("<think>x<answer>B</answer>", [("unclosed_tag", 0), ("no_action", 8), ("starts_with_answer", 8)], "answer", "B"),
    ("<think>x</think><answer>B", [("unclosed_tag", 16), ("no_answer", 25)], "think", None),
    ("<think>x</think><answer>A</answer><answer>B</answer>", [("answer_not_last", 34), ("several_answers", 34)]
     , "think>answer>answer", None),
    ("<think>x</think><answer>B</answer><think>y</think>", [("answer_not_last", 34)], "think>answer>think", "B"),
    ("<answer>B</answer><think>y</think>", [("starts_with_answer", 0), ("answer_not_last", 18)], "answer>think", "B"),
    ("<think>x</think></think><answer>B</answer>", [("stray_closing_tag", 16)], "think>answer", "B"),
    ("<think>x</think> so <answer>B</answer>", [("text_outside", 17)], "think>answer", "B"),
    ("<think>x</think><answer>B</answer>.", [("text_outside", 34)], "think>answer", "B"),
    ("<think> \n</think><answer>B</answer>", [("empty_body", 0)], "think>answer", "B"),
    ("<think>\u200b\ufeff\x00</think><answer>B</answer>", [("empty_body", 0)], "think>answer", "B"),
    ("<think>x</think><answer></answer>", [("empty_body", 16)], "think>answer", ""),
    ("<think>a<focus>b</focus>c</think><answer>B</answer>", [("nested_tag", 8)], "think>focus>answer", "B"),
    ("<think>a<focus>b</think>c</focus><answer>B</answer>", [("nested_tag", 8)], "think>focus>answer", "B"),
    ("<think>so <answer>B</answer></think>", [("nested_tag", 10)], "think>answer", "B"),
    ("<think>a<think>b</think><answer>B</answer>", [("nested_tag", 8)], "think>answer", "B"),
    ("<think>x</think><answer>A<answer>B</answer>", [("nested_tag", 25)], "think>answer", "A<answer>B"),
    ("<think>x</think><answer>A<answer>B</answer></answer>", [("nested_tag", 25), ("stray_closing_tag", 43)]
     , "think>answer", "A<answer>B"),
    ("<Think>x</Think><answer>B</answer>", [("text_outside", 0), ("upper_case_tag", 0), ("no_action", 16),
     ("starts_with_answer", 16)], "answer", "B"),
    ("<think>see <FOCUS>x</think><answer>B</answer>", [("upper_case_tag", 11)], "think>answer", "B"),
    ("<thin\u212a>x</think><answer>B</answer>", [("text_outside", 0), ("stray_closing_tag", 8), ("no_action", 16),
     ("starts_with_answer", 16)], "answer", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "faults", "pattern", "answer"), BROKEN)
def test_broken(text: str, faults: list[tuple[str, int]], pattern: str, answer: str | None) -> None:
    trajectory = parse(text)
    assert [tuple(one) for one in trajectory.violations_at] == faults
    assert trajectory.violations == tuple(code for code, _ in faults)
    assert (trajectory.pattern, trajectory.answer) == (pattern, answer)
    assert not trajectory.is_well_formed(num_images=2)


def test_every_code_is_covered_here() -> None:
    seen = {code for _, faults, _, _ in BROKEN for code, _ in faults}
    of_the_question = {ViolationCode.GLOBAL_ON_SINGLE_IMAGE, ViolationCode.REMOVED_ACTION}  # below
    assert seen | of_the_question == set(ViolationCode)


def test_an_action_that_was_taken_out_may_not_be_used() -> None:
    trajectory = parse("<hint>x</hint><answer>B</answer>")
    assert trajectory.violations_for(2, removed="hint") == ("removed_action",)
    assert trajectory.violations_for(2, removed="focus") == ()


def test_global_needs_two_images() -> None:
    trajectory = parse("<global>x</global><answer>B</answer>")
    assert trajectory.is_well_formed(num_images=2)
    assert not trajectory.is_well_formed(num_images=1)
    assert trajectory.violations == ()
    assert trajectory.violations_for(1) == ("global_on_single_image",)
    assert parse("<focus>x</focus><answer>B</answer>").is_well_formed(num_images=1)


@pytest.mark.parametrize("value", [None, b"<think>", 3, ["<think>"]])
def test_other_types_are_named(value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        parse(value)  # type: ignore[arg-type]


def test_trajectory_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("").answer = "B"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("exact", "collapsed", "as_set"),
    [
        ("", "", ""),
        ("think>answer", "think>answer", "think>answer"),
        ("think>think>global>think>answer", "think>global>think>answer", "global>think>answer"),
        ("hint>focus>focus>answer", "hint>focus>answer", "focus>hint>answer"),
    ],
)
def test_pattern_modes(exact: str, collapsed: str, as_set: str) -> None:
    assert [pattern_in_mode(exact, mode) for mode in PATTERN_MODES] == [exact, collapsed, as_set]


def test_pattern_of_a_trajectory() -> None:
    trajectory = parse("<think>a</think><think>b</think><answer>c</answer>")
    assert pattern_of(trajectory) == "think>think>answer"
    assert pattern_of(trajectory, "collapsed") == "think>answer"
    with pytest.raises(ValueError, match="exact, collapsed, set"):
        pattern_of(trajectory, "sorted")


# Text that is dense in tags, halves of tags and near-tags.
PIECES = [tag for pair in TAGS.values() for tag in pair] + ["<", ">", "</", "<think", "<Think>", " ", "\n", "a", "<b>"]
soup = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30).map("".join)
bodies = soup.map(lambda s: re.sub(r"</?(?:global|focus|hint|think|answer)>", "|", s, flags=re.IGNORECASE) + "x")


@given(soup)
def test_parse_never_raises_and_is_consistent(text: str) -> None:
    trajectory = parse(text)
    answers = re.findall("<answer>(.*?)</answer>", text, flags=re.DOTALL)
    assert trajectory.answer == (answers[0].strip() if len(answers) == 1 else None)
    for name in ACTIONS:
        closed = re.findall(f"<{name}>(.*?)</{name}>", text, flags=re.DOTALL)
        assert [body for other, body in trajectory.actions if other == name] == closed
    assert trajectory.pattern == ">".join(name for name, _ in trajectory.actions)
    assert len(set(trajectory.violations)) == len(trajectory.violations)
    assert set(trajectory.violations) <= set(ViolationCode)
    positions = [position for _, position in trajectory.violations_at]
    assert positions == sorted(positions)
    assert all(0 <= position <= len(text) for position in positions)


@given(soup)
def test_well_formed_is_the_rule_said_another_way(text: str) -> None:
    """The format rule as one regular expression, too slow and too silent to be the parser, is a second opinion."""
    action = r"<(global|focus|hint|think)>((?:(?!</?(?:global|focus|hint|think|answer)>).)+?)</\1>\s*"
    answer = r"<answer>((?:(?!</?(?:global|focus|hint|think|answer)>).)+)</answer>"
    match = re.fullmatch(rf"\s*(?:{action})+{answer}\s*", text, flags=re.DOTALL)
    ignoring_case_and_emptiness = set(parse(text).violations) - {"upper_case_tag", "empty_body"}
    if match is None:
        assert parse(text).violations
    else:
        assert not ignoring_case_and_emptiness


@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS[:-1]), bodies), min_size=1, max_size=6),
    bodies,
    st.sampled_from(["", " ", "\n", "\n\n\t"]),
)
def test_round_trip(actions: list[tuple[str, str]], answer: str, gap: str) -> None:
    sequence = [*actions, (ANSWER, answer)]
    text = gap + gap.join(f"{TAGS[name].open}{body}{TAGS[name].close}" for name, body in sequence) + gap
    trajectory = parse(text)
    assert trajectory.actions == tuple(sequence)
    assert trajectory.answer == answer.strip()
    assert trajectory.is_well_formed(num_images=2)


HOSTILE = [
    "<think>", "</think>", "<", "</", "<think><focus>", "<answer>a</answer>", "<think>a<focus>b</think>c</focus>",
    "<Think>", "<think>" + " " * 50, "<answer>", "\x00", "\ud800", " ",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_megabytes(unit: str) -> None:
    """Quadratic work would take minutes at this size."""
    text = unit * (1_000_000 // len(unit))
    for trajectory in (parse(text), parse(f"<think>{text}</think><answer>B</answer>")):
        assert isinstance(trajectory, Trajectory)
        assert len(trajectory.violations_at) <= len(ViolationCode)


plain = st.lists(st.tuples(st.sampled_from(ACTIONS), st.text(max_size=5)), max_size=5).map(
    lambda actions: "".join(f"{TAGS[name].open}{body}{TAGS[name].close}" for name, body in actions)
)


@given(soup | plain)
def test_the_short_cut_for_plain_trajectories_finds_what_the_scanner_finds(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_action, "_parse_plain", lambda text: None)
        scanned = parse(text)
    assert parse(text) == scanned
