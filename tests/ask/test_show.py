"""What is shown is what was written, whatever its pieces, and nothing of it reaches the terminal as a command."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.ask.show import Painter, Stream, escaped, wants_colour
from cinema_verl.meta_action import TAGS

WORDS = [tag for tags in TAGS.values() for tag in tags] + ["a", "<", "</", "<thi", "x < 3", "\x1b[31m", "\n", "é"]
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=12).map("".join)
OURS = re.compile(r"\x1b\[(?:\d;)?\d{1,2}m")


def painted(pieces, colour, own=False):
    out = []
    painter = Painter(out.append, colour, own)
    for piece in pieces:
        painter.feed(piece)
    painter.end()
    return "".join(out)


@given(TEXTS)
def test_plain_text_is_the_text_without_anything_that_a_terminal_obeys(text):
    out = painted([text], colour=False)
    assert out == escaped(text) + "\n"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out)


@given(TEXTS, st.integers(1, 7), st.booleans())
def test_colours_add_nothing_but_colours_and_pieces_lose_nothing(text, size, own):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert OURS.sub("", painted(pieces, True, own)) == escaped(text) + "\n"
    assert "\x1b" not in OURS.sub("", painted(pieces, True, own))


@pytest.mark.parametrize("reasoning", ["It is 8.</think>", "<think>It is 8.</think>"])
def test_reasoning_of_the_model_s_own_has_not_the_colour_of_an_action(reasoning):
    out = painted([f"{reasoning}<think>8</think><answer>B</answer>"], True, own=True)
    assert "\x1b[2mIt is 8.\x1b[0m" in out
    assert "\x1b[34m8\x1b[0m" in out
    assert "\x1b[33mB\x1b[0m" in painted(["<focus>B</focus>"], True, own=True), "it did not reason"


def test_an_action_has_a_colour_and_a_tag_that_is_cut_in_two_is_one():
    out = painted(["<thi", "nk>3 < 8</thi", "nk>"], colour=True)
    assert out == "\x1b[2m<think>\x1b[0m\x1b[34m3 \x1b[0m\x1b[34m< 8\x1b[0m\x1b[2m</think>\x1b[0m\n" or (
        OURS.sub("", out) == "<think>3 < 8</think>\n" and "\x1b[34m" in out
    )


def test_trajectories_that_grow_together_are_shown_one_after_the_other():
    out = []

    def painter(number):
        out.append(f"[{number}]")
        return Painter(out.append, False)

    stream = Stream(painter)
    stream.grow(1, "second")
    stream.grow(0, "fir")
    assert "".join(out) == "[0]fir"
    stream.finish(1, "second.")
    stream.finish(0, "first")
    assert "".join(out) == "[0]first\n[1]second.\n"


@pytest.mark.parametrize(
    ("terminal", "environment", "colour"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(terminal, environment, colour):
    class Screen:
        def isatty(self):
            return terminal

    assert wants_colour(Screen(), environment) is colour
