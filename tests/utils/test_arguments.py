"""What command lines share: areas, whole numbers, and hints."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.utils.arguments import Parser, area, positive, sentence


@pytest.mark.parametrize(
    ("text", "pixels"),
    [("640x480", 307_200), ("640×480", 307_200), ("28*28", 784), (" 602112 ", 602_112), ("1", 1)],
)
def test_an_area_is_a_number_or_two_sides(text, pixels):
    assert area(text) == pixels


@pytest.mark.parametrize("text", ["", "0", "640x0", "640x", "x480", "-5", "1e6", "0.5", "640x480x3", "big"])
def test_what_is_no_area_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="640x480"):
        area(text)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_sides_multiply(width, height):
    assert area(f"{width}x{height}") == area(str(width * height)) == width * height


def test_an_option_that_takes_an_area_says_what_it_got(capsys):
    parser = Parser(prog="it")
    parser.add_argument("--max-pixels", type=area)
    assert parser.parse_args(["--max-pixels", "640x480"]).max_pixels == 307_200
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--max-pixels", "640 by 480"])
    assert "write 307200, or 640x480" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the folder to make", "The folder to make."),
        ("area in pixels (default: 3136)", "Area in pixels. (default: 3136)"),
        ("Whole. (default: x)", "Whole. (default: x)"),
        ("processes (default: %(default)s (here))", "Processes. (default: %(default)s (here))"),
        ("as of `x`", "As of `x`."),
        ("(one run only)", "(one run only)"),
    ],
)  # fmt: skip
def test_help_is_sentences(text, shown):
    assert sentence(text) == shown == sentence(sentence(text))


def test_positive_numbers():
    assert positive("3") == 3
    with pytest.raises(argparse.ArgumentTypeError):
        positive("0")
