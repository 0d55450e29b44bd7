"""What is wrong with one row, from the row alone: its images unopened, its prompt not tokenized.

verl meets a broken row hours later, one at a time and far from its cause. Each defect here has a code, and a message
that says what is wrong, where, and what to do. `cinema_verl.data.check` adds what only images and a model's processor
can tell, under codes of this list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Final, NamedTuple

from cinema_verl.data.schema import AGENT_NAME
from cinema_verl.meta_action import parse
from cinema_verl.reward import compute_score
from cinema_verl.verify import verify

Row = Mapping[str, Any]

# Codes, in the order in which a row is read.
MISSING_COLUMN: Final = "missing_column"
PROMPT_SHAPE: Final = "prompt_shape"  # not a list of {role, content: str}, or refused by the chat template
IMAGES_SHAPE: Final = "images_shape"  # null, empty, or not cells of {image, min_pixels, max_pixels}
IMAGE_PLACEHOLDERS: Final = "image_placeholders"  # as many <image> as images
VIDEO: Final = "video"  # a video, or the placeholder of one
SPECIAL_TOKEN: Final = "special_token"  # prompt text that the tokenizer reads as a control or vision token
NUM_IMAGES: Final = "num_images"  # extra_info.num_images, from which the format rule judges <global>
EXTRA_INFO: Final = "extra_info"  # options, aliases or tolerance that the reward cannot read
ANSWER_TYPE: Final = "answer_type"
GROUND_TRUTH: Final = "ground_truth"  # not a str
GOLD_UNREADABLE: Final = "gold_unreadable"  # a str that the verifier cannot read as an answer of its type
IMAGE_PATH: Final = "image_path"  # not an absolute local path
IMAGE_OUTSIDE_ROOT: Final = "image_outside_root"
IMAGE_MISSING: Final = "image_missing"
IMAGE_UNREADABLE: Final = "image_unreadable"  # there, but the system does not let it be read
IMAGE_CORRUPT: Final = "image_corrupt"  # readable, but not a whole image
IMAGE_SIZE: Final = "image_size"
TOO_MANY_IMAGES: Final = "too_many_images"  # more than the rollout engine takes in one prompt
PROMPT_TOO_LONG: Final = "prompt_too_long"
AGENT: Final = "agent_name"
NO_TRAJECTORY: Final = "no_trajectory"  # an SFT row whose last message is not the assistant's
TRAJECTORY_FORMAT: Final = "trajectory_format"  # an SFT row that teaches what the format reward punishes
CODES: Final = (
    MISSING_COLUMN,
    PROMPT_SHAPE,
    IMAGES_SHAPE,
    IMAGE_PLACEHOLDERS,
    VIDEO,
    SPECIAL_TOKEN,
    NUM_IMAGES,
    EXTRA_INFO,
    ANSWER_TYPE,
    GROUND_TRUTH,
    GOLD_UNREADABLE,
    IMAGE_PATH,
    IMAGE_OUTSIDE_ROOT,
    IMAGE_MISSING,
    IMAGE_UNREADABLE,
    IMAGE_CORRUPT,
    IMAGE_SIZE,
    TOO_MANY_IMAGES,
    PROMPT_TOO_LONG,
    AGENT,
    NO_TRAJECTORY,
    TRAJECTORY_FORMAT,
)
WARNINGS: Final = frozenset({AGENT, TRAJECTORY_FORMAT})
"""Codes that are logged and stop nothing."""

COLUMNS: Final = ("data_source", "prompt", "images", "reward_model", "extra_info")
"""What verl's trainer and the reward read of an RL row; the other columns of the schema may be absent."""
SFT_COLUMNS: Final = ("messages", "images")
"""What verl's SFT trainer reads of a row."""
_CELL_KEYS: Final = frozenset({"image", "min_pixels", "max_pixels"})


class Fault(NamedTuple):
    """A problem before it is known which row has it."""

    code: str
    message: str


def row_faults(row: Row) -> Iterator[Fault]:
    """What is wrong with a row of the RL schema."""
    yield from _column_faults(row, COLUMNS, "RL")
    if "images" in row:
        yield from _images_shape_faults(row["images"])
    if row.get("prompt") is not None:
        yield from _messages_faults(row["prompt"], row)
    if isinstance(row.get("extra_info"), Mapping):
        yield from _num_images_faults(row["extra_info"], row.get("images"))
        if row.get("reward_model") is not None:
            yield from _gold_faults(row)
    elif row.get("extra_info") is not None:
        yield Fault(EXTRA_INFO, "extra_info is not a struct. Write the file with the RL schema")
    if row.get("agent_name") != AGENT_NAME:
        yield Fault(
            AGENT,
            f"agent_name is {row.get('agent_name')!r}, so another agent loop may roll this row out. "
            f"Write {AGENT_NAME!r}, or set actor_rollout_ref.rollout.agent.default_agent_loop={AGENT_NAME}",
        )


def sft_faults(row: Row) -> Iterator[Fault]:
    """What is wrong with a row of the SFT schema."""
    yield from _column_faults(row, SFT_COLUMNS, "SFT")
    if "images" in row:
        yield from _images_shape_faults(row["images"])
    messages = row.get("messages")
    if messages is None:
        return
    wrong = list(_messages_faults(messages, row))
    yield from wrong
    if has(wrong, PROMPT_SHAPE):
        return
    if messages[-1]["role"] != "assistant":
        yield Fault(
            NO_TRAJECTORY,
            f"the last message is of the role {messages[-1]['role']!r}, so that there is nothing to learn. "
            "End with the trajectory, as 'assistant'",
        )
    elif violations := parse(messages[-1]["content"]).violations_for(_length(row.get("images"))):
        yield Fault(
            TRAJECTORY_FORMAT,
            f"the trajectory breaks the format rule ({', '.join(violations)}), which the reward will punish. "
            "Use non-empty actions in lower-case tags, then one <answer>; no <global> over one image",
        )


def _column_faults(row: Row, columns: Sequence[str], schema: str) -> Iterator[Fault]:
    for column in columns:
        if column not in row or (row[column] is None and column != "images"):
            state = "is null" if column in row else "is missing"
            yield Fault(MISSING_COLUMN, f"the column {column!r} {state}. Write the file with the {schema} schema")


def _images_shape_faults(images: Any) -> Iterator[Fault]:
    if not _length(images):
        what = "null" if images is None else "empty" if images == [] else f"a {type(images).__name__}"
        yield Fault(IMAGES_SHAPE, f"images is {what}. Give a list with a cell for each image, at least one")
        return
    for number, cell in enumerate(images, 1):
        where = f"image {number} of {len(images)}"
        if not (isinstance(cell, Mapping) and cell.keys() <= _CELL_KEYS and isinstance(cell.get("image"), str)):
            what = f"keys {sorted(map(str, cell))}" if isinstance(cell, Mapping) else type(cell).__name__
            yield Fault(
                IMAGES_SHAPE,
                f"{where} is not {{image: path, min_pixels, max_pixels}} but {what}. "
                "Store the file's path, not its bytes",
            )
            continue
        low, high = cell.get("min_pixels"), cell.get("max_pixels")
        limits = [limit for limit in (low, high) if limit is not None]
        if any(type(limit) is not int or limit <= 0 for limit in limits) or limits != sorted(limits):
            yield Fault(
                IMAGES_SHAPE,
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
            PROMPT_SHAPE,
            "the prompt is not a list of {role, content} with text in both. Write images as <image> in the text",
        )
        return
    text = "".join(message["content"] for message in prompt)
    placeholders, count = text.count("<image>"), _length(row.get("images"))
    if count and placeholders != count:
        yield Fault(
            IMAGE_PLACEHOLDERS,
            f"the prompt has {placeholders} <image> placeholder(s) for {count} image(s). "
            "Write one <image> where each image belongs, and 'Image 2' where you mean the words",
        )
    for medium in ("video", "audio"):
        placeholders, given = text.count(f"<{medium}>"), _length(row.get(f"{medium}s"))
        if placeholders or given:
            yield Fault(
                VIDEO,
                f"the prompt has {placeholders} <{medium}> placeholder(s) and the row {given} {medium}(s). "
                "Store the frames as images ('Frame 1: <image>')",
            )


def _num_images_faults(extra_info: Row, images: Any) -> Iterator[Fault]:
    given = extra_info.get("num_images")
    count = _length(images)
    wanted = count or "the number of images"
    if given is None:
        yield Fault(
            NUM_IMAGES,
            f"extra_info.num_images is missing, and verl takes the images away before the reward. Write {wanted}",
        )
    elif isinstance(given, bool) or not isinstance(given, Integral) or count not in (0, given):
        yield Fault(NUM_IMAGES, f"extra_info.num_images is {given!r} for {count} image(s). Write {wanted}")


def _gold_faults(row: Row) -> Iterator[Fault]:
    extra_info, reward_model = row["extra_info"], row["reward_model"]
    answer_type = extra_info.get("answer_type", "")
    try:
        verify(None, "", answer_type)  # raises for an unknown type, whatever the gold
    except ValueError as error:
        yield Fault(ANSWER_TYPE, f"extra_info.answer_type: {error}. Write one of them, or register the type")
        return
    gold = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    if not isinstance(gold, str):
        yield Fault(
            GROUND_TRUTH,
            f"reward_model.ground_truth is {gold!r}, not text. Write it as text, JSON where it is structured",
        )
        return
    try:  # the reward itself on an empty response, so that it reads the row as it will in training
        score = compute_score(str(row.get("data_source")), "", gold, {**extra_info, "num_images": 1})
    except ValueError as error:
        yield Fault(EXTRA_INFO, str(error))
        return
    if score["abstained"]:
        yield Fault(
            GOLD_UNREADABLE,
            f"the verifier cannot read the gold {gold[:80]!r} as {answer_type!r} with the options "
            f"{extra_info.get('options_json') or '[]'}. Correct one of the three, or leave the row out",
        )


# --- Small helpers ------------------------------------------------------------------------------------------


def has(faults: Sequence[Fault], *codes: str) -> bool:
    """Whether one of the faults has one of the codes."""
    return any(fault.code in codes for fault in faults)


def _length(value: Any) -> int:
    """Items of a list; 0 for anything else."""
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else 0
