"""Yes or no.

Yes is one of yes, y, true, t, correct, right, a tick and their Chinese and Japanese kin (是, 对, 真, はい); no is one
of no, n, false, f, incorrect, wrong, a cross and theirs (否, 不是, 错, 假, いいえ). An answer is that word alone, in
any case and wrapping, or the word, a comma, stop, colon, dash or bracket, and a remark, provided that the remark holds
no word of the other side and neither alternatives nor doubt. Everything else is unreadable: "I do not know" is not
"no", and "yes and no" is neither. Gold and answer are read alike; a gold that is neither abstains.
"""

import re

from cinema_verl.verify.reading import fold, peel
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

_SIDE = {
    **dict.fromkeys(("yes", "y", "true", "t", "correct", "right", "yeah", "yep", "√", "✓", "✔"), True),
    **dict.fromkeys(("是", "是的", "对", "对的", "真", "真的", "正确", "正确的", "有", "はい", "正しい"), True),
    **dict.fromkeys(("no", "n", "false", "f", "incorrect", "wrong", "nope", "×", "✗", "✘"), False),
    **dict.fromkeys(("否", "不", "不是", "不是的", "不对", "错", "错的", "错误", "错误的"), False),
    **dict.fromkeys(("不正确", "假", "假的", "没有", "いいえ", "正しくない"), False),
}
_REMARK = re.compile(r"\s*(?:[,.;:]|\n|\s-+\s|(?<=\s)(?=\())\s*")
# What a remark must not hold, by the side that the first word took.
_AGAINST = {
    True: re.compile(r"\b(?:no|not|false|incorrect|wrong)\b|n't\b|否|不|错|假|没", re.IGNORECASE),
    False: re.compile(r"\b(?:yes|true|correct)\b|(?<!不)(?:是的|对的|正确|真)", re.IGNORECASE),
}
_DOUBT = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|could|might|unsure|sure|unknown|unclear|know|idea|cannot|depends"
    r"|either|neither|but)\b|[?]|或|可能|也许|但",
    re.IGNORECASE,
)


def _word(text: str) -> bool | None:
    """Which side folded text is, when it is nothing but that word."""
    side = _SIDE.get(text.casefold())
    return side if side is not None else _SIDE.get(peel(text.rstrip("!")).casefold())


def read(text: str) -> bool | None:
    """Which side a text takes, or None."""
    text = fold(text)
    side = _word(text)
    separator = None if side is not None else _REMARK.search(text := peel(text))
    if not separator:
        return side
    side, remark = _word(text[: separator.start()]), text[separator.end() :]
    if side is None or _AGAINST[side].search(remark) or _DOUBT.search(remark):
        return None
    return side


def check(answer: str, gold: Gold) -> Verdict:
    expected = read(gold.text)
    if expected is None:
        return ABSTAIN
    found = read(answer)
    if found is None:
        return UNREADABLE
    return CORRECT if found == expected else DIFFERENT
