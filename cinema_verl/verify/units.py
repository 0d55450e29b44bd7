"""Units: all spellings of one unit, alone or in a quotient, product or power.

``9.8 m/s²``, ``m s^{-2}``, ``meters per second squared`` and ``米/秒²`` are one unit. Nothing is converted: kilometres
are not metres, and kW·h is not joules. A spelling that may be several units ("pounds", "¥") agrees with each of them.
"""

import re
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from cinema_verl.verify.counted import is_counted


class Standing(IntEnum):
    """How sure it is that what stands behind a number is its unit."""

    UNKNOWN = 0  # "3 frogs", "2x", "2L/g": no unit of ours, and perhaps variables
    LIKELY = 1  # "300 K": a unit, or one variable behind a space; "5 apples": what is counted
    SURE = 2


class Unit(NamedTuple):
    """A unit by its one name, "" for none, and how sure it is that it is one."""

    name: str
    standing: Standing


class _Factor(NamedTuple):
    name: str
    power: int
    one_letter: bool


NONE: Final = Unit("", Standing.SURE)

# A unit's name, and its other spellings ("_" for a space). English plurals with an s need not be listed.
_NAMED: Final = """
%: percent per_cent percentage pct
‰: permille per_mille
°: degree deg 度
°C: C celsius degrees_celsius degree_celsius deg_C degrees_C degree_C 摄氏度
°F: F fahrenheit degrees_fahrenheit degree_fahrenheit deg_F degrees_F degree_F 华氏度
rad: radian 弧度
arcmin: ' arcminute minutes_of_arc
arcsec: " '' arcsecond seconds_of_arc
sr: steradian
m: meter metre 米 公尺
in: inch inches 英寸
ft: foot feet 英尺
yd: yard 码
mi: mile 英里
nmi: nautical_mile 海里
light-years: light_year light-year 光年
AU: astronomical_unit 天文单位
Å: angstrom 埃
units: unit 单位 个单位
units^2: square_unit sq_unit 平方单位
units^3: cubic_unit cu_unit 立方单位
acres: acre 英亩
ha: hectare 公顷
亩: 市亩
L: l liter litre 升 公升
gal: gallon 加仑
qt: quart
pints: pint 品脱
cups: cup 杯
tablespoons: tablespoon tbsp
teaspoons: teaspoon tsp
fl oz: fluid_ounce
g: gram gramme gm 克
t: tonne metric_ton 吨
tons: ton
lb: lbs 磅
oz: ounce 盎司
斤: 市斤
两: 市两
s: sec second 秒 秒钟
min: minute mins 分钟
h: hr hour hrs 小时 个小时 时
days: day 天 日
weeks: week wk 周 星期 个星期
months: month mo 月 个月
years: year yr 年 岁 周岁
decades: decade
centuries: century 世纪
knots: knot kn 节
rpm: 转/分 转每分
rev: revolution r 转 圈
N: newton 牛 牛顿
J: joule 焦 焦耳
W: watt 瓦 瓦特
hp: horsepower 马力
V: volt 伏 伏特
A: amp ampere 安 安培
Ω: ohm 欧 欧姆
coulomb: 库 库仑
farad: 法 法拉
H: henry henries 亨 亨利
T: tesla 特斯拉
Wb: weber 韦伯
S: siemens 西门子
Hz: hertz 赫 赫兹
Pa: pascal 帕 帕斯卡
bar:
atm: atmosphere 大气压 标准大气压
mmHg: mm_Hg 毫米汞柱
torr:
psi:
cal: calorie 卡 卡路里
kcal: kilocalorie Cal 千卡 大卡
eV: electronvolt electron_volt electron-volt 电子伏 电子伏特
mol: mole 摩 摩尔
mol/L: molar
u: amu dalton
K: kelvin 开 开尔文
candela: 坎德拉
lumens: lumen 流明
lux: 勒克斯
diopters: diopter dioptre 屈光度
dB: decibel 分贝
Bq: becquerel
Gy:
Sv: sievert
bytes: byte 字节
bits: bit 比特
KB: kB kilobyte
MB: megabyte
GB: gigabyte
TB: terabyte
PB: petabyte
KiB: kibibyte
MiB: mebibyte
GiB: gibibyte
Kb: kb kbit kilobit
Mb: Mbit megabit
Gb: Gbit gigabit
px: pixel 像素
dpi:
$: dollar usd USD US$ 美元 美金
¢: cent 美分
€: euro eur EUR 欧元
£: gbp GBP pounds_sterling pound_sterling 英镑
yuan: rmb RMB cny CNY 元 块 块钱 人民币 圆
yen: jpy JPY 日元 円
角: 毛
₹: rupee inr INR Rs Rs. 卢比
NT$: ntd 新台币
A$: aud
C$: cad
S$: sgd
₽: ruble rouble 卢布
₩: won krw KRW 韩元
HK$: hkd HKD 港元 港币
francs: franc CHF 法郎
pence: penny
times: time 次 遍 倍
ways: way 种 种方法
ppm: parts_per_million
images: image picture photo frame 张 幅
people: person 人 名 位
items: item object piece 个 只 件 条 根 支 枚 颗 粒 棵 朵 本 辆 台 把 套 份 头 匹 座 栋 盒 箱 瓶 袋 双 对
points: point 分数
students: student
marks: mark
th: st nd rd
pounds: pound
¥:
分:
点:
"""
_PREFIXES: Final = {
    "p": "pico", "n": "nano", "μ": "micro", "m": "milli", "c": "centi", "d": "deci", "h": "hecto", "k": "kilo",
    "M": "mega", "G": "giga", "T": "tera",
}  # fmt: skip
# Symbol, words, and the prefixes that they are used with.
_SI: Final = (
    ("m", "meter metre", "p n μ m c d h k"), ("g", "gram gramme", "p n μ m c d h k"), ("s", "second", "p n μ m"),
    ("L", "liter litre", "μ m c d h k"), ("N", "newton", "m k M"), ("J", "joule", "m k M G"),
    ("W", "watt", "μ m k M G"),
    ("V", "volt", "μ m k M"), ("A", "amp ampere", "n μ m k"), ("Ω", "ohm", "m k M"), ("C", "coulomb", "p n μ m"),
    ("F", "farad", "p n μ m"), ("H", "henry", "μ m"), ("T", "tesla", "μ m"), ("Hz", "hertz", "k M G T"),
    ("Pa", "pascal", "h k M G"), ("eV", "electronvolt", "m k M G T"), ("mol", "mole", "n μ m k"),
    ("S", "siemens", "μ m"), ("Wb", "weber", "m"), ("Sv", "sievert", "μ m"), ("Gy", "", "m"),
    ("Bq", "becquerel", "k M G"), ("bar", "", "m"),
)  # fmt: skip
_HAN: Final = {
    "km": "千米 公里", "cm": "厘米 公分", "dm": "分米", "mm": "毫米", "μm": "微米", "nm": "纳米", "mL": "毫升",
    "kg": "千克 公斤", "mg": "毫克", "ms": "毫秒", "kW": "千瓦", "kJ": "千焦", "kPa": "千帕", "MPa": "兆帕",
    "kN": "千牛", "kHz": "千赫", "MHz": "兆赫", "mA": "毫安", "mV": "毫伏", "kV": "千伏", "kΩ": "千欧",
}  # fmt: skip
_MAY_BE: Final = {
    "pounds": ("£", "lb"), "¥": ("yuan", "yen"), "°C": ("coulomb",), "°F": ("farad",),
    "arcmin": ("ft",), "arcsec": ("in",), "tons": ("t",),
    "分": ("min", "points", "¢"), "点": ("h", "points"),
}  # fmt: skip
_SHORT_FOR: Final = {"°": ("°C", "°F"), "oz": ("fl oz",)}
"""What an answer may write for the gold's unit, and not the other way round: 60° is an angle, which 60 °C is not."""
_LETTERS: Final = frozenset("KTHStur")
"""Symbols that are a variable where they touch the number (3T), and may be one behind a space. Not M, B and k: those
are also millions, billions and thousands."""
_PRODUCTS: Final = frozenset(
    (
        "cd",
        "dg",
        "dm",
        "ha",
        "hg",
        "hm",
        "hp",
        "kn",
        "mo",
        "ms",
        "ns",
        "pg",
        "pm",
        "ps",
        "pt",
        "qt",
        "sr",
        "uL",
        "ug",
        "um",
        "us",
        "wk",
        "yd",
    )
)
"""Symbols that may as well be a product of variables where they touch the number."""
_SET_APART: Final = _PRODUCTS - {"pm", "us"}
"""Of these, what is a unit behind a number and a space in an expression, too: 5 dm; not 3 pm, and not "us"."""
_COUNTS: Final = frozenset(("times", "ways", "images", "people", "items", "points", "students", "marks", "th", "rev"))
"""What has no square: "5 times 2" is no unit behind 5."""
_SPELT: Final = {
    # quotients and products that have a spelling of their own
    "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mph": "mi/h", "fps": "ft/s", "psi": "lb/in^2", "cc": "cm^3",
    "bps": "bits/s", "kbps": "Kb/s", "Kbps": "Kb/s", "Mbps": "Mb/s", "Gbps": "Gb/s", "kWh": "kW·h", "MWh": "MW·h",
    "Wh": "W·h", "Ah": "A·h",
    "mAh": "mA·h", "Nm": "N·m", "kNm": "kN·m", "N m": "N·m", "kN m": "kN·m", "kW h": "kW·h", "J s": "J·s", "N s": "N·s",
    "ft lb": "ft·lb", "lb ft": "ft·lb", "ms^-1": "m/s", "ms^-2": "m/s^2", "sqm": "m^2", "sqft": "ft^2", "平米": "m^2",
    "rev/min": "rpm", "r/min": "rpm",
}  # fmt: skip
# What single letters make that is a unit: where it touches the number, and behind a space. Others may be a quotient of
# variables (2L/g).
_USUAL_GLUED: Final = "m^2 m^3 m/s m/s^2"
_USUAL: Final = (
    f"{_USUAL_GLUED} N/m N·m N/m^2 N/C V/m J/s J/K J/g W/m^2 A/m C/m^2 L/s L/h g/L J·s N·s W·h A·h m^3/s m^2/s L/m^2 "
    "V·s Ω·m J/m^3 T·m m/h"
)
_MAX_UNIT: Final = 48  # our choice: "kilograms per cubic centimeter" has 30


def _named() -> dict[str, str]:
    """Every spelling of a simple unit, with the unit's name; words in lower case."""
    found: dict[str, str] = {}
    for line in _NAMED.strip().splitlines():
        name, _, others = line.partition(":")
        for spelling in (name, *(other.replace("_", " ") for other in others.split())):
            found[spelling] = name
            if len(spelling) > 2 and spelling.isascii() and spelling[-1].islower() and spelling[-1] != "s":
                found[f"{spelling}s"] = name
    for symbol, words, prefixes in _SI:
        for prefix in prefixes.split():
            name = found[prefix + symbol] = prefix + symbol
            if prefix == "μ":
                found[f"u{symbol}"] = name
            for word in words.split():
                found |= dict.fromkeys((_PREFIXES[prefix] + word, f"{_PREFIXES[prefix]}{word}s"), name)
    for name, spellings in _HAN.items():
        found |= dict.fromkeys(spellings.split(), name)
    return found | {"ml": "mL", "μl": "μL"}


_NAME_OF: Final = _named()
_HAN_UNIT = "|".join(
    sorted((text for text in _NAME_OF if text[0] >= "\u3400" and "/" not in text), key=len, reverse=True)
)
_TOKEN = re.compile(
    r"\s?(?:(?P<over>/|\bper\b|每)|(?P<times>[·*×.]|-(?=[A-Za-z]))|(?P<bracket>[()])"
    r"|(?P<square>\b(?:square|sq)\b\.?|平方)|(?P<cubic>\b(?:cubic|cu)\b\.?|立方)"
    r"|\^\s?\(?(?P<power>[-+]?\d)\)?(?!\d)|(?P<minus>-\d)(?!\d)|(?P<digit>(?<=[A-Za-z])[23])(?!\d)"
    r"|(?P<squared>\bsquared\b)|(?P<cubed>\bcubed\b)"
    rf"|(?P<atom>°\s?[CF]\b|[A-Z]{{1,2}}\$|[A-Za-zΩμÅ]+|{_HAN_UNIT}|''|[%‰°'\"$€£¥₹₽₩¢]))"
)


def _atom(text: str) -> str | None:
    """The name of a simple unit; case tells symbols apart (mm, Mm) and tells nothing about words."""
    return _NAME_OF.get(text) or (_NAME_OF.get(text.casefold()) if len(text) > 2 else None)


def same(unit: str, gold: str) -> bool:
    """Whether a unit may be the gold's, both by their names."""
    return (
        unit == gold
        or gold in _MAY_BE.get(unit, ())
        or unit in _MAY_BE.get(gold, ())
        or gold in _SHORT_FOR.get(unit, ())
    )


@lru_cache(maxsize=4096)
def read(text: str, *, glued: bool = False) -> Unit:
    """The unit that ``text`` is; what is none keeps its spelling.

    Args:
        text: Folded, and without LaTeX (see ``reading.without_looks``).
        glued: Whether it touches its number, so that it may be a variable.
    """
    text = text.strip()
    if not text:
        return NONE
    if text in _LETTERS:
        return Unit(text, Standing.UNKNOWN) if glued else Unit(_NAME_OF[text], Standing.LIKELY)
    if glued and text in _PRODUCTS:
        return Unit(text, Standing.UNKNOWN)
    if name := _atom(text):
        return Unit(name, Standing.SURE)
    if len(text) > _MAX_UNIT:
        return Unit(text, Standing.UNKNOWN)
    is_said = not (glued and text.isascii()) and is_counted(text)
    return _compound(text, glued) or Unit(text, Standing.LIKELY if is_said else Standing.UNKNOWN)


def _compound(text: str, glued: bool) -> Unit | None:
    """A quotient, product or power of simple units, in one spelling; None where a part is no unit."""
    text = text.replace("{", "").replace("}", "").replace(" ^", "^").replace("^ ", "^").removesuffix(".")
    spelt = _SPELT.get(text)
    factors = _factors(spelt or text)
    if not factors:
        return None
    name = _name(factors)
    usual = _USUAL_NAMES_GLUED if glued else _USUAL_NAMES
    if spelt is None and all(factor.one_letter for factor in factors) and name not in usual:
        return Unit(name, Standing.UNKNOWN)
    return Unit(name, Standing.SURE)


def _name(factors: list[_Factor]) -> str:
    """The one spelling of a product: factors in alphabetical order, those below the line behind strokes."""
    powers: dict[str, int] = {}
    for name, power, _ in factors:
        powers[name] = powers.get(name, 0) + power
    above = [name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if power > 0]
    below = [name if power == -1 else f"{name}^{-power}" for name, power in sorted(powers.items()) if power < 0]
    return "/".join(("·".join(above) or "1", *below))


def _factors(text: str) -> list[_Factor] | None:
    """The simple units of a compound with their powers, in the order written; what follows a stroke is below the line.

    Two symbols side by side are a product only where an operator or a power shows that units are meant ("m s^-1").
    """
    factors: list[_Factor] = []
    sign, shape, position, shown = 1, 1, 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            return None
        position, kind, token = match.end(), match.lastgroup, match.group().strip()
        shown = shown or kind != "atom"
        if kind == "over":
            sign = -1
        elif kind in ("square", "cubic"):
            shape = 2 if kind == "square" else 3
        elif kind == "atom":
            ahead = _TOKEN.match(text, position)
            pair = _atom(f"{token} {ahead.group().strip()}") if ahead and ahead.lastgroup == "atom" else None
            position = ahead.end() if pair and ahead else position
            name = pair or _atom(token.replace(" ", ""))
            if name is None:
                return None
            factors.append(_Factor(name, sign * shape, len(token) == 1 and token.isascii() and token.isalpha()))
            shape = 1
        elif kind not in ("times", "bracket"):
            power = {"squared": 2, "cubed": 3}.get(kind or "") or int(
                match["power"] or match["minus"] or match["digit"]
            )
            if not factors or abs(factors[-1].power) != 1 or factors[-1].name in _COUNTS:
                return None
            factors[-1] = factors[-1]._replace(power=factors[-1].power * power)
    if shape != 1 or not (shown or len(factors) == 1) or any(factor.power == 0 for factor in factors):
        return None
    return factors


def _names(compounds: str) -> frozenset[str]:
    return frozenset(_name(_factors(text) or []) for text in compounds.split())


_USUAL_NAMES: Final = _names(_USUAL)
_USUAL_NAMES_GLUED: Final = _names(_USUAL_GLUED)


def spellings() -> dict[str, str]:
    """The spellings that are a unit wherever they stand, with the unit's name: simple ones, and usual compounds."""
    return _SPELLINGS


def set_apart() -> dict[str, str]:
    """Further spellings that are a unit behind a number and a space, and may be variables elsewhere."""
    return _APART


_APART: Final = {text: _NAME_OF[text] for text in _SET_APART if text in _NAME_OF}


def _spellings() -> dict[str, str]:
    unsure = _LETTERS | _PRODUCTS | {"'", '"', "''", "th", "st", "nd", "rd"}
    found = {text: name for text, name in _NAME_OF.items() if text not in unsure}
    lengths = ("mm", "cm", "dm", "m", "km", "in", "ft", "yd", "mi")
    words = [*(f"{prefix}met{end}s" for prefix in ("milli", "centi", "", "kilo") for end in ("er", "re"))]
    words += ["inches", "feet", "yards", "miles"]
    per = ["meters per second", "miles per hour", "kilometers per hour", "feet per second", "meters per second squared"]
    compounds = [
        *_SPELT,
        *_USUAL_GLUED.split(),
        "N·m",
        "N/m",
        "km/s",
        "cm/s",
        "km/h",
        "ft/s",
        "m/min",
        "g/cm^3",
        "kg/m^3",
    ]
    compounds += ["kJ/mol", "mol/L", *per, "米/秒", "米/分", "千米/时", "千米/小时"]
    compounds += [f"{unit}^{power}" for unit in lengths for power in (2, 3)]
    compounds += [f"{shape} {word}" for word in words for shape in ("square", "cubic", "sq", "cu")]
    compounds += [f"{shape}{unit}" for unit in ("毫米", "厘米", "分米", "米", "千米") for shape in ("平方", "立方")]
    for text in compounds:
        unit = read(text)
        if unit.standing is Standing.SURE:
            found[text] = unit.name
    return found


_SPELLINGS: Final = _spellings()
