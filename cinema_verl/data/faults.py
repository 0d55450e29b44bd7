"""The contract of a row, rule by rule: what verl's trainers, the agent loop and the reward need of it.

verl meets a broken row hours later, one at a time and far from its cause. Here each defect has a code, and a message
that says what is wrong, where, and what to do. Each rule stands once: the builders of rows (`data.schema`), preparation
(`prepare.convert`) and the checks before a run (`data.check`) all ask here. What only a file of pixels or a model's
processor can tell is found in `data.check`, under codes of this list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final

from cinema_verl.meta_action import parse
from cinema_verl.reward import compute_score
from cinema_verl.verify import decide, verify

Row = Mapping[str, Any]

CODES: Final[Mapping[str, str]] = {
    # In the order in which a row is read.
    "missing_column": "a column of the schema is missing or null",
    "prompt_shape": "the prompt is not a list of {role, content} with text in both, or the chat template refuses it",
    "images_shape": "images is null, empty, or not a list of {image, min_pixels, max_pixels}",
    "image_placeholders": "the prompt has not as many <image> as the row has images",
    "video": "the row has a video or a sound, or the placeholder of one",
    "special_token": "the text holds a control or vision token of the model, which would be read as one",
    "num_images": "extra_info.num_images, which the format rule reads, is not the number of images",
    "extra_info": "options, aliases or tolerance that the reward cannot read",
    "answer_type": "the row states an answer type that is not known here",
    "ground_truth": "the gold is not text",
    "gold_unreadable": "the gold is not a correct answer to itself by the rule of its answer type",
    "image_path": "an image's path is not an absolute path of a local file",
    "image_outside_root": "an image lies outside the root that the run allows",
    "image_missing": "an image's file does not exist",
    "image_unreadable": "the system does not let an image's file be read",
    "image_corrupt": "an image's file is not a whole image",
    "image_size": "an image is too thin for the image processor: its aspect ratio, or what a limit leaves of a side",
    "too_many_images": "more images than are allowed",
    "prompt_too_long": "text and images have more tokens than are allowed",
    "agent_name": "another agent loop may roll the row out",
    "no_trajectory": "the last message of an SFT row is not the assistant's",
    "trajectory_format": "an SFT row teaches what the format reward punishes",
}
"""What can be wrong with a row: code -> what it means. `Fault` refuses a code that is not here."""
WARNINGS: Final = frozenset({"agent_name", "trajectory_format"})
"""Codes that are logged and stop nothing."""
PROMPT_TOO_LONG: Final = "prompt_too_long"
AGENT_NAME: Final = "cinema"
"""The agent loop that verl runs for a row: `cinema_verl.training.agent_loop`."""

COLUMNS: Final = ("data_source", "prompt", "images", "reward_model", "extra_info")
"""What verl's trainer and the reward read of an RL row; the other columns of the schema may be absent."""
SFT_COLUMNS: Final = ("messages", "images")
"""What verl's SFT trainer reads of a row."""
_CELL_KEYS: Final = frozenset({"image", "min_pixels", "max_pixels"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One defect of one row.

    Attributes:
        code: One of `CODES`.
        message: What is wrong, where in the row, and what to do.
        row: The row's index in its file, from 0; None as long as it is not known.
        uid: The row's; empty where it has none.
        file: The file as the configuration names it; empty where rows did not come from one.
    """

    code: str
    message: str
    row: int | None = None
    uid: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        CODES[self.code]

    def __str__(self) -> str:
        if self.row is None:
            return self.message
        place = f"{self.file or 'rows'}, row {self.row}"
        return f"{place} ({self.uid}): {self.message}" if self.uid else f"{place}: {self.message}"


# --- Whole rows ---------------------------------------------------------------------------------------------


def row_faults(row: Row, *, gold: bool = True) -> Iterator[Fault]:
    """What is wrong with a row of the RL schema, from the row alone: no image is opened, no token counted.

    Args:
        gold: Whether to ask if the reward can read the row's gold; a caller with `gold_fault` need not.
    """
    yield from _column_faults(row, COLUMNS, "RL")
    if "images" in row:
        yield from _images_shape_faults(row["images"])
    if row.get("prompt") is not None:
        yield from _messages_faults(row["prompt"], row)
    if isinstance(row.get("extra_info"), Mapping):
        yield from _num_images_faults(row["extra_info"], row.get("images"))
        if gold and row.get("reward_model") is not None:
            yield from _gold_faults(row)
    elif row.get("extra_info") is not None:
        yield Fault("extra_info", "extra_info is not a struct. Write the file with the RL schema")
    if row.get("agent_name") != AGENT_NAME:
        yield Fault(
            "agent_name",
            f"agent_name is {row.get('agent_name')!r}, so another agent loop may roll this row out. "
            f"Write {AGENT_NAME!r}, or set actor_rollout_ref.rollout.agent.default_agent_loop={AGENT_NAME}",
        )


def sft_faults(row: Row) -> Iterator[Fault]:
    """What is wrong with a row of the SFT schema, from the row alone."""
    yield from _column_faults(row, SFT_COLUMNS, "SFT")
    if "images" in row:
        yield from _images_shape_faults(row["images"])
    messages = row.get("messages")
    if messages is None:
        return
    wrong = list(_messages_faults(messages, row))
    yield from wrong
    if has(wrong, "prompt_shape"):
        return
    if messages[-1]["role"] != "assistant":
        yield Fault(
            "no_trajectory",
            f"the last message is of the role {messages[-1]['role']!r}, so that there is nothing to learn. "
            "End with the trajectory, as 'assistant'",
        )
    elif violations := parse(messages[-1]["content"]).violations_for(_length(row.get("images"))):
        yield Fault(
            "trajectory_format",
            f"the trajectory breaks the format rule ({', '.join(violations)}), which the reward will punish. "
            "Use non-empty actions in lower-case tags, then one <answer>; no <global> over one image",
        )


def _column_faults(row: Row, columns: Sequence[str], schema: str) -> Iterator[Fault]:
    for column in columns:
        if column not in row or (row[column] is None and column != "images"):
            state = "is null" if column in row else "is missing"
            yield Fault("missing_column", f"the column {column!r} {state}. Write the file with the {schema} schema")


def _images_shape_faults(images: Any) -> Iterator[Fault]:
    if not _length(images):
        what = "null" if images is None else "empty" if images == [] else f"a {type(images).__name__}"
        yield Fault("images_shape", f"images is {what}. Give a list with a cell for each image, at least one")
        return
    for number, cell in enumerate(images, 1):
        where = f"image {number} of {len(images)}"
        if not (isinstance(cell, Mapping) and cell.keys() <= _CELL_KEYS and isinstance(cell.get("image"), str)):
            what = f"keys {sorted(map(str, cell))}" if isinstance(cell, Mapping) else type(cell).__name__
            yield Fault(
                "images_shape",
                f"{where} is not {{image: path, min_pixels, max_pixels}} but {what}. "
                "Store the file's path, not its bytes",
            )
            continue
        low, high = cell.get("min_pixels"), cell.get("max_pixels")
        limits = [limit for limit in (low, high) if limit is not None]
        if any(type(limit) is not int or limit <= 0 for limit in limits) or limits != sorted(limits):
            yield Fault(
                "images_shape",
                f"{where} has min_pixels={low!r} and max_pixels={high!r}. "
                "Give pixel areas, 0 < min_pixels <= max_pixels",
            )


def _messages_faults(prompt: Any, row: Row) -> Iterator[Fault]:
    if (
        not isinstance(prompt, Sequence)
        or isinstance(prompt, str)
        or not prompt
        or not all(
            isinstance(message, Mapping)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in prompt
        )
    ):
        yield Fault(
            "prompt_shape",
            "the prompt is not a list of {role, content} with text in both. Write images as <image> in the text",
        )
        return
    text = "".join(message["content"] for message in prompt)
    others = {medium: _length(row.get(f"{medium}s")) for medium in ("video", "audio")}
    yield from placeholder_faults(text, _length(row.get("images")), **others)


def _num_images_faults(extra_info: Row, images: Any) -> Iterator[Fault]:
    given = extra_info.get("num_images")
    count = _length(images)
    wanted = count or "the number of images"
    if given is None:
        yield Fault(
            "num_images",
            f"extra_info.num_images is missing, and verl takes the images away before the reward. Write {wanted}",
        )
    elif isinstance(given, bool) or not isinstance(given, Integral) or count not in (0, given):
        yield Fault("num_images", f"extra_info.num_images is {given!r} for {count} image(s). Write {wanted}")


def _gold_faults(row: Row) -> Iterator[Fault]:
    extra_info, reward_model = row["extra_info"], row["reward_model"]
    answer_type = extra_info.get("answer_type", "")
    try:
        verify(None, "", answer_type)  # raises for an unknown type, whatever the gold
    except ValueError as error:
        yield Fault("answer_type", f"extra_info.answer_type: {error}. Write one of them, or register the type")
        return
    gold = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    if not isinstance(gold, str):
        yield Fault(
            "ground_truth",
            f"reward_model.ground_truth is {gold!r}, not text. Write it as text, JSON where it is structured",
        )
        return
    try:  # the reward itself on an empty response, so that it reads the row as it will in training
        score = compute_score(str(row.get("data_source")), "", gold, {**extra_info, "num_images": 1})
    except ValueError as error:
        yield Fault("extra_info", str(error))
        return
    if score["abstained"]:
        yield Fault(
            "gold_unreadable",
            f"the verifier cannot read the gold {gold[:80]!r} as {answer_type!r} with the options "
            f"{extra_info.get('options_json') or '[]'}. Correct one of the three, or leave the row out",
        )


# --- Single rules, which preparation asks about before there is a row ----------------------------------------


def placeholder_faults(text: str, images: int, *, video: int = 0, audio: int = 0) -> Iterator[Fault]:
    """Whether a prompt's text has one ``<image>`` for each image, and no placeholder of another medium.

    Args:
        text: All of the prompt.
        images: Images of the row; 0 if unknown, which leaves their number unchecked.
        video, audio: Videos and sounds of the row.
    """
    placeholders = text.count("<image>")
    if images and placeholders != images:
        yield Fault(
            "image_placeholders",
            f"the prompt has {placeholders} <image> placeholder(s) for {images} image(s). "
            "Write one <image> where each image belongs, and 'Image 2' where you mean the words",
        )
    for medium, given in (("video", video), ("audio", audio)):
        placeholders = text.count(f"<{medium}>")
        if placeholders or given:
            yield Fault(
                "video",
                f"the prompt has {placeholders} <{medium}> placeholder(s) and the row {given} {medium}(s). "
                "Store the frames as images ('Frame 1: <image>')",
            )


_SPECIAL = re.compile(r"<\|\w+\|>")  # Qwen's control and vision tokens


def special_token_fault(text: str, tokens: Sequence[str] | None = None) -> Fault | None:
    """Whether text holds what the tokenizer reads as a control or vision token.

    Args:
        tokens: The tokenizer's special tokens; None for whatever looks like one of Qwen's.
    """
    if tokens is None:
        found = _SPECIAL.search(text)
        token = found[0] if found else None
    else:
        token = next((token for token in tokens if token in text), None)
    if token is None:
        return None
    return Fault(
        "special_token",
        f"the prompt's text contains {token}, which the tokenizer reads as a control or image token. "
        "Take it out, or spell it another way",
    )


def image_count_fault(images: int, limit: int | None, remedy: str) -> Fault | None:
    """Whether a row has more images than are allowed.

    Args:
        limit: None for any number.
        remedy: What to do, as a half sentence: "Raise X".
    """
    if limit is None or images <= limit:
        return None
    return Fault("too_many_images", f"{images} images, over the limit of {limit}. {remedy}, or leave the row out")


def length_fault(text: int, vision: int, images: int, limit: int | None, remedy: str) -> Fault | None:
    """Whether a prompt has more tokens than are allowed; arguments as of `image_count_fault`."""
    if limit is None or text + vision <= limit:
        return None
    return Fault(
        "prompt_too_long",
        f"{text + vision} tokens ({text} of text, {vision} of {images} image(s)), over the limit of {limit}. "
        f"{remedy}, lower the images' max_pixels, or leave the row out",
    )


def path_fault(path: str) -> Fault | None:
    """Whether an image's path can be opened by a worker, whose working directory is another."""
    if os.path.isabs(path):
        return None
    return Fault("image_path", "is not an absolute path of a local file. Write one: workers run elsewhere")


def gold_fault(
    gold: Any,
    answer_type: str,
    *,
    options: Sequence[str] = (),
    aliases: Sequence[str] = (),
    tolerance: float | None = None,
    question: str = "",
) -> Fault | None:
    """Whether a gold is a correct answer to itself; one that is not would make every rollout incorrect.

    Raises:
        ValueError: An unknown answer type, or a tolerance that is negative or not finite.
    """
    if not isinstance(gold, str):
        return Fault(
            "ground_truth", f"the gold answer {gold!r} is not text. Write it as text, JSON where it is structured"
        )
    verdict = decide(gold, gold, answer_type, options=options, aliases=aliases, tolerance=tolerance, question=question)
    if gold.strip() and verdict.correct:
        return None
    return Fault(
        "gold_unreadable",
        f"the gold answer {gold[:80]!r} is not a correct answer to itself as {answer_type!r} with {len(options)} "
        f"options: {verdict.reason}. Correct the answer, its type or the options, or leave the row out",
    )


# --- Small helpers ------------------------------------------------------------------------------------------


def has(faults: Sequence[Fault], *codes: str) -> bool:
    """Whether one of the faults has one of the codes."""
    return any(fault.code in codes for fault in faults)


def _length(value: Any) -> int:
    """Items of a list; 0 for anything else."""
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else 0
