"""An order of things.

Answer and gold are sequences: items separated by commas, semicolons, ">", "->", "→", "|", "/", "then", "before",
"followed by" or line breaks; a JSON list; bracketed items side by side ("(2)(1)(3)", "<image 2><image 1>"); letters or
digits separated by spaces or hyphens, or run together ("BCA", "bca", "213"); or a numbered list ("1. B", "2. A" on
lines of their own), whose numbers count the places. An item is compared as words without brackets and without a leading
"image", "frame", "picture", "step", "event" or "option", the first one without "first" and the last one without "last";
a number or ordinal in words is that number. Where the question has options, an option's letter, number and text are one
item; without options a letter is not a number, because events A to D and frames 1 to 4 can be matched either way.
Correct is the same sequence; nothing is given for a part of it or for the reverse, and "<" is no separator because it
reverses the order. A gold of fewer than two items or with an item twice abstains.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from string import ascii_lowercase

from cinema_verl.verify.number_words import read_words
from cinema_verl.verify.reading import fold, peel, without_looks, words
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

_SEPARATOR = re.compile(
    r"\s?(?:,\s?(?:and\b\s?)?(?:then\b|next\b|finally\b|followed\sby\b)?|-{1,3}>|(?<=\s)-(?=\s)|={1,3}>|>>|[→⇒⟶⟹➔➜➡⇨➝►]"
    r"|\\(?:long)?(?:right|Right)arrow(?![A-Za-z])|\\(?:to|gt|implies)(?![A-Za-z])|[;>|\n/]"
    r"|\b(?:(?:and\s)?then|and|before|(?:is\s)?followed\sby|precedes|comes\sbefore)\b"
    r"|(?<=[)\]>])(?=\s?[(\[<])|然后|再|接着)\s?",
    re.IGNORECASE,
)
_ANGLED = re.compile(
    r"<\s?(?=(?:image|img|frame|picture|video|clip|photo|figure|fig|step|event|option)[ _\-#]?\w)([^<>]*)>", re.I
)
_SHORT_ITEMS = re.compile(r"(?:[A-Za-z]|\d{1,3})(?:\s?-?\s?(?<=[\s-])(?:[A-Za-z]|\d{1,3}))+")
_KIND = re.compile(
    r"(?:the\s)?(?:images?|img|frames?|pictures?|pics?|photos?|panels?|figures?|fig\.?|steps?|events?|options?|clips?|scenes?|videos?"
    r"|items?|numbers?|no\.?|图片?|图像|照片|画面|帧|步骤?|事件|选项)[ _\-]?\s?#?\s?(?=\S)|#\s?(?=\w)",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"第\s?(\d{1,3}|[一二三四五六七八九十]{1,3})\s?(?:张|幅|个|步|帧|件)?(?:图片?|图像|照片|事件|步骤)?"
)
_ORDINAL = re.compile(
    r"(?:the\s)?(\d{1,3})(?:st|nd|rd|th)(?:\s(?:image|frame|picture|photo|step|event|panel|clip))?", re.IGNORECASE
)
_LEAD_IN = re.compile(
    r"(?:the\s)?(?:(?:correct|right|proper|final|chronological|temporal)\s){0,2}(?:order|sequence|ordering|arrangement)"
    r"\b(?:\s(?:of|from|for)\s[\w ]{1,40}?(?=\sis\b|\sshould\b|\s?:))?(?:\s(?:is|should\sbe)(?:\sas\sfollows)?\b)?"
    r"\s?:?\s?(?=\S)"
    r"|(?:正确的?)?(?:的)?(?:顺序|排序)(?:应该?)?[是为]?\s?:?\s?(?=\S)",
    re.IGNORECASE,
)
_FIRST = re.compile(r"^first(?:ly)?\b[,:]?\s(?=\S)|(?<=\w)\s(?:(?:comes|is|goes)\s)?first$", re.IGNORECASE)
_LAST = re.compile(r"^(?:finally|lastly|last)\b[,:]?\s(?=\S)|(?<=\w)\s(?:(?:comes|is|goes)\s)?last$", re.IGNORECASE)
_ORDINALS = dict(
    first="1", second="2", third="3", fourth="4", fifth="5", sixth="6", seventh="7", eighth="8", ninth="9", tenth="10"
)
_ORDINAL_WORD = re.compile(r"([a-z]+)(?:\s(?:one|image|frame|picture|photo|step|event|panel|clip))?")
_LABELLED = re.compile(r"\(?([a-z]|\d{1,2})[.):]+\s?(\S.*)")
_NUMBERED = re.compile(r"\(?(\d{1,2})[.):]\s?(\S.*)")


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def read(text: str) -> tuple[str, ...] | None:
    """The items in folded text, or None when there are fewer than two or one comes twice."""
    text = peel(text)
    if lead_in := _LEAD_IN.match(text):
        text = text[lead_in.end() :]
    if "<" in text:
        text = _ANGLED.sub(r"[\1]", text)
    text = peel(text)
    parts = _numbered(text) or _SEPARATOR.split(text)
    if len(parts) == 1:
        parts = _short(text)
    if len(parts) > 1:
        parts[0], parts[-1] = _FIRST.sub("", parts[0]), _LAST.sub("", parts[-1])
    items = [item(part) for part in parts]
    if len(items) < 2 or not all(items) or len(set(items)) != len(items):
        return None
    return tuple(items)


def _short(text: str) -> list[str]:
    """Letters or digits that stand side by side. Small letters only where they are the first ones: "bca", not "cab"
    of a longer alphabet, nor a word."""
    if _SHORT_ITEMS.fullmatch(text):
        return re.split(r"[\s-]+", text)
    if not text.isascii() or not text.isalnum():
        return [text]
    if text.isdigit() or (text.isalpha() and text.isupper()) or "".join(sorted(text)) == ascii_lowercase[: len(text)]:
        return list(text)
    return [text]


def _numbered(text: str) -> list[str] | None:
    """The items of a numbered list, one a line."""
    lines = text.split("\n")
    if len(lines) < 2:
        return None
    matches = [_NUMBERED.fullmatch(line.strip()) for line in lines]
    items = [match[2] for match in matches if match and match[1]]
    places = [int(match[1]) for match in matches if match]
    return items if places == list(range(1, len(lines) + 1)) else None


def item(text: str) -> str:
    """One spelling of an item: "3" for Image 3, #3, the third image and 第三张."""
    text = peel(text)
    if (counted := _COUNTED.fullmatch(text)) or (counted := _ORDINAL.fullmatch(text)):
        text = counted[1]
    text = without_looks(text)
    if kind := _KIND.match(text):
        text = text[kind.end() :]
    text = words(peel(text))
    if (ordinal := _ORDINAL_WORD.fullmatch(text)) and ordinal[1] in _ORDINALS:
        return _ORDINALS[ordinal[1]]
    value = read_words(text) if text and not text.isdigit() else None
    return str(value[0]) if value and not value[1] and value[0].denominator == 1 else text


def check(answer: str, gold: Gold) -> Verdict:
    expected = read(fold(gold.text))
    if expected is None:
        return ABSTAIN
    found = read(fold(answer))
    if found is None:
        return UNREADABLE
    if found != expected and gold.options:
        ours, theirs = places(found, gold.options), places(expected, gold.options)
        return CORRECT if ours is not None and ours == theirs else DIFFERENT
    return CORRECT if found == expected else DIFFERENT


def places(items: Sequence[str], options: Sequence[str]) -> tuple[int, ...] | None:
    """The options, counted from 0, that items of `read` are by text, letter, number, or letter and text; None where
    one is none of them."""
    texts = [words(peel(fold(option))) for option in options]
    found = [_place(item, texts) for item in items]
    return None if None in found else tuple(place for place in found if place is not None)


def _place(item: str, texts: Sequence[str]) -> int | None:
    if texts.count(item) == 1:
        return texts.index(item)
    if labelled := _LABELLED.fullmatch(item):
        place = _place(labelled[1], texts)
        return place if place is not None and texts[place] == words(peel(labelled[2])) else None
    place = int(item) - 1 if item.isdigit() else ascii_lowercase.find(item) if len(item) == 1 else -1
    return place if 0 <= place < len(texts) else None
