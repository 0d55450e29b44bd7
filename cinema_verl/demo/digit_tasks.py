"""The demo's tasks: kinds of questions over handwritten digits, and their gold trajectories, before any image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cinema_verl.meta_action import ANSWER, GLOBAL, TAGS

Modality = Literal["multi", "frames", "single"]


@dataclass(frozen=True)
class DigitsProblem:
    """A question about digits, before any image is chosen, with the words of its gold trajectories.

    Attributes:
        digits: What the images show, in order.
        question: The question, without the images.
        answer, answer_type, options, aliases: As in the RL row.
        glance: Text of <global>: the relation across the images ("" for a single image).
        hint: Text of <hint>: what the question depends on.
        reason: Text of <think> once the digits are known. To pick images it says "7 in B" in every task, so that the
            policy has one phrase to learn, which it can look up in the readings ("B=7").
    """

    digits: tuple[int, ...]
    question: str
    answer: str
    answer_type: str
    glance: str
    hint: str
    reason: str
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A kind of question: `make` draws one problem from a random state."""

    name: str
    modality: Modality
    make: Callable[[random.Random], DigitsProblem]


# --- The tasks ----------------------------------------------------------------------------------------------


def image_letters(count: int) -> list[str]:
    return [chr(ord("A") + position) for position in range(count)]


def _largest(rng: random.Random) -> DigitsProblem:
    digits = tuple(rng.sample(range(10), rng.choice((2, 3, 4))))
    letters = image_letters(len(digits))
    winner = letters[digits.index(max(digits))]
    return DigitsProblem(
        digits=digits,
        question="Which image shows the largest digit?",
        answer=winner,
        answer_type="mcq",
        options=tuple(f"Image {letter}" for letter in letters),
        glance=f"from {min(digits)} up to {max(digits)}",
        hint="only the value counts",
        reason=f"{max(digits)} in {winner} is largest",
    )


def _sum(rng: random.Random) -> DigitsProblem:
    digits = (rng.randrange(10), rng.randrange(10))
    total = sum(digits)
    return DigitsProblem(
        digits=digits,
        question="What is the sum of the digits?",
        answer=str(total),
        answer_type="number",
        glance=f"{len(digits)} digits to add",
        hint="add each digit once",
        reason="+".join(map(str, digits)) + f"={total}",
    )


def _odd_one_out(rng: random.Random) -> DigitsProblem:
    common, odd = rng.sample(range(10), 2)
    count = rng.choice((3, 4))
    place = rng.randrange(count)
    digits = tuple(odd if position == place else common for position in range(count))
    letter = image_letters(count)[place]
    return DigitsProblem(
        digits=digits,
        question="Which image is the odd one out?",
        answer=letter,
        answer_type="mcq",
        options=tuple(f"Image {each}" for each in image_letters(count)),
        glance=f"most show {common}",
        hint="find the digit that repeats",
        reason=f"{common} repeats, {odd} in {letter} differs",
    )


def _order(rng: random.Random) -> DigitsProblem:
    digits = tuple(rng.sample(range(10), 3))
    letters = image_letters(3)
    ranked = sorted(zip(digits, letters, strict=True))
    return DigitsProblem(
        digits=digits,
        question="Order the images from smallest to largest digit.",
        answer=", ".join(letter for _, letter in ranked),
        answer_type="ordering",
        options=tuple(letters),
        glance="all digits differ",
        hint="start with the smallest",
        reason=", ".join(f"{digit} in {letter}" for digit, letter in ranked),
    )


def _same(rng: random.Random) -> DigitsProblem:
    count = rng.choice((2, 3))
    digits = [rng.randrange(10)] * count
    same = rng.random() < 0.5
    if not same:
        digits[rng.randrange(count)] = rng.choice([digit for digit in range(10) if digit != digits[0]])
    return DigitsProblem(
        digits=tuple(digits),
        question="Do all images show the same digit?",
        answer="yes" if same else "no",
        answer_type="yesno",
        glance="they look alike" if same else "they do not look alike",
        hint="one other digit is enough",
        reason=f"all show {digits[0]}" if same else f"{min(digits)} and {max(digits)} differ",
    )


def _count_even(rng: random.Random) -> DigitsProblem:
    digits = tuple(rng.randrange(10) for _ in range(rng.choice((2, 3, 4))))
    even = [letter for letter, digit in zip(image_letters(len(digits)), digits, strict=True) if digit % 2 == 0]
    return DigitsProblem(
        digits=digits,
        question="How many images show an even digit?",
        answer=str(len(even)),
        answer_type="number",
        glance=f"{len(digits)} digits to check",
        hint="zero is even",
        reason=f"even: {', '.join(even) or 'none'}",
    )


def _trend(rng: random.Random) -> DigitsProblem:
    digits = sorted(rng.sample(range(10), rng.choice((3, 4))))
    rising = rng.random() < 0.5
    if not rising:
        digits.reverse()
    word = "rise" if rising else "fall"
    return DigitsProblem(
        digits=tuple(digits),
        question="Do the digits rise or fall over time?",
        answer=word,
        answer_type="text",
        aliases=(f"they {word}", f"{word}s", "rising" if rising else "falling"),
        glance="growing over time" if rising else "shrinking over time",
        hint="first against last",
        reason=f"{digits[0]} to {digits[-1]} is a {word}",
    )


def _change(rng: random.Random) -> DigitsProblem:
    before, after = rng.sample(range(10), 2)
    count = rng.choice((3, 4))
    place = rng.randrange(1, count)
    letter = image_letters(count)[place]
    return DigitsProblem(
        digits=(before,) * place + (after,) * (count - place),
        question="At which frame does the digit change?",
        answer=letter,
        answer_type="mcq",
        options=tuple(f"Frame {each}" for each in image_letters(count)),
        glance=f"{before} turns into {after}",
        hint="compare each frame with the one before",
        reason=f"{after} in {letter} is new",
    )


def _read(rng: random.Random) -> DigitsProblem:
    digit = rng.randrange(10)
    return DigitsProblem(
        digits=(digit,),
        question="Which digit is shown?",
        answer=str(digit),
        answer_type="number",
        glance="",
        hint="look at the loops",
        reason=f"shaped like {digit}",
    )


def _greater(rng: random.Random) -> DigitsProblem:
    digit, bound = rng.sample(range(10), 2)
    larger = digit > bound
    return DigitsProblem(
        digits=(digit,),
        question=f"Is the digit greater than {bound}?",
        answer="yes" if larger else "no",
        answer_type="yesno",
        glance="",
        hint=f"the bound is {bound}",
        reason=f"{digit} is {'above' if larger else 'below'} {bound}",
    )


TASKS = (
    Task("largest", "multi", _largest),
    Task("sum", "multi", _sum),
    Task("odd_one_out", "multi", _odd_one_out),
    Task("order", "multi", _order),
    Task("same", "multi", _same),
    Task("count_even", "multi", _count_even),
    Task("trend", "frames", _trend),
    Task("change", "frames", _change),
    Task("read", "single", _read),
    Task("greater", "single", _greater),
)

# --- The gold trajectories ----------------------------------------------------------------------------------

# Paths through the meta-actions, all our choice: every first action, short and long ones, a repeated action. They
# are not equally good. A path that names no digit before it answers is a guess for a policy this small, one that
# names them and then reasons is nearly always correct: reinforcement learning has something to find out.
PATTERNS_OVER_MANY = (
    ("hint",),
    ("global",),
    ("global", "hint"),
    ("hint", "global"),
    ("focus",),
    ("focus", "focus"),
    ("hint", "focus"),
    ("global", "focus"),
    ("think",),
    ("focus", "think"),
    ("hint", "think"),
    ("hint", "focus", "think"),
    ("global", "focus", "think"),
)
PATTERNS_OVER_ONE = (  # the paper: no <global> when the input is a single image
    ("hint",),
    ("focus",),
    ("think",),
    ("focus", "hint"),
    ("focus", "think"),
    ("hint", "focus"),
    ("hint", "think"),
)


def trajectory(problem: DigitsProblem, actions: Sequence[str]) -> str:
    """The gold trajectory that takes this path, in tags.

    The digits are named by <focus>, half of the images each where it comes twice, and by <think> where no
    <focus> comes before it.
    """
    readings = [
        f"{letter}={digit}" for letter, digit in zip(image_letters(len(problem.digits)), problem.digits, strict=True)
    ]
    shares = _shares(readings, actions.count("focus"))
    seen = False
    parts: list[tuple[str, str]] = []
    for action in actions:
        if action == "focus":
            parts.append((action, ", ".join(next(shares))))
            seen = True
        elif action == "think":
            parts.append((action, problem.reason if seen else f"{', '.join(readings)}; {problem.reason}"))
        else:
            parts.append((action, problem.glance if action == GLOBAL else problem.hint))
    return "".join(f"{TAGS[name].open}{text}{TAGS[name].close}" for name, text in [*parts, (ANSWER, problem.answer)])


def _shares(readings: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """Cut the readings into `count` runs, the earlier ones longer."""
    start = 0
    for position in range(count):
        stop = start + -(-(len(readings) - start) // (count - position))
        yield readings[start:stop]
        start = stop
