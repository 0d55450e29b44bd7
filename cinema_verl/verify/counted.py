"""What is counted: the words behind a number that leave its value alone, "5 apples", "5 red balls", 5个苹果.

In English an upright plural, with up to two words before it. A word that does something to the number ("5 more apples",
"5 thousand apples", "5 halves", "5 pairs"), that is prose, or whose form is no plain plural is refused, because a wrong
answer that is accepted costs more than a right one that is not. A unit is not counted: it is read by `units`.
"""

import re
from functools import lru_cache
from typing import Final

_COUNTED = re.compile(r"(?:[a-z]{3,12} ){0,2}[a-z]{3,14}")
_IRREGULAR: Final = frozenset(("men", "women", "children", "sheep", "fish", "geese", "mice", "teeth", "deer", "cattle"))
_NUMERALS: Final = ("ths", "illion", "illions", "illiards", "googols")
_SINGULAR_ENDINGS: Final = ("ss", "us", "is")
_CHANGES: Final = frozenset(
    word
    for line in (
        # sums, comparisons, functions
        "about above added after almost another any arc base before below between beyond but choose complements",
        "conjugates cos cosec cosh cosines cot cross csc deg degree different digit divided dot down each either",
        "eliminated equal equals even every except excluding exponents extra factorial factorials fewer for from",
        "greater ints inverse inverses larger last least left less log logarithms logs lose loses lost minus minuses",
        "missing mod modulo more most multiples multiplied negative negatives neither next none nor not odd off only",
        "opposites other out over per percent percentages percents permutations plus pluses positive power powers",
        "raised ratio reciprocals remainders remaining right root sec short sin sine sines single sinh sqrt square",
        "squared subtract subtracted take taken tan tanh than the then times too two under wanted was were when where",
        "whole with without wrong",
        # parts and multiples
        "baker bakers billion billions couple couples crore crores double doubles dozen dozens eighths elevenths",
        "fifths fourths fraction fractions grands gross grosses half halves hundred hundreds hundredths lakh lakhs",
        "million millions moles myriads ninths pair pairs percentiles points quadruples quarter quarters quartets",
        "quintets quintuples score scores sets sevenths sins sixteenths sixths ten tens tenths third thirds thousand",
        "thousands thousandths trillion trillions trios triple triples triplets twelfths twice twins zero zeros",
        # letters
        "alpha alphas beta betas delta deltas epsilon gamma gammas lambda lambdas omega sigma theta thetas",
        # units that `units` does not know, and verbs that look like plurals
        "always carats chains does dyn dynes equals ergs false fathoms furlongs gives goes grains has his",
        "hogsheads inch inches its links makes maybe means nits parsecs perhaps poises quarts rods says slugs",
        "stones teslas therms this thus true units unless versus volts works yes",
    )
    for word in line.split()
)
_HAN_COUNTED = re.compile(r"[个只件条根支枚颗粒棵朵本辆台把套头匹座栋张幅名位块片间家场][\u4e00-\u9fff]{1,4}")
_HAN_CHANGES = re.compile("[半百千万亿多余几上下左右分之倍或和与不非没未无否约近超月年时天周度米克升元角]")


GROUPS: Final = frozenset(("couples", "pairs", "sets", "trios", "triplets", "quartets", "quintets"))
"""What is counted where the gold says so ("4 pairs"), and multiplies the number where only the answer does."""


@lru_cache(maxsize=4096)
def is_counted(text: str) -> bool:
    """Whether folded text that stands behind a number and a space (in Chinese, behind a number) only says what is
    counted."""
    if not text.isascii():
        return bool(_HAN_COUNTED.fullmatch(text)) and not _HAN_CHANGES.search(text)
    if not _COUNTED.fullmatch(text):
        return False
    words = text.split()
    last = words[-1]
    plural = last in _IRREGULAR or (last.endswith("s") and not last.endswith(_SINGULAR_ENDINGS))
    return plural and not any(word in _CHANGES or word.endswith(_NUMERALS) for word in words)
