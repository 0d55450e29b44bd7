"""One number.

Read: integers and decimals with an optional sign, thousands in commas ("1,200"), scientific notation, powers of ten,
fractions ("3/4", "\\frac{3}{4}"), mixed numbers ("1 1/2"), number words up to ninety-nine and their Chinese
forms, a scale word ("3 million", "3万"), a leading "=", "≈" or "x =", a currency sign and a unit. Values are
compared exactly, as rationals: 42 = 42.0 = 84/2, 0.001 is not 0.004; ``tolerance`` is an absolute slack
(MathVista's precision of k digits is 0.5 * 10^-k) and by default there is none. Units: on both sides they
must be the same and are not converted; one side may leave out a unit of the list below; a lone percent sign
may also be read as a hundredth, so that 50% = 0.5 and 50% = 50. NaN, infinity, numbers of more than 64
characters or three exponent digits, several numbers and prose are no number: a gold like that abstains.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from cinema_verl.verify.reading import fold, peel, without_math_marks
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict

_MAX_TOKEN: Final = 64  # our choice: no dataset's number is longer, and it keeps exact arithmetic cheap

_UNITS: Final = {
    # canonical: other spellings
    "%": "percent per cent percentage pct",
    "°": "degree degrees deg",
    "°C": "C celsius degrees_celsius",
    "°F": "F fahrenheit degrees_fahrenheit",
    "mm": "millimeter millimeters millimetre millimetres 毫米",
    "cm": "centimeter centimeters centimetre centimetres 厘米",
    "m": "meter meters metre metres 米",
    "km": "kilometer kilometers kilometre kilometres 千米 公里",
    "in": "inch inches",
    "ft": "foot feet",
    "mi": "mile miles",
    "mm^2": "square_millimeters",
    "cm^2": "square_centimeters square_centimetres 平方厘米",
    "m^2": "square_meters square_metres 平方米",
    "km^2": "square_kilometers square_kilometres 平方千米",
    "cm^3": "cubic_centimeters cubic_centimetres 立方厘米",
    "m^3": "cubic_meters cubic_metres 立方米",
    "units": "unit 单位",
    "square units": "square_unit sq_units units^2",
    "L": "l liter liters litre litres 升",
    "mL": "ml milliliter milliliters millilitres 毫升",
    "mg": "milligram milligrams",
    "g": "gram grams 克",
    "kg": "kilogram kilograms 千克 公斤",
    "s": "sec secs second seconds 秒",
    "min": "mins minute minutes 分钟",
    "h": "hr hrs hour hours 小时",
    "days": "day 天",
    "weeks": "week 周",
    "months": "month 个月",
    "years": "year yrs yr 年 岁",
    "m/s": "meters_per_second 米/秒",
    "km/h": "kph kmh kilometers_per_hour 千米/时 千米/小时",
    "mph": "miles_per_hour",
    "N": "newton newtons 牛",
    "J": "joule joules 焦",
    "W": "watt watts 瓦",
    "V": "volt volts 伏",
    "A": "amp amps ampere amperes 安",
    "Ω": "ohm ohms 欧",
    "Hz": "hertz",
    "Pa": "pascal pascals",
    "$": "dollar dollars usd 美元",
    "€": "euro euros eur 欧元",
    "£": "pound pounds gbp",
    "¥": "yuan rmb cny yen 元 块",
    "times": "time 次",
    "images": "image picture pictures photo photos frame frames 张",
    "people": "person persons 人",
    "items": "item object objects 个 只",
}
_UNIT_OF: Final = {
    spelling.replace("_", " "): unit for unit, names in _UNITS.items() for spelling in (unit, *names.split())
}

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
    "亿": 10**8,
}

_ONES: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_HAN: Final = "零一二三四五六七八九"


def _number_words() -> dict[str, int]:
    """Every number word below one hundred, English and Chinese."""
    named = {word: i for i, word in enumerate(_ONES)}
    for i, word in enumerate(_TENS, start=2):
        named[word] = 10 * i
        named |= {f"{word}{dash}{_ONES[j]}": 10 * i + j for j in range(1, 10) for dash in "- "}
    for i in range(100):
        tens, ones = divmod(i, 10)
        leading = _HAN[tens] if tens > 1 else ""
        named[leading + ("十" if tens else "") + (_HAN[ones] if ones or not tens else "")] = i
    return named | {"两": 2, "〇": 0}


_WORDS: Final = _number_words()

_NUMBER = re.compile(
    r"""(?P<sign>[-+])?\s*(?P<currency>[$€£¥])?\s*
    (?:
        (?:(?P<whole>\d+)\s+)?(?P<num>\d+)\s*/\s*(?P<den>\d+)
      |
        10\s*\^\s*(?P<power>[-+]?\d{1,3})
      |
      (?P<int>\d{1,3}(?:,\d{3})+|\d*)(?P<dec>\.\d*)?(?:(?:[eE]|\s*[*×xX]\s*10\s*\^\s*)(?P<exp>[-+]?\d{1,3}))?
    )(?![\d.,^*/])\s*(?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
    (re.compile(r"\^\s*\{\s*([-+]?\w+)\s*\}"), r"^\1"),
    (re.compile(r"\^\s*(?:\\circ\b|\{\s*\\circ\s*\})|\\degree\b"), "°"),
    (re.compile(r"\\(?:text|mathrm|rm)\s*\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,!;: ]"), ""),
    (re.compile(r"\\([$%])"), r"\1"),
)
_PREFIX = re.compile(r"(?:[A-Za-z]\s*)?[=≈]\s*")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value and its unit: canonical when it is a known one, otherwise as written, "" for none."""

    value: Fraction
    unit: str

    @property
    def is_plain(self) -> bool:
        """Whether what follows the value is a unit of the list or nothing: 2x is two of an unknown x."""
        return not self.unit or self.unit in _UNITS


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch, answers within a group
def read(text: str) -> Quantity | None:
    """The one number that folded text is, or None."""
    text = without_math_marks(peel(text))
    if "\\" in text or "{" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        text = peel(text.strip())
    if prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
    if (word := _WORDS.get(text.casefold())) is not None:
        return Quantity(Fraction(word), "")
    match = _NUMBER.match(text)
    if not match or match.start("rest") > _MAX_TOKEN:
        return None
    value = _value(match)
    if value is None:
        return None
    unit = match["rest"].strip()
    first, _, after = unit.partition(" ")
    if first.casefold() in _SCALES:
        value, unit = value * _SCALES[first.casefold()], after.strip()
    elif unit and unit[0] in _SCALES and unit not in _UNIT_OF:  # 千克 is a unit, 千 a scale
        value, unit = value * _SCALES[unit[0]], unit[1:].strip()
    if match["currency"]:
        if unit:
            return None
        unit = match["currency"]
    if unit and any(c.isdigit() for c in unit.removesuffix("^2").removesuffix("^3")):
        return None
    return Quantity(value, _canonical(unit))


def _value(match: re.Match[str]) -> Fraction | None:
    if match["den"]:
        if not int(match["den"]):
            return None
        value = int(match["whole"] or 0) + Fraction(int(match["num"]), int(match["den"]))
    elif match["power"]:
        value = Fraction(10) ** int(match["power"])
    else:
        whole, decimals = match["int"].replace(",", ""), (match["dec"] or "")[1:]
        if not whole and not decimals:
            return None
        value = Fraction(int(whole + decimals), 10 ** len(decimals)) if decimals else Fraction(int(whole))
        if match["exp"]:
            value *= Fraction(10) ** int(match["exp"])
    return -value if match["sign"] == "-" else value


def units() -> dict[str, str]:
    """Every spelling of a unit, with its canonical one."""
    return _UNIT_OF


def _canonical(unit: str) -> str:
    # Case tells symbols apart (mm, Mm); it tells nothing about words.
    folded = unit.casefold() if len(unit) > 2 else unit
    return _UNIT_OF.get(unit) or _UNIT_OF.get(folded) or unit


def on_scale_of(gold: Quantity, answer: Quantity) -> tuple[Fraction, ...]:
    """The values that the answer may have beside the gold's, given the units; none when the units do not fit."""
    if answer.unit == gold.unit:
        return (answer.value,)
    if answer.unit and gold.unit:
        return ()
    if gold.unit == "%":
        return (answer.value, answer.value * 100)
    if answer.unit == "%":
        return (answer.value, answer.value / 100)
    return (answer.value,) if (answer.unit or gold.unit) in _UNITS else ()


def check(answer: str, gold: Gold) -> Verdict:
    expected = read(fold(gold.text))
    if expected is None:
        return ABSTAIN
    found = read(fold(answer))
    if found is None:
        return UNREADABLE
    values = on_scale_of(expected, found)
    if not gold.tolerance:
        return RIGHT if expected.value in values else DIFFERENT
    # Through the decimal notation: 0.3 means three tenths, not the double just below.
    slack = Fraction(repr(gold.tolerance))
    return RIGHT if any(abs(value - expected.value) <= slack for value in values) else DIFFERENT
