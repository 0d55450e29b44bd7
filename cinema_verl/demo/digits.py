"""Multi-image reasoning over real handwritten digits: small enough to learn on two CPU cores, and verifiable.

The 1,797 digits that ship inside scikit-learn (8x8 scans, UCI "Optical Recognition of Handwritten Digits")
become 28x28 images, and questions over one to four of them: which is the largest, which is the odd one out,
does the sequence rise or fall. Train, validation and test questions are built from *disjoint digits*, so a
right answer on the test set means that the policy read handwriting it has never seen.

Images are named by letters and not by numbers, because a policy this small confuses a label with a digit when
the two share tokens.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from cinema_verl.data.schema import RL_SCHEMA, SFT_SCHEMA, image_cell, rl_row, sft_rows, write_parquet
from cinema_verl.meta_action import ANSWER, GLOBAL, TAGS

VERSION = 2  # of what is generated: raise it with every change that alters the files
IMAGE_SIZE = 28  # pixels a side: one merged vision token of Qwen2.5-VL (2 x 2 patches of 14)
_GLYPH_SIZE = 24  # the scan, scaled by 3, leaves room to move it
_SHIFTS = ((0, 0), (-2, -1), (2, 1), (-1, 2), (1, -2))  # (dx, dy) in pixels: cheap variety for 1,797 digits
_PIXELS = IMAGE_SIZE * IMAGE_SIZE
_ATTEMPTS = 1000  # at a question not asked before

# Share of each class's digits. Our choice: most go to training, and the test pool is large enough for
# thousands of different questions.
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}

Modality = Literal["multi", "frames", "single"]


@dataclass(frozen=True)
class Problem:
    """A question about digits, before any image is chosen, with the words of its gold trajectories.

    Attributes:
        digits: What the images show, in order.
        question: The question, without the images.
        answer, answer_type, options, aliases: As in the RL row.
        glance: What <global> says: the relation across the images ("" for a single image).
        hint: What <hint> says: what the question turns on.
        reason: What <think> says, the digits being known. Where it picks images it says "7 in B" in every task: one
            phrase to learn, looked up in the readings ("B=7"), serves them all.
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
    make: Callable[[random.Random], Problem]


@dataclass(frozen=True)
class Question:
    """A problem over chosen images: everything that an RL row and its two SFT rows need."""

    uid: str
    split: str
    task: Task
    problem: Problem
    images: tuple[str, ...]  # file names, one for each digit
    trajectories: tuple[str, str]
    prompt: str


# --- The tasks ----------------------------------------------------------------------------------------------


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + position) for position in range(count)]


def _largest(rng: random.Random) -> Problem:
    digits = tuple(rng.sample(range(10), rng.choice((2, 3, 4))))
    letters = _letters(len(digits))
    winner = letters[digits.index(max(digits))]
    return Problem(
        digits=digits,
        question="Which image shows the largest digit?",
        answer=winner,
        answer_type="mcq",
        options=tuple(f"Image {letter}" for letter in letters),
        glance=f"from {min(digits)} up to {max(digits)}",
        hint="only the value counts",
        reason=f"{max(digits)} in {winner} is largest",
    )


def _sum(rng: random.Random) -> Problem:
    digits = (rng.randrange(10), rng.randrange(10))
    total = sum(digits)
    return Problem(
        digits=digits,
        question="What is the sum of the digits?",
        answer=str(total),
        answer_type="number",
        glance=f"{len(digits)} digits to add",
        hint="add each digit once",
        reason="+".join(map(str, digits)) + f"={total}",
    )


def _odd_one_out(rng: random.Random) -> Problem:
    common, odd = rng.sample(range(10), 2)
    count = rng.choice((3, 4))
    place = rng.randrange(count)
    digits = tuple(odd if position == place else common for position in range(count))
    letter = _letters(count)[place]
    return Problem(
        digits=digits,
        question="Which image is the odd one out?",
        answer=letter,
        answer_type="mcq",
        options=tuple(f"Image {each}" for each in _letters(count)),
        glance=f"most show {common}",
        hint="find the digit that repeats",
        reason=f"{common} repeats, {odd} in {letter} differs",
    )


def _order(rng: random.Random) -> Problem:
    digits = tuple(rng.sample(range(10), 3))
    letters = _letters(3)
    ranked = sorted(zip(digits, letters, strict=True))
    return Problem(
        digits=digits,
        question="Order the images from smallest to largest digit.",
        answer=", ".join(letter for _, letter in ranked),
        answer_type="ordering",
        options=tuple(letters),
        glance="all digits differ",
        hint="start with the smallest",
        reason=", ".join(f"{digit} in {letter}" for digit, letter in ranked),
    )


def _same(rng: random.Random) -> Problem:
    count = rng.choice((2, 3))
    digits = [rng.randrange(10)] * count
    same = rng.random() < 0.5
    if not same:
        digits[rng.randrange(count)] = rng.choice([digit for digit in range(10) if digit != digits[0]])
    return Problem(
        digits=tuple(digits),
        question="Do all images show the same digit?",
        answer="yes" if same else "no",
        answer_type="yesno",
        glance="they look alike" if same else "they do not look alike",
        hint="one other digit is enough",
        reason=f"all show {digits[0]}" if same else f"{min(digits)} and {max(digits)} differ",
    )


def _count_even(rng: random.Random) -> Problem:
    digits = tuple(rng.randrange(10) for _ in range(rng.choice((2, 3, 4))))
    even = [letter for letter, digit in zip(_letters(len(digits)), digits, strict=True) if digit % 2 == 0]
    return Problem(
        digits=digits,
        question="How many images show an even digit?",
        answer=str(len(even)),
        answer_type="number",
        glance=f"{len(digits)} digits to check",
        hint="zero is even",
        reason=f"even: {', '.join(even) or 'none'}",
    )


def _trend(rng: random.Random) -> Problem:
    digits = sorted(rng.sample(range(10), rng.choice((3, 4))))
    rising = rng.random() < 0.5
    if not rising:
        digits.reverse()
    word = "rise" if rising else "fall"
    return Problem(
        digits=tuple(digits),
        question="Do the digits rise or fall over time?",
        answer=word,
        answer_type="text",
        aliases=(f"they {word}", f"{word}s", "rising" if rising else "falling"),
        glance="growing over time" if rising else "shrinking over time",
        hint="first against last",
        reason=f"{digits[0]} to {digits[-1]} is a {word}",
    )


def _change(rng: random.Random) -> Problem:
    before, after = rng.sample(range(10), 2)
    count = rng.choice((3, 4))
    place = rng.randrange(1, count)
    letter = _letters(count)[place]
    return Problem(
        digits=(before,) * place + (after,) * (count - place),
        question="At which frame does the digit change?",
        answer=letter,
        answer_type="mcq",
        options=tuple(f"Frame {each}" for each in _letters(count)),
        glance=f"{before} turns into {after}",
        hint="compare each frame with the one before",
        reason=f"{after} in {letter} is new",
    )


def _read(rng: random.Random) -> Problem:
    digit = rng.randrange(10)
    return Problem(
        digits=(digit,),
        question="Which digit is shown?",
        answer=str(digit),
        answer_type="number",
        glance="",
        hint="look at the loops",
        reason=f"shaped like {digit}",
    )


def _greater(rng: random.Random) -> Problem:
    digit, bound = rng.sample(range(10), 2)
    larger = digit > bound
    return Problem(
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
# names them and then reasons is nearly always right: reinforcement learning has something to find out.
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


def trajectory(problem: Problem, actions: Sequence[str]) -> str:
    """The gold trajectory that takes this path, in tags.

    The digits are named by <focus>, half of the images each where it comes twice, and by <think> where no
    <focus> comes before it.
    """
    readings = [
        f"{letter}={digit}" for letter, digit in zip(_letters(len(problem.digits)), problem.digits, strict=True)
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


# --- Questions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pools:
    """Which digits each split may use: `by_split[split][digit]` are indices into scikit-learn's array."""

    scans: np.ndarray  # (1797, 8, 8), ink from 0 to 16
    by_split: Mapping[str, Mapping[int, Sequence[int]]] = field(repr=False)


def load_pools() -> Pools:
    """scikit-learn's digits, each class shuffled once by a fixed seed and cut by `SPLITS`.

    The cut does not depend on the data set's seed: a digit that is a test digit once is one for ever.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    by_split: dict[str, dict[int, list[int]]] = {split: {} for split in SPLITS}
    for digit in range(10):
        indices = [int(index) for index in np.flatnonzero(data.target == digit)]
        random.Random(f"digits/split/{digit}").shuffle(indices)
        start = 0
        for split, share in SPLITS.items():
            stop = len(indices) if split == "test" else start + round(share * len(indices))
            by_split[split][digit] = indices[start:stop]
            start = stop
    return Pools(data.images, by_split)


def questions(
    pools: Pools, split: str, name: str, count: int, seed: int, asked: set[tuple[str, tuple[str, ...]]]
) -> Iterator[Question]:
    """Draw `count` different questions, the tasks in turn; the same arguments give the same questions.

    Args:
        split: Whose digits to use: a key of `SPLITS`.
        name: Tells apart the sets drawn from one split ("sft_train", "train"), and starts the uid.
        seed: Of the draw, not of the split.
        asked: Questions (text, images) not to ask again; those drawn are added.

    Raises:
        ValueError: The split has not so many different questions.
    """
    rng = random.Random(f"digits/{name}/{seed}")
    pool = pools.by_split[split]
    for index in range(count):
        task = TASKS[index % len(TASKS)]
        for _ in range(_ATTEMPTS):
            problem = task.make(rng)
            images = tuple(_image_name(rng.choice(pool[digit]), rng.choice(_SHIFTS)) for digit in problem.digits)
            if len(set(images)) == len(images) and (problem.question, images) not in asked:
                break
        else:
            raise ValueError(f"{name}: no new question for {task.name} after {index} questions: ask for fewer")
        asked.add((problem.question, images))
        first, second = rng.sample(PATTERNS_OVER_ONE if len(images) == 1 else PATTERNS_OVER_MANY, 2)
        noun = "Frame" if task.modality == "frames" else "Image"
        shown = "\n".join(f"{noun} {letter}: <image>" for letter in _letters(len(images)))
        yield Question(
            uid=f"digits/{name}/{index:06d}",
            split=split,
            task=task,
            problem=problem,
            images=images,
            trajectories=(trajectory(problem, first), trajectory(problem, second)),
            prompt=f"{shown}\n{problem.question}",
        )


def question_rl_row(question: Question, index: int, image_directory: Path) -> dict[str, Any]:
    """The question as a row of the RL parquet."""
    problem = question.problem
    return rl_row(
        uid=question.uid,
        index=index,
        split=question.split,
        data_source=f"digits/{question.task.name}",
        ability="multi_image_reasoning",
        prompt=[{"role": "user", "content": question.prompt}],
        images=_cells(question, image_directory),
        modality=question.task.modality,
        question=problem.question,
        answer=problem.answer,
        answer_type=problem.answer_type,
        options=problem.options,
        aliases=problem.aliases,
    )


def question_pretrain_rows(question: Question, image_directory: Path) -> list[dict[str, Any]]:
    """The question as one row for the tiny model's pretraining: read every digit, then reason, always in this order."""
    return sft_rows(
        uid=question.uid,
        prompt=[{"role": "user", "content": question.prompt}],
        images=_cells(question, image_directory),
        trajectories=(trajectory(question.problem, ("focus", "think")),),
    )


def question_sft_rows(question: Question, image_directory: Path) -> list[dict[str, Any]]:
    """The question as two rows of the SFT parquet, one for each gold trajectory."""
    return sft_rows(
        uid=question.uid,
        prompt=[{"role": "user", "content": question.prompt}],
        images=_cells(question, image_directory),
        trajectories=question.trajectories,
    )


def _cells(question: Question, image_directory: Path) -> list[dict[str, Any]]:
    return [image_cell(image_directory / name, min_pixels=_PIXELS, max_pixels=_PIXELS) for name in question.images]


# --- Images -------------------------------------------------------------------------------------------------


def _image_name(index: int, shift: tuple[int, int]) -> str:
    return f"{index:04d}{shift[0]:+d}{shift[1]:+d}.png"


def image_names(pools: Pools) -> list[str]:
    """Every image that a question may show."""
    return [_image_name(index, shift) for index in range(len(pools.scans)) for shift in _SHIFTS]


def draw_image(pools: Pools, name: str) -> Image.Image:
    """The picture of an image name: the scan scaled by three, dark on white, moved by the name's shift."""
    index, dx, dy = int(name[:4]), int(name[4:6]), int(name[6:8])
    ink = Image.fromarray(np.uint8(pools.scans[index] * (255 / 16)))
    glyph = ink.resize((_GLYPH_SIZE, _GLYPH_SIZE), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE), 0)
    margin = (IMAGE_SIZE - _GLYPH_SIZE) // 2
    canvas.paste(glyph, (margin + dx, margin + dy))
    return Image.eval(canvas, lambda value: 255 - value)


def write_image(pools: Pools, name: str, directory: Path) -> None:
    """Write one image as PNG unless it is there; a reader never sees half of one."""
    path = directory / name
    if path.exists():
        return
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    draw_image(pools, name).save(temporary, format="PNG")
    os.replace(temporary, path)


# --- Files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How many questions each file gets; 0 leaves it out. All our choice."""

    train: int = 4000  # several passes' worth of reinforcement learning on two cores
    test: int = 400  # an accuracy of 0.7 is then known to +-0.045 (95 %)
    sft_train: int = 12000  # two rows each: one epoch is 1,500 steps of 16
    sft_val: int = 200
    pretrain: int = 0  # one row each; only a model with random weights has use for it


def write_dataset(output: str | Path, sizes: Sizes = Sizes(), seed: int = 0) -> None:
    """Write the images and the parquet files; does nothing where the very same data set is complete.

    Args:
        output: The directory. Rows refer to the images below it by absolute path, as verl opens a path exactly as
            it is written; after moving the directory, write it again.
        seed: Of the questions. The same arguments give the same bytes.
    """
    output = Path(output).resolve()
    # Written last: where it is present with the same content, everything that it describes is complete.
    stamp = output / "digits.json"
    description = {"version": VERSION, "output": str(output), "seed": seed, "questions": asdict(sizes)}
    described = json.dumps(description, indent=2) + "\n"
    files = {name: output / f"{name}.parquet" for name, count in asdict(sizes).items() if count}
    complete = stamp.exists() and all(path.exists() for path in files.values())
    if complete and stamp.read_text() == described:
        print(f"{output} is complete: nothing to do")
        return
    stamp.unlink(missing_ok=True)

    pools = load_pools()
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name in tqdm(image_names(pools), desc="images", unit="png"):
        write_image(pools, name, images)

    asked: set[tuple[str, tuple[str, ...]]] = set()  # shared: no RL question is one of the cold start's
    split_of = {"train": "train", "test": "test", "sft_train": "train", "sft_val": "val", "pretrain": "train"}
    for name in files:
        count, split = getattr(sizes, name), split_of[name]
        drawn = tqdm(questions(pools, split, name, count, seed, asked), total=count, desc=name, unit="question")
        if name in ("train", "test"):
            rows = [question_rl_row(question, index, images) for index, question in enumerate(drawn)]
            write_parquet(rows, RL_SCHEMA, files[name])
        else:
            to_rows = question_pretrain_rows if name == "pretrain" else question_sft_rows
            rows = [row for question in drawn for row in to_rows(question, images)]
            write_parquet(rows, SFT_SCHEMA, files[name])
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(described)
    os.replace(temporary, stamp)
    print(f"{output}: {', '.join(f'{count} {name}' for name, count in asdict(sizes).items())} questions")
