"""The testbed's questions: the best path through the meta-actions depends on the question.

The demo's questions over handwritten digits, of the kinds and sizes below, and the demo's cold-started policy, but with
room for `RESPONSE` tokens only. So

* in *sum* and *largest* the path that reads every digit and then reasons (focus, think) fits, and wins;
* in *order*, *change* and *odd one out* of four it runs out of room: who reads without reasoning, or compares first, is
  left with an answer;
* in *how many are even* of four, paths that compare first are better than the paths that read first.

Nothing in the reward knows of this. What the policy is like before any reinforcement learning is measured by
`python -m studies.dps prepare`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cinema_verl.data import schema
from cinema_verl.demo.digit_images import SHIFTS, Pools, image_name, load_pools, write_image
from cinema_verl.demo.digit_tasks import TASKS, image_letters
from cinema_verl.demo.digits import DigitsQuestion, question_rl_row

RESPONSE: Final = 28
"""Most tokens of a response. Our choice: reading four digits and reasoning about the largest just fits (27 tokens)."""

KINDS: Final = (
    ("sum", 2),
    ("trend", 3),
    ("largest", 4),
    ("count_even", 3),
    ("order", 3),
    ("greater", 1),
    ("odd_one_out", 4),
    ("largest", 3),
    ("count_even", 4),
    ("change", 4),
    ("odd_one_out", 3),
)
"""Tasks of the demo and numbers of images. Our choice: those on which the cold start's pass@8 is .98 and less."""

TRAIN: Final = 2000  # our choice: more than any arm asks for in one run
TEST: Final = 400  # our choice: with 16 responses each, two policies' pass@1 differ by .01 or less by chance
PILOT: Final = 200  # our choice: for what is chosen before the runs


@dataclass(frozen=True)
class Sets:
    """The questions: none twice, and no digit of one set in another.

    Attributes:
        train: for reinforcement learning.
        pilot: held out, for what is chosen before the runs.
        test: held out, for what is reported.
    """

    train: list[DigitsQuestion]
    pilot: list[DigitsQuestion]
    test: list[DigitsQuestion]


def sets(pools: Pools | None = None) -> Sets:
    """All questions; the same on every call."""
    pools = pools or load_pools()
    return Sets(
        train=list(questions(pools, "train", TRAIN)),
        pilot=list(questions(pools, "val", PILOT)),
        test=list(questions(pools, "test", TEST)),
    )


def index_of(question: DigitsQuestion) -> int:
    """The place of a question in its set."""
    return int(question.uid.rpartition("/")[2])


def write_parquet(directory: Path, name: str, drawn: Sequence[DigitsQuestion]) -> Path:
    """Questions as rows for verl, with their images beside them; the file. A row's index is the end of its uid."""
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    pools = load_pools()
    for question in drawn:
        for image in question.images:
            write_image(pools, image, images)
    rows = (question_rl_row(question, index_of(question), images) for question in drawn)
    schema.write_parquet(rows, schema.RL_SCHEMA, directory / f"{name}.parquet")
    return directory / f"{name}.parquet"


def questions(pools: Pools, split: str, count: int) -> Iterator[DigitsQuestion]:
    """Different questions over the digits of a split, the kinds in turn."""
    by_name = {task.name: task for task in TASKS}
    rng = random.Random(f"dps/{split}")
    pool = pools.by_split[split]
    asked: set[tuple[str, tuple[str, ...]]] = set()
    for index in range(count):
        name, size = KINDS[index % len(KINDS)]
        task = by_name[name]
        while True:
            problem = task.make(rng)
            images = tuple(image_name(rng.choice(pool[digit]), rng.choice(SHIFTS)) for digit in problem.digits)
            if len(images) == size == len(set(images)) and (problem.question, images) not in asked:
                break
        asked.add((problem.question, images))
        noun = "Frame" if task.modality == "frames" else "Image"
        shown = "\n".join(f"{noun} {letter}: <image>" for letter in image_letters(size))
        yield DigitsQuestion(
            uid=f"dps/{split}/{index:06d}",
            split=split,
            task=replace(task, name=f"{name}_{size}"),
            problem=problem,
            images=images,
            trajectories=("", ""),  # of a cold start, which the policy has behind it
            prompt=f"{shown}\n{problem.question}",
        )
