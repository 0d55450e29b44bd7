"""argparse that asks "did you mean", as Python 3.14's does, and completes in a shell where argcomplete is installed."""

import argparse
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

_UNKNOWN = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")
_AREA = re.compile(r"(\d{1,9})(?:[x×*](\d{1,9}))?")
_CHOICE = re.compile(r"invalid choice: '(?P<given>.*?)' \(choose from (?P<known>.*)\)", re.DOTALL)


_DEFAULT = re.compile(r"\s*(\(default[^()]*(?:\([^()]*\)[^()]*)*\))$")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name the nearest option or choice; exit code 2, as ever.

    Help is shown as sentences, with the default in brackets behind them.
    """

    _completing = False

    def format_help(self) -> str:
        for action in self._actions:
            if action.help and action.help != argparse.SUPPRESS:
                action.help = sentence(action.help)
        return super().format_help()

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        """As argparse's, which all ways of parsing come to; in a shell that asks for completions, it gives them."""
        if "_ARGCOMPLETE" in os.environ and not self._completing:
            import argcomplete

            self._completing = True  # it parses what is there already, by this method
            argcomplete.autocomplete(self)
        return super().parse_known_args(*arguments, **more)

    def options(self) -> list[str]:
        """The long options."""
        return [option for option in self._option_string_actions if option.startswith("--")]

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            hints = [did_you_mean(found, self.options()) for found in _UNKNOWN.findall(message)]
        else:
            found = _CHOICE.search(message)
            known = [name.strip().strip("'") for name in found["known"].split(",")] if found else []
            hints = [did_you_mean(found["given"], known)] if found else []
        super().error(message + "".join(hints))


def sentence(text: str) -> str:
    """A help text with a capital and a full stop, its default behind it."""
    text = " ".join(text.split())
    found = _DEFAULT.search(text)
    words, default = (text[: found.start()], f" {found[1]}") if found else (text, "")
    end = "" if words.endswith((".", ")", "…")) or not words else "."
    return f"{words[:1].upper()}{words[1:]}{end}{default}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ ". Did you mean X?", with the nearest of what is known; empty where nothing is near."""
    plain = {name.lstrip("-"): name for name in known}  # two options are not near for their dashes
    near = difflib.get_close_matches(given.lstrip("-"), plain, n=1)
    return f". Did you mean {plain[near[0]]}?" if near else ""


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


def check_least(settings: object, least: Mapping[str, float]) -> None:
    """Refuse a number of a settings object that is under what it must be at least, infinite or no number (NaN).

    Args:
        least: By the attribute's name.

    Raises:
        ValueError: The first such number, by name.
    """
    for name, low in least.items():
        if not low <= (value := getattr(settings, name)) < math.inf:
            raise ValueError(f"{name} must be a finite number of at least {low}, and is {value}")


def positive(text: str) -> int:
    """The `type` of an option that takes a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is below 1.
        ValueError: it is no whole number.
    """
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def not_negative(text: str) -> int:
    """The `type` of an option that takes a whole number of at least 0; raises as `positive`."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value
