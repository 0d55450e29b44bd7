"""What tools between an author and a file did to a gold's spelling, undone before the gold is read.

JSON and Python turn ``\\frac`` into a form feed and ``rac``; converters leave macros that no reader of answers knows
(``\\number{24}``), empty groups (``30${}^\\circ$``), commands without their backslash (``70$textdegree$``) and units
without their command (``8\\sqrt{3}{squareinches}``). Nothing here decides what a gold means.
"""

from __future__ import annotations

import re
from typing import Final

from cinema_verl.verify import units

_EATEN: Final = {"\x07": "a", "\x08": "b", "\x0b": "v", "\x0c": "f"}
_CONTROL = re.compile("([\x07\x08\x0b\x0c])(?=[A-Za-z])")
# The escapes that are white space, too: only before what is left of a command, which no word begins with.
_EATEN_SPACE = re.compile(
    "\t(?=(?:ext|imes|frac|heta|riangle|herefore|ilde|binom)|(?:an|au)(?![A-Za-z]))"
    "|\n(?=(?:eq|abla|otin|parallel)|eg(?![A-Za-z]))"
    "|\r(?=(?:ight|angle|floor|ceil)|(?:ho|m)(?![A-Za-z]))"
)
_SPACE_ESCAPES: Final = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def with_escapes(text: str) -> str:
    """Text with the backslashes that were read as escapes of JSON or Python: ``\\x0crac`` is ``\\frac``.

    A control character before a letter is nothing else; a tab or a line break is one before the rest of a command.
    """
    text = _CONTROL.sub(lambda match: "\\" + _EATEN[match[1]], text)
    return _EATEN_SPACE.sub(lambda match: _SPACE_ESCAPES[match[0]], text)


_COMMAND_WORDS: Final = (
    r"textdegree|degree|circ|textcelsius|celsius|times|div|pi|infty|alpha|beta|theta|angle|triangle"
    r"|[dt]?frac(?=\s?\{)|sqrt(?=\s?[\[{])"
)
_LOST_BACKSLASH = re.compile(rf"(?<![\\A-Za-z])({_COMMAND_WORDS})(?![A-Za-z])")
_BLOCK = re.compile(r"\$\$?[^$]+\$\$?")
_DEGREE = re.compile(
    r"\s?\$\s?(?:\^\s?)?\{?\\(?:textdegree|degree|circ)\}?\s?\$|(?:\^\s?)?\\?(?:textdegree|\\degree)(?![A-Za-z])"
)
_UNIT_POWER: Final = r"(?:[mckd]?m|km|in|ft)"
_REWRITES: Final = (
    (re.compile(r"\\(?:number|num)\s?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\ang\s?\{([^{}]*)\}"), r"\1^{\\circ}"),
    (re.compile(r"\\(?:quantity|qty|SI)\s?\{([^{}]*)\}\s?\{\\?([^{}]*)\}"), r"\1 \\mathrm{~\2}"),
    (re.compile(r"\\(?:unit|si)\s?\{\\?([^{}]*)\}"), r"\\mathrm{~\1}"),
    (re.compile(r"\{\s?\{\s?(\w|\d+)\s?\}\s?([\^_])\s?(\{[^{}]*\}|\w)\s?\}"), r"\1\2\3"),  # {{10}^{5}}
    (re.compile(r"^(\$?\s?-?\d{2,3})\s?\^\s?(?:0|\{\s?0\s?\})(\s?\$?)$"), r"\1^{\\circ}\2"),  # 120^0
    (re.compile(r"\{\s*\}\s*(?=[\^_])"), ""),  # an empty group that carries an exponent
    (re.compile(r"\^\s?\{?\s?\\wedge\s?\}?"), "^"),
    (re.compile(r"\\(?:mathrm|mathbf|mathit|rm|bf|it)\s?(?=\\)"), ""),  # a font for a command
    (re.compile(r"\{\s?\\rm\s([A-Za-z]+)\s?\}|\\rm\s?\{([^{}]*)\}"), r"\\mathrm{\1\2}"),
    (re.compile(r"\^\s?\{?\s?circ(?![A-Za-z])\s?\}?"), r"^{\\circ}"),
    (re.compile(r"\\(mathrm|text)\s([A-Za-z]+)"), r"\\\1{\2}"),
    # mm 3: an exponent that lost its sign
    (re.compile(rf"(\\(?:mathrm|text|rm)\s?\{{[~\s]*{_UNIT_POWER}\s?\}})\s?([23])(?=\s?\$*\.?$)"), r"\1^{\2}"),
    (re.compile(rf"(?<=[\s\d$}}])({_UNIT_POWER})\s([23])(?=\s?\$*\.?$)"), r"\1^\2"),
)
_BRACED_WORD = re.compile(
    r"(?P<before>.*(?:[\d)}°]|\\(?:pi|circ|infty)))\s?\{\s?(?P<word>[A-Za-z][A-Za-z .]+)\}\.?", re.DOTALL
)
_BARE_UNIT = re.compile(
    r"\$(?P<formula>[^$]*)\$\s?(?P<unit>[A-Za-z\u4e00-\u9fff][A-Za-z\u4e00-\u9fff /.]*\^?\s?[23]?)\.?"
)
_FRACTION_ABOVE = re.compile(r"\\[dtc]?frac\s?\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}$")
_GLUED = re.compile(r"(square|cubic|sq|cu)\.?\s?(?=[a-z])|(?<=[a-z]{2})(per)(?=[a-z]{2})")


def plain(gold: str) -> str:
    """A gold in the LaTeX that readers of answers know; one that has none of these marks is left as it is."""
    gold = with_escapes(gold)
    if not any(mark in gold for mark in "\\${}^"):
        return gold
    gold = _BLOCK.sub(lambda block: _LOST_BACKSLASH.sub(r"\\\1", block[0]), gold)
    for pattern, replacement in _REWRITES:
        gold = pattern.sub(replacement, gold)
    gold = _DEGREE.sub("°", gold) if gold.count("$") % 2 == 0 else gold
    braced = _BRACED_WORD.fullmatch(gold)
    if braced and not _FRACTION_ABOVE.search(braced["before"]):
        words = _GLUED.sub(lambda match: f"{match[1]} " if match[1] else " per ", braced["word"])
        gold = rf"{braced['before']}\text{{ {words}}}"
    return _with_marked_unit(gold)


def _with_marked_unit(gold: str) -> str:
    """A formula whose unit stands behind it in words or with a bare exponent: "$9\\sqrt{3}$ square meters", "mm3"."""
    found = _BARE_UNIT.fullmatch(gold)
    if not found or ("\\" not in found["formula"] and "√" not in found["formula"]):
        return gold
    unit = units.read(found["unit"])
    if unit.standing is not units.Standing.SURE or not re.search(r"[ \d]|[^ -~]", found["unit"]):
        return gold
    name, _, power = unit.name.partition("^")
    marked = rf"\mathrm{{{name}}}^{{{power}}}" if power.isdigit() else rf"\text{{ {found['unit']}}}"
    return f"{found['formula']} {marked}"


def closed(text: str, *, was_cut: bool = False) -> str:
    """A part of a gold without math marks that lost their partner when it was cut: "18$ cm" is "18 cm".

    One dollar before figures alone is money, except where the whole gold `was_cut` between two dollars.
    """
    if text.count("$") % 2 and (was_cut or re.search(r"[\\^{]|\d\s?\$", text)):
        return text.replace("$", "").strip()
    return text.strip()
