"""The five meta-actions, what a trajectory of them is, and when it is well formed (paper, meta-actions).

A trajectory is a sequence of actions written as ``<name>body</name>`` that ends with ``<answer>``; its
*pattern* is the sequence of names without the bodies. This module is the only grammar of the tags: prompts,
reward, cold start and report all read trajectories with :func:`parse`.

How text that breaks the rule is read
-------------------------------------
``parse`` takes any string, never raises on one, and needs one pass. What it recovers is defined for all of
them:

* A tag is exactly ``<name>`` or ``</name>``, lower case, one of the five names. Every other angle bracket
  (``x < 3``, ``<b>``, ``<think >``) is text; ``<Think>`` is text too, and is reported besides.
* An action is an opening tag, the *first* closing tag of the same name after it, and the text between. The
  five names are paired independently of one another, so a tag that is missing or misplaced costs its own
  action only: in ``<think>x<answer>B</answer>`` the answer is found, and ``<think>``, never closed, is no
  action. Where actions nest or overlap each of them counts, and a body holds the inner tags verbatim. In
  ``<answer>A<answer>B</answer>`` there is one action, whose body is ``A<answer>B``: a second try inside an
  answer spoils it instead of replacing it.
* ``actions`` and ``pattern`` hold the closed actions in the order of their opening tags.
* White space is Unicode white space. A body is empty when it has no visible character: zero-width and
  control characters do not fill one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

ANSWER: Final = "answer"
GLOBAL: Final = "global"
ACTIONS: Final = (GLOBAL, "focus", "hint", "think", ANSWER)
"""The five names, in the order in which the paper lists them."""

PATTERN_SEPARATOR: Final = ">"


class Tags(NamedTuple):
    """The two tags of one action."""

    open: str
    close: str


TAGS: Final = MappingProxyType({name: Tags(f"<{name}>", f"</{name}>") for name in ACTIONS})


class ViolationCode(str, Enum):
    """The rules that a trajectory can break. A member equals its text, which is stable: it is a metric's suffix."""

    UNCLOSED_TAG = "unclosed_tag"  # an opening tag whose closing tag never comes
    STRAY_CLOSING_TAG = "stray_closing_tag"  # a closing tag with nothing of its name open
    NESTED_TAG = "nested_tag"  # an opening tag inside the body of a closed action
    UPPER_CASE_TAG = "upper_case_tag"  # <Think>: one of the five, not in lower case
    TEXT_OUTSIDE = "text_outside"  # anything but white space while no action is open
    EMPTY_BODY = "empty_body"  # an action without a visible character
    NO_ACTION = "no_action"  # no closed action besides answers
    STARTS_WITH_ANSWER = "starts_with_answer"  # the first closed action is an answer
    NO_ANSWER = "no_answer"  # no closed answer
    SEVERAL_ANSWERS = "several_answers"  # two or more closed answers
    ANSWER_NOT_LAST = "answer_not_last"  # another action opens after the first answer
    GLOBAL_ON_SINGLE_IMAGE = "global_on_single_image"  # needs the number of images: see violations_for
    REMOVED_ACTION = "removed_action"  # an action that the prompt's mode takes out: see violations_for


# Anything shaped like one of the five, in any case; _TAG_MEANS then says which it is. A regex that named the five and
# ignored case would be half as fast, and would take the Kelvin sign for a k.
_TAG_SHAPE = re.compile(r"</?[A-Za-z]{4,6}>")
_TAG_MEANS: Final = {tags.open: (name, True) for name, tags in TAGS.items()} | {
    tags.close: (name, False) for name, tags in TAGS.items()
}
# An action whose body holds no "<", and the white space behind it. Most well-formed trajectories are a row of these,
# which needs no scanner.
_PLAIN_ACTION = re.compile(rf"<({'|'.join(ACTIONS)})>([^<]*)</\1>(\s*)")
# White space, controls, soft hyphen, zero-width and direction marks, fillers, blank braille, byte-order mark.
_VISIBLE = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]"
)


class Violation(NamedTuple):
    """One broken rule: its code and the character offset where it first shows (the end, for what is missing)."""

    code: ViolationCode
    position: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What :func:`parse` recovered from a text.

    Attributes:
        actions: the closed actions as ``(name, body)``, bodies verbatim, in the order of their opening tags.
        answer: body of the answer without surrounding white space when there is exactly one closed answer,
            whatever other rule is broken; otherwise None.
        violations_at: every rule the text breaks, each code once, at its first position, in the order of positions. A
            rule that needs the number of images is not among them; see :meth:`violations_for`.
    """

    actions: tuple[tuple[str, str], ...]
    answer: str | None
    violations_at: tuple[Violation, ...]

    @property
    def pattern(self) -> str:
        """The names of the actions, ``"global>focus>think>answer"``; empty when there is none."""
        return PATTERN_SEPARATOR.join([name for name, _ in self.actions])

    @property
    def violations(self) -> tuple[str, ...]:
        """The codes of :attr:`violations_at`, as plain strings."""
        return tuple([code.value for code, _ in self.violations_at])

    def violations_for(self, num_images: int, removed: str | None = None) -> tuple[str, ...]:
        """All codes for a question over ``num_images`` images, asked without the action ``removed``.

        ``global`` relates images, so it needs two; an action that an ablation takes out may not be used.
        """
        codes = self.violations
        if num_images == 1 and any(name == GLOBAL for name, _ in self.actions):
            codes = (*codes, ViolationCode.GLOBAL_ON_SINGLE_IMAGE.value)
        if removed and any(name == removed for name, _ in self.actions):
            codes = (*codes, ViolationCode.REMOVED_ACTION.value)
        return codes

    def is_well_formed(self, num_images: int) -> bool:
        """Whether R_format is 1: no violation, for a question over ``num_images`` images."""
        return not self.violations_for(num_images)


def parse(text: str) -> Trajectory:
    """Read a trajectory by the rules above; linear in ``len(text)``, and no string makes it raise.

    Raises:
        TypeError: ``text`` is not a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"parse() needs the trajectory as str, got {type(text).__name__}")

    if plain := _parse_plain(text):
        return plain

    first_at: dict[ViolationCode, int] = {}  # code -> first position
    open_at: dict[str, tuple[int, int]] = {}  # name -> (start of its tag, start of its body); at most five entries
    tag_inside: dict[str, int] = {}  # name that is open -> first opening tag seen inside its body
    closed: list[tuple[int, str, str]] = []  # (start, name, body), in the order of the closing tags
    outside_from = 0  # where the text that belongs to no action begins; read only while nothing is open

    for match in _TAG_SHAPE.finditer(text):
        tag = match.group()
        start, end = match.span()
        if tag not in _TAG_MEANS:
            if tag.lower() in _TAG_MEANS:
                first_at.setdefault(ViolationCode.UPPER_CASE_TAG, start)
            continue
        name, opens = _TAG_MEANS[tag]
        if not open_at and start != outside_from:
            _check_outside(text, outside_from, start, first_at)
        if opens:
            for outer in open_at:
                tag_inside.setdefault(outer, start)
            open_at.setdefault(name, (start, end))
        elif name in open_at:
            opened, body_start = open_at.pop(name)
            body = text[body_start:start]
            if not _VISIBLE.search(body):
                first_at[ViolationCode.EMPTY_BODY] = min(opened, first_at.get(ViolationCode.EMPTY_BODY, opened))
            if name in tag_inside:
                inner = tag_inside.pop(name)
                first_at[ViolationCode.NESTED_TAG] = min(inner, first_at.get(ViolationCode.NESTED_TAG, inner))
            closed.append((opened, name, body))
        else:
            first_at.setdefault(ViolationCode.STRAY_CLOSING_TAG, start)
        outside_from = end

    if open_at:
        first_at[ViolationCode.UNCLOSED_TAG] = min(start for start, _ in open_at.values())
    elif outside_from != len(text):
        _check_outside(text, outside_from, len(text), first_at)
    if (
        ViolationCode.NESTED_TAG in first_at
    ):  # only then can the order of the closing tags differ from that of the opening tags
        closed.sort()

    answers = [i for i, (_, name, _) in enumerate(closed) if name == ANSWER]
    _check_sequence(closed, answers, len(text), first_at)
    return Trajectory(
        actions=tuple([(name, body) for _, name, body in closed]),
        answer=closed[answers[0]][2].strip() if len(answers) == 1 else None,
        violations_at=tuple([Violation(*item) for item in sorted(first_at.items(), key=_by_position)]),
    )


def _parse_plain(text: str) -> Trajectory | None:
    """The well-formed trajectory that is a row of plain actions, or None: what the scanner finds, in half the time."""
    found: list[tuple[str, str, str]] = _PLAIN_ACTION.findall(text)
    length, last = 0, len(found) - 1
    for i, (name, body, gap) in enumerate(found):
        if (name == ANSWER) != (i == last) or not _VISIBLE.search(body):
            return None
        length += 2 * len(name) + len(body) + len(gap) + 5  # the brackets and the slash
    if last < 1 or length != len(text):
        return None
    return Trajectory(
        actions=tuple([(name, body) for name, body, _ in found]), answer=found[last][1].strip(), violations_at=()
    )


def _check_outside(text: str, start: int, end: int, first_at: dict[ViolationCode, int]) -> None:
    """Add the violation when ``text[start:end]``, which belongs to no action, is more than white space."""
    if ViolationCode.TEXT_OUTSIDE not in first_at:
        gap = text[start:end]
        if not gap.isspace():
            first_at[ViolationCode.TEXT_OUTSIDE] = end - len(gap.lstrip())


def _check_sequence(
    closed: list[tuple[int, str, str]], answers: list[int], length: int, first_at: dict[ViolationCode, int]
) -> None:
    """Add the violations that are about the order of the closed actions; ``answers`` indexes into ``closed``."""
    if len(answers) == len(closed):
        first_at[ViolationCode.NO_ACTION] = closed[0][0] if closed else length
    if not answers:
        first_at[ViolationCode.NO_ANSWER] = length
        return
    first = answers[0]
    if first == 0:
        first_at[ViolationCode.STARTS_WITH_ANSWER] = closed[0][0]
    if len(answers) > 1:
        first_at[ViolationCode.SEVERAL_ANSWERS] = closed[answers[1]][0]
    if first + 1 < len(closed):
        first_at[ViolationCode.ANSWER_NOT_LAST] = closed[first + 1][0]


def _by_position(item: tuple[ViolationCode, int]) -> tuple[int, str]:
    code, position = item
    return position, code


def _exact(names: list[str]) -> list[str]:
    return names


def _collapsed(names: list[str]) -> list[str]:
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def _set(names: list[str]) -> list[str]:
    present = set(names)
    return [name for name in ACTIONS if name in present]


_MODES: Final[dict[str, Callable[[list[str]], list[str]]]] = {
    "exact": _exact,
    "collapsed": _collapsed,
    "set": _set,
}
PATTERN_MODES: Final = tuple(_MODES)


def pattern_in_mode(pattern: str, mode: str) -> str:
    """What counts as the same pattern when a group's homogeneity is measured.

    Args:
        pattern: an exact pattern, as :attr:`Trajectory.pattern` gives it.
        mode: ``exact``, the paper's: the sequence as it is. ``collapsed``: a run of one action counts once, so that
            repeating an action is not a new pattern. ``set``: which actions occur, in the order of ``ACTIONS``.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in _MODES:
        raise ValueError(f"unknown pattern mode {mode!r}; known: {', '.join(PATTERN_MODES)}")
    if not pattern:
        return pattern
    return PATTERN_SEPARATOR.join(_MODES[mode](pattern.split(PATTERN_SEPARATOR)))


def pattern_of(trajectory: Trajectory, mode: str = "exact") -> str:
    """The pattern of a trajectory in one of ``PATTERN_MODES``; see :func:`pattern_in_mode`."""
    return pattern_in_mode(trajectory.pattern, mode)
