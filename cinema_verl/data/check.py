"""Look at every row before the first training step, and report all faults of the data at once.

The rules of a row are in `cinema_verl.data.faults`; here its images are opened, its tokens counted, and both compared
with what a run allows. `inspect_rows` goes over the rows, `check_rows` collects their faults and `raise_for` turns them
into one readable error. `option_faults` does the same for the options of the data set.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import jinja2
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from cinema_verl.data.faults import (
    CODES,
    WARNINGS,
    Fault,
    Row,
    has,
    image_count_fault,
    length_fault,
    path_fault,
    row_faults,
    sft_faults,
    special_token_fault,
)
from cinema_verl.data.tokens import ImageSizeError, Messages, Patching, PromptCounter, vision_tokens
from cinema_verl.meta_action import TAGS
from cinema_verl.prompts import modes

logger = logging.getLogger(__name__)

T = TypeVar("T")
Locate = Callable[[int], tuple[str, int]]
"""Position among the rows checked -> (file, row of that file, from 0)."""

CHECKS: Final = ("full", "header", "off")
"""How closely a run looks at its rows, ``data.cinema_checks``."""


def option_faults(data_config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of `CinemaDataset`, all under ``data``; each text says what to use instead."""
    faults = []
    for key, default, known in (
        ("cinema_checks", "header", CHECKS),
        ("cinema_prompt_mode", None, modes()),
    ):
        value = data_config.get(key, default)
        value = "off" if key == "cinema_checks" and value is False else value  # YAML 1.1 reads a bare `off` as false
        if value not in known and (value is not None or key == "cinema_checks"):
            faults.append(f"data.{key}={value!r} is unknown. Use one of {', '.join(known)}")
    if data_config.get("filter_overlong_prompts", True):  # verl's default where the key is absent
        faults.append(
            "data.filter_overlong_prompts is on: it would drop broken rows as over-long ones, without a word. "
            "Set it to false; over-long prompts are reported by row (data.cinema_checks)"
        )
    return faults


def image_limit(rollout: Any) -> int | None:
    """Images that the rollout engine takes in one prompt: vLLM ``limit_images``, the others any number (None).

    Args:
        rollout: The section ``actor_rollout_ref.rollout`` of a run's configuration; None where there is none.
    """
    if rollout is None or rollout.get("name") != "vllm":
        return None
    limit: int | None = rollout.get("limit_images")
    return limit


# Our choices, for speed and legibility only.
_ROWS_AT_ONCE: Final = 512  # tokenized in one call
_FILES_AT_ONCE: Final = 64  # opened by one task of a thread: a header takes 30 µs, a task about as long
_QUIET_SECONDS: Final = 2.0  # before a progress bar shows
_EXAMPLES: Final = 3  # of each code in a report
_MORE_IMAGES: Final = "Raise actor_rollout_ref.rollout.limit_images"


class DataError(ValueError):
    """Data that cannot be trained on: the text is a summary, `faults` has every one. It pickles, as Ray needs.

    Attributes:
        faults: Of the rows, each with its place.
    """

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message, tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return str(self.args[0])


class TokenizerError(ValueError):
    """A tokenizer with which no trajectory could be read."""


class ImageSize(NamedTuple):
    """Pixels, as the file has them (EXIF rotation not applied)."""

    width: int
    height: int


# --- All rows -----------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """What kind of rows a trainer reads.

    Attributes:
        messages: The column of chat messages.
        faults: What is wrong with a row as it stands.
        generation_prompt: Whether the text that is tokenized ends with the opening of the assistant's turn.
        limit: The configuration's key for the number of tokens.
    """

    messages: str
    faults: Callable[[Row], Iterator[Fault]]
    generation_prompt: bool
    limit: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run allows of a row; None for anything.

    Attributes:
        tokens: Text and image tokens together.
        images: Images.
        root: Directory that every image must lie in, symbolic links resolved.
    """

    tokens: int | None = None
    images: int | None = None
    root: str | Path | None = None


@dataclass(frozen=True, slots=True)
class Inspected:
    """A row that has been looked at.

    Attributes:
        faults: What is wrong with it.
        text_tokens, vision_tokens: Of its messages, 0 where they were not or could not be counted.
    """

    row: Row
    faults: Sequence[Fault]
    text_tokens: int
    vision_tokens: int


def inspect_rows(
    rows: Iterable[Row],
    *,
    form: Form | None = None,
    counter: PromptCounter | None = None,
    patching: Patching | None = None,
    limits: Limits | None = None,
    decode: bool = False,
    progress: tqdm[Any] | None = None,
) -> Iterator[Inspected]:
    """Look at each row, in order.

    Image headers are read by a pool of threads, each file once however many rows show it; no image is kept.

    Args:
        form: `RL` (the default) or `SFT`.
        counter: Counts text tokens; None leaves out the checks that need a model's processor.
        patching: Counts image tokens; None takes the counter's, and without one counts nothing.
        decode: Decode each image fully instead of reading its header. Finds truncated files, and takes some
            milliseconds an image.
        progress: Is told of rows done.
    """
    form, limits = form or RL, limits or Limits()
    if patching is None and counter is not None:
        patching = counter.patching
    seen: dict[str, ImageSize | Fault] = {}
    inspect = partial(_inspect_all, decode=decode, root=limits.root)
    Image.init()  # Pillow registers its formats lazily, which threads should not do at once
    with ThreadPoolExecutor() as pool:
        for batch in _batches(rows, _ROWS_AT_ONCE):
            faults = [list(form.faults(row)) for row in batch]
            images = [_readable_images(row, found) for row, found in zip(batch, faults, strict=True)]
            paths = {cell["image"] for cells in images for cell in cells} - seen.keys()
            for results in pool.map(inspect, _batches(sorted(paths), _FILES_AT_ONCE)):
                seen.update(results)
            for cells, found in zip(images, faults, strict=True):
                found += image_faults(cells, seen)
                if fault := image_count_fault(len(cells), limits.images, _MORE_IMAGES):
                    found.append(fault)
            text = [0] * len(batch) if counter is None else _text_tokens(batch, faults, form, counter)
            for row, cells, found, words in zip(batch, images, faults, text, strict=True):
                vision = 0
                if patching is not None:
                    vision, wrong = _vision_tokens(cells, seen, patching)
                    found += wrong
                    if words is not None:
                        fault = length_fault(words, vision, len(cells), limits.tokens, f"Raise {form.limit}")
                        found += [fault] if fault else []
                yield Inspected(row, found, words or 0, vision)
            if progress is not None:
                progress.update(len(batch))


def check_rows(
    rows: Iterable[Row],
    *,
    locate: Locate = lambda position: ("", position),
    counter: PromptCounter | None = None,
    limits: Limits | None = None,
    decode: bool = False,
    total: int | None = None,
) -> list[Fault]:
    """Every fault of every row of the RL schema, in the order of the rows, each with its place.

    Args:
        locate: Where a row came from; called only for rows with faults.
        counter, limits, decode: See `inspect_rows`.
        total: Number of rows, for the progress bar.
    """
    faults: list[Fault] = []
    with tqdm(total=total, desc="checking rows", unit=" rows", delay=_QUIET_SECONDS) as progress:
        looked_at = inspect_rows(rows, counter=counter, limits=limits, decode=decode, progress=progress)
        for position, inspected in enumerate(looked_at):
            if inspected.faults:
                file, index = locate(position)
                faults += placed(inspected, file, index)
    return faults


def placed(inspected: Inspected, file: str, row: int) -> list[Fault]:
    """A row's faults with the place of the row."""
    uid = uid_of(inspected.row)
    return [replace(fault, row=row, uid=uid, file=file) for fault in inspected.faults]


def report(faults: Sequence[Fault]) -> str:
    """A readable summary: how many of each code, and the first few of each in full."""
    by_code: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        by_code[fault.code].append(fault)
    rows = len({(fault.file, fault.row) for fault in faults})
    lines = [f"{rows} row{'s' * (rows != 1)} with faults:"]
    for code in sorted(by_code, key=list(CODES).index):
        found = by_code[code]
        lines.append(f"  {code}: {len(found)}")
        lines += [f"    {fault}" for fault in found[:_EXAMPLES]]
        if len(found) > _EXAMPLES:
            lines.append(f"    ... and {len(found) - _EXAMPLES} more")
    return "\n".join(lines)


def raise_for(faults: Sequence[Fault]) -> None:
    """Log the faults that are warnings, and raise on the others.

    Raises:
        DataError: At least one fault is not a warning.
    """
    warnings = [fault for fault in faults if fault.code in WARNINGS]
    errors = [fault for fault in faults if fault.code not in WARNINGS]
    if warnings:
        logger.warning(report(warnings))
    if errors:
        raise DataError(report(errors), errors)


# --- Its images ---------------------------------------------------------------------------------------------


def inspect_image(path: str, *, decode: bool = False, root: str | Path | None = None) -> ImageSize | Fault:
    """Open one image file as verl will (``qwen_vl_utils.fetch_image``): its size, or why that will fail.

    Args:
        path: As the row's cell has it; ``file://`` is understood.
        decode: Read all of it, not its header only.
        root: Directory that it must lie in, symbolic links resolved.
    """
    path = path.removeprefix("file://")
    if fault := path_fault(path):
        return fault
    if root is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        return Fault("image_outside_root", f"lies outside {root}. Copy it there, or correct the root")
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return ImageSize(*image.size)
    except FileNotFoundError:
        return Fault("image_missing", "does not exist. Prepare the data here, or mount the disk that has it")
    except UnidentifiedImageError:
        return Fault("image_corrupt", "is not an image that Pillow knows. Write it again, or leave the row out")
    except Image.DecompressionBombError as error:
        return Fault("image_size", f"is refused by Pillow: {error} Shrink it when preparing the data")
    except Exception as error:  # a decoder raises what it likes on broken input, and verl would fail alike
        if isinstance(error, OSError) and error.errno is not None:
            return Fault("image_unreadable", f"cannot be read: {error.strerror}. Check permissions and disk")
        return Fault("image_corrupt", f"cannot be decoded: {error}. Write it again, or leave the row out")


def image_faults(images: Sequence[Row], seen: Mapping[str, ImageSize | Fault]) -> Iterator[Fault]:
    """The faults of a row's image files, each with the image's place in the row."""
    for number, cell in enumerate(images, 1):
        found = seen[cell["image"]]
        if isinstance(found, Fault):
            yield Fault(found.code, f"image {number} of {len(images)}, {cell['image']}, {found.message}")


def _inspect_all(paths: Sequence[str], *, decode: bool, root: str | Path | None) -> dict[str, ImageSize | Fault]:
    return {path: inspect_image(path, decode=decode, root=root) for path in paths}


# --- Its prompt, in tokens -----------------------------------------------------------------------------------


def _text_tokens(
    batch: Sequence[Row], faults: Sequence[list[Fault]], form: Form, counter: PromptCounter
) -> list[int | None]:
    """Text tokens of each row, None where its messages cannot be rendered; why not is added to its faults."""
    texts: dict[int, str] = {}
    for i, row in enumerate(batch):
        countable = row.get(form.messages) is not None and row.get("images") is not None
        if not countable or has(faults[i], "prompt_shape", "images_shape", "image_placeholders", "video"):
            continue
        rendered = _render(row[form.messages], form, counter)
        if isinstance(rendered, Fault):
            faults[i].append(rendered)
        else:
            texts[i] = rendered
    counts: list[int | None] = [None] * len(batch)
    for i, tokens in zip(texts, counter.text_tokens(list(texts.values())), strict=True):
        counts[i] = tokens
    return counts


def _render(messages: Messages, form: Form, counter: PromptCounter) -> str | Fault:
    if fault := special_token_fault("".join(message["content"] for message in messages), counter.special_tokens):
        return fault
    try:
        return counter.render(messages, add_generation_prompt=form.generation_prompt)
    except jinja2.TemplateError as error:
        return Fault("prompt_shape", f"the chat template refuses the prompt: {error}. Correct its roles")


def _vision_tokens(
    images: Sequence[Row], seen: Mapping[str, ImageSize | Fault], patching: Patching
) -> tuple[int, list[Fault]]:
    total, faults = 0, []
    for number, cell in enumerate(images, 1):
        size = seen[cell["image"]]
        if isinstance(size, Fault):  # reported already
            continue
        try:
            total += vision_tokens(*size, patching, cell.get("min_pixels"), cell.get("max_pixels"))
        except ImageSizeError as error:
            place = f"image {number} of {len(images)}, {cell['image']}"
            faults.append(Fault("image_size", f"{place}, is unusable: {error}"))
    return total, faults


RL: Final = Form("prompt", row_faults, generation_prompt=True, limit="data.max_prompt_length")
SFT: Final = Form("messages", sft_faults, generation_prompt=False, limit="data.max_length")


# --- The tokenizer ------------------------------------------------------------------------------------------


def check_tokenizer(tokenizer: Any) -> None:
    """Make sure that the ten tags survive what verl does to a response before the reward reads it.

    verl's reward managers decode with ``skip_special_tokens=True``: a tag that is a special token vanishes there,
    and every trajectory looks malformed.

    Raises:
        TokenizerError: A tag is a special token, or is not what comes back from encode and decode.
    """
    for tag in (tag for tags in TAGS.values() for tag in tags):
        ids = tokenizer.encode(tag, add_special_tokens=False)
        if tokenizer.decode(ids, skip_special_tokens=True).strip() == tag:
            continue
        if tokenizer.decode(ids, skip_special_tokens=False).strip() == tag:
            raise TokenizerError(
                f"the tokenizer has {tag} as a special token: it would vanish on decoding, and no trajectory could "
                "be read. Add the tags as ordinary tokens, AddedToken(tag, special=False), or not at all"
            )
        raise TokenizerError(
            f"the tokenizer turns {tag} into {tokenizer.decode(ids)!r}, so no trajectory could be read. "
            "Use a byte-level tokenizer such as Qwen2's, or add the tags to it as ordinary tokens"
        )


# --- Small helpers ------------------------------------------------------------------------------------------


def _readable_images(row: Row, faults: Sequence[Fault]) -> Sequence[Row]:
    return () if row.get("images") is None or has(faults, "images_shape") else row["images"]


def uid_of(row: Row) -> str:
    """A row's uid, "" where it has none: `extra_info.uid` of RL rows, `uid` of SFT rows."""
    extra_info = row.get("extra_info")
    return str((extra_info if isinstance(extra_info, Mapping) else row).get("uid") or "")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
