"""A trajectory in a terminal, as it is written: its actions told apart by colour, and nothing of it obeyed.

What a model writes may hold escape sequences, carriage returns and marks that turn the direction of text: they are
shown as what they are.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import IO, Final

from cinema_verl.meta_action import ACTIONS, TAGS
from cinema_verl.utils.native_reasoning import OPEN

_COLOURS: Final = dict(zip(ACTIONS, ("36", "33", "35", "34", "1;32"), strict=True))  # of ANSI: cyan, yellow, …, green
_TAG: Final = re.compile("|".join(re.escape(tag) for tags in TAGS.values() for tag in tags))
_LONGEST: Final = max(len(tag) for tags in TAGS.values() for tag in tags)
_ACTIVE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls but tab and line feed, C1 controls, direction marks, lone surrogates."""


def escaped(text: str) -> str:
    r"""The text with everything that a terminal would act on written out: ``\x1b``, ``\u202e``."""
    return _ACTIVE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def wants_colour(stream: IO[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream is a terminal that shows colours, and nobody has said no (https://no-color.org)."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


class Painter:
    """Writes a trajectory that comes in pieces.

    Args:
        write: takes text for the terminal.
        colour: whether actions are coloured; else the text is only escaped.
        own: whether it may begin with reasoning of the model's own, which is no action.
    """

    def __init__(self, write: Callable[[str], object], colour: bool, own: bool = False) -> None:
        self._write, self._colour, self._own = write, colour, own
        self._held = ""  # what may be the beginning of a tag
        self._inside: str | None = None

    def feed(self, piece: str) -> None:
        """Write what has come, but the beginning of a tag that has not ended."""
        if not self._colour:
            self._write(escaped(piece))
            return
        text = self._held + piece
        cut = text.rfind("<", max(0, len(text) - _LONGEST + 1))
        if cut >= 0 and not any(tag.startswith(text[cut:]) and tag != text[cut:] for tag in _TAGS):
            cut = -1
        self._held = text[cut:] if cut >= 0 else ""
        self._paint(text[:cut] if cut >= 0 else text)

    def end(self) -> None:
        """Write what was held back, and end the line."""
        held, self._held = self._held, ""
        self._paint(held) if self._colour else None
        self._write("\n")

    def _paint(self, text: str) -> None:
        place = 0
        for found in _TAG.finditer(text):
            self._body(text[place : found.start()])
            name = found[0].strip("</>")
            self._own = self._own and found[0] == OPEN  # until its end, or an action
            if found[0] == TAGS[name].open and not self._own:
                self._inside = self._inside or name
            self._write(f"\x1b[2m{found[0]}\x1b[0m")
            if found[0] == TAGS[name].close and self._inside == name:
                self._inside = None
            place = found.end()
        self._body(text[place:])

    def _body(self, text: str) -> None:
        if not text:
            return
        text = escaped(text)
        colour = "2" if self._own else _COLOURS.get(self._inside or "")
        self._write(f"\x1b[{colour}m{text}\x1b[0m" if colour else text)


_TAGS: Final = tuple(tag for tags in TAGS.values() for tag in tags)


class Stream:
    """Several trajectories that grow at the same time, shown one after the other.

    The first that is not finished is shown as it grows; the others when their turn comes.

    Args:
        painter: makes the painter of one, after its heading was written.
    """

    def __init__(self, painter: Callable[[int], Painter]) -> None:
        self._make = painter
        self._texts: dict[int, str] = {}
        self._ended: set[int] = set()
        self._turn, self._shown = 0, 0
        self._painter: Painter | None = None

    def grow(self, number: int, text: str) -> None:
        """A trajectory is `text` so far; only what was added is shown."""
        self._texts[number] = text
        self._show()

    def finish(self, number: int, text: str) -> None:
        """A trajectory is whole."""
        self._ended.add(number)
        self.grow(number, text)

    def _show(self) -> None:
        while (text := self._texts.get(self._turn)) is not None:
            self._painter = self._painter or self._make(self._turn)
            if len(text) > self._shown:
                self._painter.feed(text[self._shown :])
                self._shown = len(text)
            if self._turn not in self._ended:
                return
            self._painter.end()
            self._painter, self._shown, self._turn = None, 0, self._turn + 1
