"""Numbers in words, English and Chinese: "two hundred and five", "three quarters", 三千零五十, 三分之一.

A number in words is one number or none: "one two" and 一二 are two digits, and are not read.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

_ONES: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS: Final = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # fmt: skip
_BELOW_HUNDRED: Final = {word: i for i, word in enumerate(_ONES)} | {
    word: 10 * i for i, word in enumerate(_TENS, start=2)
}
_WORD = re.compile(r"[a-z]+")
_MAX_WORDS: Final = 24  # our choice: the longest number below a quadrillion has 23

_HAN_DIGITS: Final = {char: i for i, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_HAN_PLACES: Final = {"十": 10, "百": 100, "千": 1000}
_HAN_NUMBER = re.compile("[零〇一二两三四五六七八九十百千万亿点]+")
_MAX_HAN: Final = 24


@lru_cache(maxsize=1024)
def read_words(text: str) -> tuple[Fraction, str] | None:
    """The number that folded text without figures begins with, and what follows it (a unit); None for no number."""
    if text.isascii():
        return _english(text.casefold())
    return _chinese(text)


def _english(text: str) -> tuple[Fraction, str] | None:
    negative = next((word for word in ("minus ", "negative ") if text.startswith(word)), "")
    rest = text[len(negative) :]
    words = [match for _, match in zip(range(_MAX_WORDS), _WORD.finditer(rest), strict=False)]
    if not words or words[0].start() != 0:
        return None
    value: Fraction | None = None
    end = 0
    for count in range(len(words), 0, -1):
        said = rest[: words[count - 1].end()]
        value = _fraction([word.group() for word in words[:count]]) if _joined(said) else None
        if value is not None:
            end = words[count - 1].end()
            break
    if rest.startswith("a dozen"):
        value, end = Fraction(12), len("a dozen")
    elif value is not None and rest.startswith(" dozen", end):
        value, end = value * 12, end + len(" dozen")
    if value is None or rest[end : end + 1] not in ("", " "):
        return None
    return (-value if negative else value), rest[end:].strip()


def _joined(text: str) -> bool:
    """Whether nothing but single spaces and hyphens stands between words."""
    return all(char.isalpha() or char in " -" for char in text)


def _fraction(words: list[str]) -> Fraction | None:
    if "point" in words:
        return _decimal(words)
    part = _PARTS.get(words[-1].removesuffix("s")) or _PARTS.get(words[-1])
    if part and "and" in words[1:]:  # three and a half
        at = len(words) - words[::-1].index("and")
        whole, below = _integer(words[: at - 1]), _fraction(words[at:])
        return whole + below if whole and whole < 100 and below and below < 1 else None
    if part is None:
        whole = _integer(words)
        return None if whole is None else Fraction(whole)
    counted = words[:-1]
    if counted in ([], ["a"], ["an"]):
        return Fraction(1, part) if part in (2, 4) else None
    above = _BELOW_HUNDRED.get(counted[0]) if len(counted) == 1 else None
    return Fraction(above, part) if above else None


def _decimal(words: list[str]) -> Fraction | None:
    """Two point five."""
    at = words.index("point")
    whole, digits = _integer(words[:at]), [_BELOW_HUNDRED.get(word, 10) for word in words[at + 1 :]]
    if (whole is None and words[:at] != ["zero"]) or not digits or max(digits) > 9:
        return None
    return (whole or 0) + Fraction(int("".join(map(str, digits))), 10 ** len(digits))


def _integer(words: list[str]) -> int | None:
    """English cardinals: groups below a thousand, each with a scale that is smaller than the one before."""
    total, below = 0, 10**15
    group: list[str] = []
    for word in words:
        if word in _SCALES:
            value = 1 if group == ["a"] else _below_thousand(group)
            if not value or _SCALES[word] >= below:
                return None
            total, below, group = total + value * _SCALES[word], _SCALES[word], []
        else:
            group.append(word)
    if group and total and group[0] == "and":
        group = group[1:]
        if not group:
            return None
    if not group:
        return total or None
    value = _below_thousand(group)
    return None if value is None or (total and not value) else total + value


def _below_thousand(words: list[str]) -> int | None:
    hundreds = 0
    if len(words) >= 2 and words[1] == "hundred":
        hundreds = 1 if words[0] == "a" else _BELOW_HUNDRED.get(words[0], 0)
        if not 0 < hundreds < 20:
            return None
        words = words[2:]
        if words[:1] == ["and"]:
            words = words[1:]
            if not words:
                return None
        if not words:
            return hundreds * 100
    values = [_BELOW_HUNDRED.get(word) for word in words]
    if len(values) == 1 and values[0] is not None:
        return hundreds * 100 + values[0] if values[0] or not hundreds else None
    if len(values) == 2 and values[0] is not None and values[0] >= 20 and values[1] is not None and 0 < values[1] < 10:
        return hundreds * 100 + values[0] + values[1]
    return None


def _chinese(text: str) -> tuple[Fraction, str] | None:
    negative = text.startswith("负")
    text = text.removeprefix("负")
    if text in ("半", "一半"):
        return Fraction(-1 if negative else 1, 2), ""
    if text.startswith("百分之"):
        percent = _HAN_NUMBER.fullmatch(text[3:])
        value = _han_decimal(percent.group()) if percent and len(text) <= _MAX_HAN else None
        return None if value is None else (-value if negative else value, "%")
    match = _HAN_NUMBER.match(text)
    if not match or len(match.group()) > _MAX_HAN:
        return None
    # A place may begin a unit: 三千克 is three kilograms, 三千米 three kilometres.
    said, rest = match.group(), text[match.end() :]
    if rest[:1] in ("克", "米", "瓦", "焦", "帕", "赫", "牛", "欧", "伏", "卡") and said[-1] == "千" and len(said) > 1:
        said, rest = said[:-1], f"千{rest}"
    if rest.startswith("分之"):
        above = _HAN_NUMBER.fullmatch(rest[2:])
        numbers = (_han_integer(said), _han_integer(above.group()) if above else None)
        if not numbers[0] or numbers[1] is None:
            return None
        value = Fraction(numbers[1], numbers[0])
        rest = ""
    else:
        value = _han_decimal(said)
    return None if value is None else (-value if negative else value, rest)


def _han_decimal(text: str) -> Fraction | None:
    whole, stop, decimals = text.partition("点")
    value = _han_integer(whole)
    if value is None or not stop:
        return None if value is None else Fraction(value)
    if not decimals or not all(char in _HAN_DIGITS for char in decimals):
        return None
    return value + Fraction(int("".join(str(_HAN_DIGITS[char]) for char in decimals)), 10 ** len(decimals))


def _han_integer(text: str) -> int | None:
    """三千零五十万: digits with places below ten thousand, in groups of 万 and 亿."""
    total, below = 0, 10**12
    for scale, value in (("亿", 10**8), ("万", 10**4)):
        head, found, tail = text.partition(scale)
        if found:
            part = _han_below_10000(head)
            if not part or value >= below:
                return None
            total, below, text = total + part * value, value, tail
    if not text:
        return total or None
    last = _han_below_10000(text)
    return None if last is None else total + last


def _han_below_10000(text: str) -> int | None:
    if text in ("零", "〇"):
        return 0
    total, below, digit = 0, 10_000, None
    for i, char in enumerate(text):
        if char in _HAN_PLACES:
            place = _HAN_PLACES[char]
            if place >= below or (digit is None and not (place == 10 and i == 0)) or digit == 0:
                return None
            total, below, digit = total + (1 if digit is None else digit) * place, place, None
        elif char in "零〇":
            if digit is not None:
                return None
        elif char in _HAN_DIGITS and digit is None:
            digit = _HAN_DIGITS[char]
        else:
            return None
    return total + (digit or 0)
