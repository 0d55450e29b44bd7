"""One number.

Read: integers and decimals with an optional sign; digits grouped in threes by commas, spaces, apostrophes or (twice or
more) stops; scientific notation and powers of ten; repeating decimals (``0.\\overline{3}``, 0.(3)); fractions ("3/4",
``\\frac{1.5}{2}``) and mixed numbers; English and Chinese number words; a scale word ("3 million", "3万"); degrees with
minutes; a currency sign; a unit (see :mod:`.units`); what is counted ("5 apples", "There are 5 apples in the image",
see :mod:`.counted`); and what it is the value of ("BF = 4.2", see `reading.named`).

Values are compared exactly, as rationals: 42 = 42.0 = 84/2, 0.001 is not 0.004; ``tolerance`` is an absolute slack
(MathVista's precision of k digits is 0.5 * 10^-k) and by default there is none. Units: on both sides they must be the
same and are not converted; one side may leave out a known one; a lone percent sign may also be read as a hundredth, so
that 50% = 0.5 and 50% = 50. Names: x = 5 is 5, and is not y = 5. A base is part of the number: 204_5 is neither 204_6
nor 204. A list is no number: "10, 100" is not 10100. Neither are NaN, infinity, sums that are not worked out, numbers
of more than 64 characters or three exponent digits, and prose: a gold like that abstains.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from cinema_verl.verify import units as unit_rules
from cinema_verl.verify.counted import GROUPS, is_counted
from cinema_verl.verify.number_words import read_words
from cinema_verl.verify.reading import fold, named, peel, same_name, without_looks, without_math_marks
from cinema_verl.verify.units import Standing
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

_MAX_TOKEN: Final = 64  # our choice: no dataset's number is longer, and it keeps exact arithmetic cheap
_MAX_TEXT: Final = 200  # our choice: a name, a number and a unit, each as long as it may be

_SCALES: Final = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "百": 10**2,
    "千": 10**3,
    "万": 10**4,
    "百万": 10**6,
    "千万": 10**7,
    "亿": 10**8,
    "万亿": 10**12,
}
# Letters are scales of money only: 5 m is five metres.
_SCALES_OF_MONEY: Final = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "b": 10**9, "tn": 10**12, "t": 10**12}

_GROUPED = r"[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|[1-9]\d{0,2}(?:\x20\d{3})+(?!\x20?\d)|[1-9]\d{0,2}(?:'\d{3})+(?!\d)|\d+"
_PART = rf"(?:{_GROUPED})(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+])?\s?(?P<currency>(?:US\x20?|HK|NT|[ACS])?\$|[€£¥₹₽₩]|USD|EUR|GBP|RMB|CNY|JPY|INR|HKD|Rs\.?)?
    \s?(?P<below>-)?
    (?:
        (?:(?P<whole>\d+)\s)?(?P<num>{_PART})\s?/\s?(?P<den>-?(?:{_PART}))
      |
        10\s?(?:\^|\*\*)\s?[{{(]?\s?(?P<power>[-+]?\s?\d{{1,3}})(?:\s?[)}}])?
      |
        (?P<stops>[1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}})
      |
        (?P<int>{_GROUPED})?(?P<dec>\.\d*)?(?:(?<=[.\d])\((?P<repeating>\d+)\))?
        (?:(?:[eE]|\s?[*×xX·]\s?10\s?(?:\^|\*\*)\s?[{{(]?\s?)(?P<exp>[-+]?\s?\d{{1,3}})(?:\s?[)}}])?)?
    )(?![\d.,^*]|/(?!\s?[A-Za-z]))(?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
_FRACTION = (
    (
        re.compile(
            r"\\frac\s?\{\s?([A-Za-zΩμ][^{}]*(?:\{-?\d\}[^{}]*)?)\}\s?\{\s?([A-Za-zΩμ][^{}]*(?:\{-?\d\}[^{}]*)?)\}$"
        ),
        r" \1/(\2)",
    ),
    (re.compile(r"\{\s?(\\frac\s?\{[\d ]+\}\s?\{[\d ]+\}|[×·])\s?\}"), r"\1"),
    (re.compile(rf"\\frac\s?\{{\s?(-?\s?(?:{_PART}))\s?\}}\s?(?:\{{\s?(-?\s?(?:{_PART}))\s?\}}|(\d))"), r" \1/\2\3"),
    (re.compile(rf"\\frac\s?(\d)\s?(?:(\d)|\{{\s?((?:{_PART}))\s?\}})"), r" \1/\2\3"),
    (re.compile(r"\{?\s?(-?\d+)\s?\\over(?![A-Za-z])\s?(\d+)\s?\}?"), r"\1/\2"),
    (re.compile(r"\{(-?[\d.]+)\}"), r"\1"),
)
_QUOTIENT = re.compile(r"\((-?\s?\d{1,40})\)\s?/\s?(?:\((\d{1,40})\)|(\d{1,40}))")
_DOTTED = re.compile(r"(?<=[.\d])\\dot\s?\{?(\d)\}?(?:(\d*)\\dot\s?\{?(\d)\}?)?")
_LINED = re.compile(r"(?<=[.\d])\\(?:overline|bar)\s?(?:\{\s?(\d+)\s?\}|(\d))")
_COMBINING = re.compile("(?:\\d[\u0304\u0305])+|\\d\u0307(?:\\d*\\d\u0307)?")
_MINUTES = re.compile(r"(-?\d+)\s?°\s?(\d{1,2}(?:\.\d+)?)\s?'(?:\s?(\d{1,2}(?:\.\d+)?)\s?(?:\"|''))?")
_BASE = re.compile(r"_\s?\{?\s?\(?\s?([a-z]+|\d{1,2})\s?\)?\s?\}?|\(?\s?(?:in\s)?base[ -]?([a-z]+|\d{1,2})\s?\)?")
# A unit that lost its command, and one with a word that says nothing more: "years old".
_WORDY_UNIT = re.compile(
    r"\{\s?([^{}\d]+)\s?\}|(.{1,40})\s(?:old|long|tall|high|wide|deep|thick|away|apart|in\s(?:total|all|length|height|width))"
)
# "There are", "the year", and where it is seen: what says nothing about the number.
_LEAD = re.compile(
    r"there\s(?:is|are)\s(?:only\s|exactly\s)?(?=[\da-z])|(?:in\s)?(?:the\s)?year\s(?=\d{4}$)|in\s(?=\d{4}$)|(?:一?共有?|总共有?|等于)(?=\d)",
    re.IGNORECASE,
)
_SHOWN = re.compile(
    r"\s(?:(?:shown|visible|present|depicted)\s)?(?:in|on)\s(?:the|this)\s(?:image|picture|photo|video|figure|scene|diagram|chart)$",
    re.IGNORECASE,
)
_DECADE = re.compile(r"(?:the\s)?\d{3}0'?s")
_MINUS = re.compile(r"(?:minus|negative)\s(?=[\d.\\])|负(?=\d)", re.IGNORECASE)
_IN_ALL: Final = frozenset(("in total", "in all", "altogether", "total"))
# The ordinary answer: no commas, at most one word. Everything else takes the long way.
_PLAIN = re.compile(r"(-?)(\d{1,40})(?:\.(\d{1,20}))?(?: ?([A-Za-z%°]+))?")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number.

    Attributes:
        value: Exact.
        unit: By the one name of `units.read`; as written when it is none of ours; "" for none.
        standing: How sure it is that ``unit`` is a unit.
        name: What it is said to be the value of, "" for nothing.
    """

    value: Fraction
    unit: str = ""
    standing: Standing = Standing.SURE
    name: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is a number and not a term: what follows the value is surely a unit, or nothing."""
        return self.standing is Standing.SURE


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch, answers within a group
def read(text: str) -> Quantity | None:
    """The one number that folded text is, or None."""
    if (plain := _PLAIN.fullmatch(text)) and (quantity := _read_plain(plain)):
        return quantity
    text = without_math_marks(peel(text))
    if len(text) > _MAX_TEXT or "\n" in text or _DECADE.fullmatch(text):
        return None
    text = _SHOWN.sub("", peel(without_looks(text)))
    if lead := _LEAD.match(text):
        text = text[lead.end() :]
    name, text = named(text)
    quantity = _read_value(peel(text) if name else text)
    if quantity is None or not name:
        return quantity
    return Quantity(quantity.value, quantity.unit, quantity.standing, name)


def _read_plain(match: re.Match[str]) -> Quantity | None:
    sign, whole, decimals, word = match.groups()
    value = Fraction(int(whole + decimals), 10 ** len(decimals)) if decimals else Fraction(int(whole))
    if sign:
        value = -value
    if not word:
        return Quantity(value)
    if word == "s" and _DECADE.fullmatch(match[0]):
        return None
    unit = unit_rules.read(word, glued=match.start(4) == match.end(3 if decimals else 2))
    return Quantity(value, unit.name) if unit.standing is Standing.SURE else None


def _read_value(text: str) -> Quantity | None:
    """Of text without wrapping and name."""
    if minus := _MINUS.match(text):
        text = "-" + text[minus.end() :]
    if text[:1] in ("-", "+") and text[1:].lstrip()[:1] == "(":  # -(3/4)
        inner = peel(text[1:].strip())
        quantity = _read_value(inner) if inner[:1].isdigit() or inner[:1] in "\\." else None
        if quantity is None or text[0] == "+":
            return quantity
        return Quantity(-quantity.value, quantity.unit, quantity.standing)
    if not any(char.isdigit() for char in text):
        return _read_words(text)
    text = _in_figures(text)
    if minutes := _MINUTES.fullmatch(text):
        degrees, *parts = (Fraction(part or 0) for part in minutes.groups())
        below = parts[0] / 60 + parts[1] / 3600
        return Quantity(degrees - below if text[0] == "-" else degrees + below, "°")
    match = _NUMBER.match(text)
    if not match or match.start("rest") > _MAX_TOKEN or (match["below"] and (match["sign"] or not match["currency"])):
        return None
    value = _value(match)
    return None if value is None else _with_unit(value, match["currency"] or "", match["rest"])


def _read_words(text: str) -> Quantity | None:
    """ "three", "two hundred and five meters", 三分之一."""
    words = read_words(text)
    if words is None:
        return None
    value, rest = words
    if not rest:
        return Quantity(value)
    unit = unit_rules.read(rest)
    if unit.standing is not Standing.SURE and not is_counted(rest):
        return None
    return Quantity(value, unit.name, unit.standing)


def _in_figures(text: str) -> str:
    """LaTeX's fractions and repeating decimals in one line: ``\\frac{3}{4}`` is 3/4, ``0.\\overline{3}`` is 0.(3)."""
    if text.startswith("("):
        text = _QUOTIENT.sub(r"\1/\2\3", text)
    if "\\" in text or "{" in text:
        text = _LINED.sub(lambda m: f"({m[1] or m[2]})", text)
        text = _DOTTED.sub(lambda m: f"({m[1]}{m[2] or ''}{m[3] or ''})", text)
        for pattern, replacement in _FRACTION:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split())
    elif not text.isascii():
        text = _COMBINING.sub(lambda m: f"({re.sub('[^0-9]', '', m.group())})", text)
    return text


def _digits(text: str) -> str:
    return text.replace(",", "").replace(" ", "").replace("'", "")


def _value(match: re.Match[str]) -> Fraction | None:
    if match["den"]:
        below = Fraction(_digits(match["den"]))
        if not below:
            return None
        value = int(match["whole"] or 0) + Fraction(_digits(match["num"])) / below
    elif match["power"]:
        value = Fraction(10) ** int(_digits(match["power"]))
    elif match["stops"]:
        value = Fraction(match["stops"].replace(".", ""))
    else:
        whole, decimals = _digits(match["int"] or ""), (match["dec"] or "")[1:]
        if not whole and not decimals and not match["repeating"]:
            return None
        value = Fraction(int(whole + decimals or 0), 10 ** len(decimals))
        if match["repeating"]:
            if not match["dec"]:
                return None
            value += Fraction(int(match["repeating"]), (10 ** len(match["repeating"]) - 1) * 10 ** len(decimals))
        if match["exp"]:
            value *= Fraction(10) ** int(_digits(match["exp"]))
    return -value if (match["sign"] == "-") != bool(match["below"]) else value


def _with_unit(value: Fraction, currency: str, rest: str) -> Quantity | None:
    """The value in its scale, and what follows it as a unit."""
    text = rest.strip()
    if text[:1] in ("(", "[") and len(text) > len("(m)"):
        inside = peel(text)  # 5 (cm); in "5 (C)" the bracket may hold a label, and 2(a+b) is no 2a+b
        text = inside if unit_rules.read(inside).standing is Standing.SURE or is_counted(inside) else text
    if not text and not currency:
        return Quantity(value)
    if text in _IN_ALL and not currency:
        return Quantity(value)
    if text.startswith("/") and not currency:
        return None  # 5/x is a quotient
    if text.startswith("_") or "base" in text:
        base = _BASE.fullmatch(text)
        return Quantity(value, _base(base[1] or base[2]), Standing.UNKNOWN) if base and not currency else None
    first, _, after = text.partition(" ")
    currency = currency.replace(" ", "")
    scale = (_SCALES_OF_MONEY.get(first.casefold()) if currency else None) or _SCALES.get(first.casefold())
    if scale:
        value, text = value * scale, after.strip()
    unit = unit_rules.read(text, glued=not scale and not rest[:1].isspace())
    if not scale and unit.standing is Standing.UNKNOWN and (han := _leading_scale(text)):  # 千克 is a unit, 千 a scale
        value, text = value * _SCALES[han], text[len(han) :].strip()
        unit = unit_rules.read(text)
    if unit.standing is Standing.UNKNOWN and (bare := _WORDY_UNIT.fullmatch(text)):
        unit = unit_rules.read(bare[1] or bare[2])
    if currency:
        unit = _of_currency(currency, text, unit)
        return Quantity(value, unit.name) if unit.standing is Standing.SURE else None
    if unit.standing is Standing.UNKNOWN and any(c.isdigit() for c in unit.name.removesuffix("^2").removesuffix("^3")):
        return None
    return Quantity(value, unit.name, unit.standing)


def _base(text: str) -> str:
    said = read_words(text)
    return f"base {said[0] if said and not said[1] else text}"


def _leading_scale(text: str) -> str:
    return next((text[:length] for length in (2, 1) if text[:length] in _SCALES), "")


def _of_currency(currency: str, text: str, unit: unit_rules.Unit) -> unit_rules.Unit:
    """$5, "$5 per hour", "$5 USD"; not "$5 cm"."""
    sign = unit_rules.read(currency)
    if not text or unit_rules.same(sign.name, unit.name):
        return sign
    if text.startswith(("/", "per ", "每")):
        return unit_rules.read(f"{currency}{'' if text[0] == '/' else ' '}{text}")
    return unit_rules.Unit(text, Standing.UNKNOWN)


def units() -> dict[str, str]:
    """Every spelling that is a unit wherever it stands, with the unit's name."""
    return unit_rules.spellings()


def units_set_apart() -> dict[str, str]:
    """Further spellings that are a unit behind a number and a space."""
    return unit_rules.set_apart()


def on_scale_of(gold: Quantity, answer: Quantity) -> tuple[Fraction, ...]:
    """The values that the answer may have beside the gold's, given units and names; none when these do not fit."""
    if gold.name and answer.name and not same_name(gold.name, answer.name):
        return ()
    if answer.unit == gold.unit or unit_rules.same(answer.unit, gold.unit):
        return (answer.value,)
    if answer.unit and gold.unit:
        return ()
    if gold.unit in GROUPS and not answer.unit:
        return (answer.value,)
    if gold.unit == "%":
        return (answer.value, answer.value * 100)
    if answer.unit == "%":
        return (answer.value, answer.value / 100)
    return (answer.value,) if min(answer.standing, gold.standing) > Standing.UNKNOWN else ()


def check(answer: str, gold: Gold) -> Verdict:
    expected = read(fold(gold.text))
    if expected is None:
        return ABSTAIN
    found = read(fold(answer))
    if found is None:
        return UNREADABLE
    values = on_scale_of(expected, found)
    if not gold.tolerance:
        return CORRECT if expected.value in values else DIFFERENT
    # Through the decimal notation: 0.3 means three tenths, not the double just below.
    slack = Fraction(repr(gold.tolerance))
    return CORRECT if any(abs(value - expected.value) <= slack for value in values) else DIFFERENT
