"""Multi-image reasoning over real handwritten digits: small enough to learn on two CPU cores, and verifiable.

The 1,797 digits that ship inside scikit-learn (8x8 scans, UCI "Optical Recognition of Handwritten Digits")
become 28x28 images, and questions over one to four of them: which is the largest, which is the odd one out,
does the sequence rise or fall. Train, validation and test questions are built from *disjoint digits*, so a
correct answer on the test set means that the policy read handwriting it has never seen.

Images are named by letters and not by numbers, because a policy this small confuses a label with a digit when
the two share tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cinema_verl.data.schema import RL_SCHEMA, SFT_SCHEMA, image_cell, rl_row, sft_rows, write_parquet
from cinema_verl.data.tokens import Patching
from cinema_verl.demo.digit_images import IMAGE_SIZE, SHIFTS, Pools, image_name, image_names, load_pools, write_image
from cinema_verl.demo.digit_tasks import (
    PATTERNS_OVER_MANY,
    PATTERNS_OVER_ONE,
    TASKS,
    DigitsProblem,
    Task,
    image_letters,
    trajectory,
)
from cinema_verl.utils.files import atomic_write

VERSION = 2  # of what is generated: raise it with every change that alters the files
PIXELS = IMAGE_SIZE * IMAGE_SIZE
"""Of a picture, and of one token of Qwen2-VL, Qwen2.5-VL and GLM-4V."""
_ATTEMPTS = 1000  # at a question not asked before


@dataclass(frozen=True)
class DigitsQuestion:
    """A problem over chosen images: everything that an RL row and its two SFT rows need."""

    uid: str
    split: str
    task: Task
    problem: DigitsProblem
    images: tuple[str, ...]  # file names, one for each digit
    trajectories: tuple[str, str]
    prompt: str


def questions(
    pools: Pools, split: str, name: str, count: int, seed: int, asked: set[tuple[str, tuple[str, ...]]]
) -> Iterator[DigitsQuestion]:
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
            images = tuple(image_name(rng.choice(pool[digit]), rng.choice(SHIFTS)) for digit in problem.digits)
            if len(set(images)) == len(images) and (problem.question, images) not in asked:
                break
        else:
            raise ValueError(f"{name}: no new question for {task.name} after {index} questions: ask for fewer")
        asked.add((problem.question, images))
        first, second = rng.sample(PATTERNS_OVER_ONE if len(images) == 1 else PATTERNS_OVER_MANY, 2)
        noun = "Frame" if task.modality == "frames" else "Image"
        shown = "\n".join(f"{noun} {letter}: <image>" for letter in image_letters(len(images)))
        yield DigitsQuestion(
            uid=f"digits/{name}/{index:06d}",
            split=split,
            task=task,
            problem=problem,
            images=images,
            trajectories=(trajectory(problem, first), trajectory(problem, second)),
            prompt=f"{shown}\n{problem.question}",
        )


def question_rl_row(
    question: DigitsQuestion, index: int, image_directory: Path, pixels: int = PIXELS
) -> dict[str, Any]:
    """The question as a row of the RL parquet, each picture shown in `pixels`."""
    problem = question.problem
    return rl_row(
        uid=question.uid,
        index=index,
        split=question.split,
        data_source=f"digits/{question.task.name}",
        ability="multi_image_reasoning",
        prompt=[{"role": "user", "content": question.prompt}],
        images=_cells(question, image_directory, pixels),
        modality=question.task.modality,
        question=problem.question,
        answer=problem.answer,
        answer_type=problem.answer_type,
        options=problem.options,
        aliases=problem.aliases,
    )


def question_pretrain_rows(
    question: DigitsQuestion, image_directory: Path, pixels: int = PIXELS
) -> list[dict[str, Any]]:
    """The question as one row for the tiny model's pretraining: read every digit, then reason, always in this order."""
    return sft_rows(
        uid=question.uid,
        prompt=[{"role": "user", "content": question.prompt}],
        images=_cells(question, image_directory, pixels),
        trajectories=(trajectory(question.problem, ("focus", "think")),),
    )


def question_sft_rows(question: DigitsQuestion, image_directory: Path, pixels: int = PIXELS) -> list[dict[str, Any]]:
    """The question as two rows of the SFT parquet, one for each gold trajectory."""
    return sft_rows(
        uid=question.uid,
        prompt=[{"role": "user", "content": question.prompt}],
        images=_cells(question, image_directory, pixels),
        trajectories=question.trajectories,
    )


def _cells(question: DigitsQuestion, image_directory: Path, pixels: int) -> list[dict[str, Any]]:
    return [image_cell(image_directory / name, min_pixels=pixels, max_pixels=pixels) for name in question.images]


def token_area(image_processor: Any) -> int:
    """Pixels of one token of a model: what a digit is shown in.

    Args:
        image_processor: Of transformers.

    Returns:
        784 for Qwen2.5-VL; 1,024 for Qwen3-VL, whose released processor then enlarges each to its own minimum.

    Raises:
        TypeError: Its way of cutting is not known (`Patching.of`).
    """
    return Patching.of(image_processor).factor ** 2


# --- Files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How many questions each file gets; 0 leaves it out. All our choice."""

    train: int = 4000  # several passes' worth of reinforcement learning on two cores
    test: int = 400  # an accuracy of 0.7 is then known to +-0.045 (95 %)
    sft_train: int = 12000  # two rows each: one epoch is 1,500 steps of 16
    sft_val: int = 200
    pretrain: int = 0  # one row each; only a model with random weights has use for it


def write_dataset(output: str | Path, sizes: Sizes = Sizes(), seed: int = 0, pixels: int = PIXELS) -> None:
    """Write the images and the parquet files; does nothing where the very same data set is complete.

    Args:
        output: The directory. Rows refer to the images below it by absolute path, as verl opens a path exactly as
            it is written; after moving the directory, write it again.
        seed: Of the questions. The same arguments give the same bytes.
        pixels: Area that each picture is shown in: one token of the model's (`token_area`).
    """
    output = Path(output).resolve()
    # Written last: where it is present with the same content, everything that it describes is complete.
    stamp = output / "digits.json"
    description = {"version": VERSION, "output": str(output), "seed": seed, "questions": asdict(sizes)}
    if pixels != PIXELS:
        description["pixels"] = pixels
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
            rl_rows = (question_rl_row(question, index, images, pixels) for index, question in enumerate(drawn))
            write_parquet(rl_rows, RL_SCHEMA, files[name])
        else:
            to_rows = question_pretrain_rows if name == "pretrain" else question_sft_rows
            rows = (row for question in drawn for row in to_rows(question, images, pixels))
            write_parquet(rows, SFT_SCHEMA, files[name])
    with atomic_write(stamp) as file:
        file.write(described)
    print(f"{output}: {', '.join(f'{count} {name}' for name, count in asdict(sizes).items())} questions")
