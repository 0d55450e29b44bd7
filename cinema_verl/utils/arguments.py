"""argparse that asks "did you mean", as Python 3.14's does, for options and choices."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

_UNKNOWN = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")
_AREA = re.compile(r"(\d{1,9})(?:[x×*](\d{1,9}))?")
_CHOICE = re.compile(r"invalid choice: '(?P<given>.*?)' \(choose from (?P<known>.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name the nearest option or choice; exit code 2, as ever."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            options = [option for option in self._option_string_actions if option.startswith("--")]
            hints = [did_you_mean(found, options) for found in _UNKNOWN.findall(message)]
        else:
            found = _CHOICE.search(message)
            known = [name.strip().strip("'") for name in found["known"].split(",")] if found else []
            hints = [did_you_mean(found["given"], known)] if found else []
        super().error(message + "".join(hints))


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ ". Did you mean X?", with the nearest of what is known; empty where nothing is near."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f". Did you mean {near[0]}?" if near else ""


def area(text: str) -> int:
    """The `type` of an option that takes an area in pixels: a whole number, or sides such as "640x480".

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    found = _AREA.fullmatch(text.strip())
    pixels = int(found[1]) * int(found[2] or 1) if found else 0
    if pixels < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no area in pixels: write 307200, or 640x480")
    return pixels


def positive(text: str) -> int:
    """The `type` of an option that takes a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is below 1.
        ValueError: it is no whole number.
    """
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value
