"""How a policy was asked in training: a policy is asked as it was taught, or its answers say little.

A small file beside the weights, `cinema.json`, keeps it: the export writes it from the run's data, `cinema-verl ask`
reads it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cinema_verl.meta_action import ANSWER, TAGS
from cinema_verl.prompts import system_prompt
from cinema_verl.utils.native_reasoning import NATIVE_REASONING

FILE: Final = "cinema.json"
STOP: Final = TAGS[ANSWER].close
_IMAGE: Final = "<image>"
_LETTERED: Final = re.compile(r"\b(?:Image|Frame) A: <image>")


class NoManner(ValueError):
    """`cinema.json` cannot be read; the message says why."""


@dataclass(frozen=True)
class Manner:
    """The system prompt, the names of images and their sizes, and what is declared of the policy's own reasoning.

    Attributes:
        system: the system prompt; None for a policy that was taught without one.
        letters: whether images are called A, B, C, … and not 1, 2, 3, …
        min_pixels, max_pixels: between which images were resized; None for the processor's own limits.
        native_reasoning: one of `cinema_verl.utils.native_reasoning.NATIVE_REASONING`.
    """

    system: str | None
    letters: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    native_reasoning: str = "none"

    def messages(self, question: str, count: int) -> list[dict[str, Any]]:
        """The chat for a question over `count` images, contents as parts of text and image.

        A question that places its images itself, by `<image>`, stays as it is.

        Raises:
            ValueError: it places another number of images.
        """
        placed = question.count(_IMAGE)
        if placed not in (0, count):
            raise ValueError(
                f"the question has {placed} times {_IMAGE}, and {count} images are given: write it once for each, or "
                "not at all"
            )
        if not placed:
            names = [chr(ord("A") + i) if self.letters and i < 26 else str(i + 1) for i in range(count)]
            lines = [f"Image {name}: {_IMAGE}" for name in names] if count > 1 or self.letters else [_IMAGE] * count
            question = "\n".join([*lines, question])
        parts: list[dict[str, Any]] = []
        for i, text in enumerate(question.split(_IMAGE)):
            parts += [{"type": "image"}] if i else []
            parts += [{"type": "text", "text": text}] if text else []
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, {"role": "user", "content": parts}]


def of_row(prompt: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], mode: str | None) -> Manner:
    """How one row of the RL parquet asks.

    Args:
        mode: `data.cinema_prompt_mode` of the run, whose system prompt took the place of the row's.
    """
    systems = [str(message["content"]) for message in prompt if message["role"] == "system"]
    text = "\n".join(str(message["content"]) for message in prompt if message["role"] == "user")
    cell = images[0] if len(images) else {}
    return Manner(
        system=system_prompt(mode) if mode else (systems[0] if systems else None),
        letters=bool(_LETTERED.search(text)),
        min_pixels=cell.get("min_pixels"),
        max_pixels=cell.get("max_pixels"),
    )


def default(mode: str | None = None) -> Manner:
    """How the recipes ask, where nothing says how a policy was asked."""
    return Manner(system_prompt(mode or "cinema"))


def to_json(manner: Manner) -> dict[str, Any]:
    return asdict(manner)


def read(folder: Path) -> Manner | None:
    """What `cinema.json` of a folder says; None where there is none.

    Raises:
        NoManner: it cannot be read.
    """
    path = folder / FILE
    try:
        value = json.loads(path.read_bytes())["asked"]
        manner = Manner(**value)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise NoManner(f"{path} does not say how the policy was asked ({error!r}): export it again") from error
    limits = (manner.min_pixels, manner.max_pixels)
    understood = isinstance(manner.system, str | None) and manner.native_reasoning in NATIVE_REASONING
    if not understood or not all(isinstance(each, int | None) for each in limits):
        raise NoManner(f"{path} does not say how the policy was asked: export it again")
    return manner
