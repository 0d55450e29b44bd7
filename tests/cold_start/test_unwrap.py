"""What is around a trajectory: taken off by what is declared, never guessed, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.cold_start.unwrap import BARE_CLOSING, CODE_FENCE, LEADING, SEPARATE, unwrap
from cinema_verl.meta_action import parse

PLAIN = "<focus>a</focus><think>b</think><answer>B</answer>"
THINKS = "<think>first</think>" + PLAIN


@pytest.mark.parametrize(
    ("text", "declared", "separate", "left", "codes"),
    [
        (PLAIN, "none", "", PLAIN, []),
        (PLAIN, "strip", "", PLAIN, []),
        (THINKS, "none", "", THINKS, []),
        (THINKS, "refuse", "", THINKS, []),
        (THINKS, "strip", "", PLAIN, [LEADING]),
        (THINKS, "strip", "thoughts", THINKS, [SEPARATE]),
        ("thoughts</think>" + PLAIN, "none", "", PLAIN, [BARE_CLOSING]),
        ("thoughts</think>" + THINKS, "strip", "", THINKS, [BARE_CLOSING]),
        ("</think>\n\n" + PLAIN, "refuse", "", PLAIN, [BARE_CLOSING]),
        (f"```\n{PLAIN}\n```", "none", "", PLAIN, [CODE_FENCE]),
        (f"  ```html\n{PLAIN}```\n", "none", "", PLAIN, [CODE_FENCE]),
        (f"thoughts</think>\n```\n{PLAIN}\n```", "none", "", PLAIN, [BARE_CLOSING, CODE_FENCE]),
        (f"```\n{THINKS}\n```", "strip", "", PLAIN, [CODE_FENCE, LEADING]),
        (f"Here:\n```\n{PLAIN}\n```", "none", "", f"Here:\n```\n{PLAIN}\n```", []),
        ("```\na\n```\n```\nb\n```", "none", "", "```\na\n```\n```\nb\n```", []),
        ("```", "none", "", "```", []),
        ("``````", "none", "", "``````", []),
        ("<think>never closed", "strip", "", "<think>never closed", []),
        ("", "strip", "", "", []),
    ],
)
def test_known_replies(text, declared, separate, left, codes):
    found = unwrap(text, declared, separate)
    assert found.text == left
    assert [code for code, _ in found.taken] == ([SEPARATE] if separate else []) + [c for c in codes if c != SEPARATE]


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "```", "\n", "x", " "]), max_size=12)


@given(PIECES.map("".join), st.sampled_from(["none", "strip", "refuse"]), st.sampled_from(["", "thoughts"]))
def test_only_ends_are_taken_off_and_a_second_time_finds_what_is_around_no_more(text, declared, separate):
    found = unwrap(text, declared, separate)
    assert found.text in text
    assert found.text == found.text.strip()
    again = unwrap(found.text, "none")
    assert not again.taken or "stray_closing_tag" in parse(found.text).violations or found.text.startswith("```")


@given(PIECES.map("".join))
def test_a_well_formed_trajectory_is_left_as_it_is(text):
    if not parse(text.strip()).violations:
        assert unwrap(text).text == text.strip()
        assert not unwrap(text).taken
