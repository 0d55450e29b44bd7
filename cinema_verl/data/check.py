"""Look at every row before the first training step, and say all that is wrong with the data at once.

What a row says of itself is judged by `cinema_verl.data.faults`; here its images are opened, its tokens counted, and
both held against what a run allows. `inspect_rows` goes over the rows, `check_rows` collects their defects and
`raise_for` turns them into one readable error.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import jinja2
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from cinema_verl.data.faults import (
    CODES,
    IMAGE_CORRUPT,
    IMAGE_MISSING,
    IMAGE_OUTSIDE_ROOT,
    IMAGE_PATH,
    IMAGE_PLACEHOLDERS,
    IMAGE_SIZE,
    IMAGE_UNREADABLE,
    IMAGES_SHAPE,
    PROMPT_SHAPE,
    PROMPT_TOO_LONG,
    SPECIAL_TOKEN,
    TOO_MANY_IMAGES,
    VIDEO,
    WARNINGS,
    Fault,
    Row,
    has,
    row_faults,
    sft_faults,
)
from cinema_verl.data.tokens import ImageSizeError, Messages, Patching, PromptCounter, vision_tokens
from cinema_verl.meta_action import TAGS
from cinema_verl.prompts import MODES

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
        ("cinema_prompt_mode", None, MODES),
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


# Our choices, for speed and legibility only.
_ROWS_AT_ONCE: Final = 512  # tokenized in one call
_FILES_AT_ONCE: Final = 64  # opened by one task of a thread: a header takes 30 µs, a task about as long
_QUIET_SECONDS: Final = 2.0  # before a progress bar shows
_EXAMPLES: Final = 3  # of each code in a report


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of one row.

    Attributes:
        code: One of `faults.CODES`.
        row: The row's index in its file, from 0.
        uid: Empty where the row has none.
        file: The file as the configuration names it; empty where rows did not come from one.
        message: What is wrong, where in the row, and what to do.
    """

    code: str
    row: int
    uid: str
    file: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file or 'rows'}, row {self.row}"
        return f"{place} ({self.uid}): {self.message}" if self.uid else f"{place}: {self.message}"


class DataError(ValueError):
    """Data that cannot be trained on: a summary as its text, every one of its `problems`. Pickles, as Ray needs."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return str(self.args[0])


class TokenizerError(ValueError):
    """A tokenizer with which no trajectory could ever be read."""


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
                if limits.images is not None and len(cells) > limits.images:
                    found.append(_too_many_images(len(cells), limits.images))
            text = [0] * len(batch) if counter is None else _text_tokens(batch, faults, form, counter)
            for row, cells, found, words in zip(batch, images, faults, text, strict=True):
                vision = 0
                if patching is not None:
                    vision, wrong = _vision_tokens(cells, seen, patching)
                    found += wrong
                    if words is not None and limits.tokens is not None and words + vision > limits.tokens:
                        found.append(_too_long(words, vision, len(cells), limits.tokens, form))
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
) -> list[Problem]:
    """Every problem of every row of the RL schema, in the order of the rows.

    Args:
        locate: Where a row came from; called for rows with problems only.
        counter, limits, decode: See `inspect_rows`.
        total: Number of rows, for the progress bar.
    """
    problems: list[Problem] = []
    with tqdm(total=total, desc="checking rows", unit=" rows", delay=_QUIET_SECONDS) as progress:
        looked_at = inspect_rows(rows, counter=counter, limits=limits, decode=decode, progress=progress)
        for position, inspected in enumerate(looked_at):
            if inspected.faults:
                file, index = locate(position)
                problems += problems_of(inspected, file, index)
    return problems


def problems_of(inspected: Inspected, file: str, row: int) -> list[Problem]:
    """A row's faults, now that it is known where the row is."""
    uid = uid_of(inspected.row)
    return [Problem(fault.code, row, uid, file, fault.message) for fault in inspected.faults]


def report(problems: Sequence[Problem]) -> str:
    """A readable summary: how many of each code, and the first few of each in full."""
    by_code: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_code[problem.code].append(problem)
    rows = len({(problem.file, problem.row) for problem in problems})
    lines = [f"{rows} row{'s' * (rows != 1)} with problems:"]
    for code in sorted(by_code, key=CODES.index):
        found = by_code[code]
        lines.append(f"  {code}: {len(found)}")
        lines += [f"    {problem}" for problem in found[:_EXAMPLES]]
        if len(found) > _EXAMPLES:
            lines.append(f"    ... and {len(found) - _EXAMPLES} more")
    return "\n".join(lines)


def raise_for(problems: Sequence[Problem]) -> None:
    """Log the problems that are warnings, and raise on the others.

    Raises:
        DataError: At least one problem is not a warning.
    """
    warnings = [problem for problem in problems if problem.code in WARNINGS]
    errors = [problem for problem in problems if problem.code not in WARNINGS]
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
    if not os.path.isabs(path):
        return Fault(IMAGE_PATH, "is not an absolute path of a local file. Write one: workers run elsewhere")
    if root is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        return Fault(IMAGE_OUTSIDE_ROOT, f"lies outside {root}. Copy it there, or correct the root")
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return ImageSize(*image.size)
    except FileNotFoundError:
        return Fault(IMAGE_MISSING, "does not exist. Prepare the data here, or mount the disk that has it")
    except UnidentifiedImageError:
        return Fault(IMAGE_CORRUPT, "is not an image that Pillow knows. Write it again, or leave the row out")
    except Image.DecompressionBombError as error:
        return Fault(IMAGE_SIZE, f"is refused by Pillow: {error} Shrink it when preparing the data")
    except Exception as error:  # a decoder raises what it likes on broken input, and verl would fail alike
        if isinstance(error, OSError) and error.errno is not None:
            return Fault(IMAGE_UNREADABLE, f"cannot be read: {error.strerror}. Check permissions and disk")
        return Fault(IMAGE_CORRUPT, f"cannot be decoded: {error}. Write it again, or leave the row out")


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
        if not countable or has(faults[i], PROMPT_SHAPE, IMAGES_SHAPE, IMAGE_PLACEHOLDERS, VIDEO):
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
    text = "".join(message["content"] for message in messages)
    for token in counter.special_tokens:
        if token in text:
            return Fault(
                SPECIAL_TOKEN,
                f"the prompt's text contains {token}, which the tokenizer reads as a control or image token. "
                "Take it out, or spell it another way",
            )
    try:
        return counter.render(messages, add_generation_prompt=form.generation_prompt)
    except jinja2.TemplateError as error:
        return Fault(PROMPT_SHAPE, f"the chat template refuses the prompt: {error}. Correct its roles")


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
            faults.append(Fault(IMAGE_SIZE, f"{place}, is unusable: {error}"))
    return total, faults


def _too_many_images(images: int, limit: int) -> Fault:
    return Fault(
        TOO_MANY_IMAGES,
        f"{images} images, and the rollout engine takes {limit}. Raise actor_rollout_ref.rollout.limit_images, "
        "or leave the row out",
    )


def _too_long(text: int, vision: int, images: int, limit: int, form: Form) -> Fault:
    return Fault(
        PROMPT_TOO_LONG,
        f"the {form.messages} {'has' if form.messages == 'prompt' else 'have'} {text + vision} tokens ({text} of text, "
        f"{vision} of {images} image(s)), over the limit of {limit}. Raise {form.limit}, lower the images' "
        "max_pixels, or leave the row out",
    )


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
    return () if row.get("images") is None or has(faults, IMAGES_SHAPE) else row["images"]


def uid_of(row: Row) -> str:
    """A row's uid, "" where it has none: `extra_info.uid` of RL rows, `uid` of SFT rows."""
    extra_info = row.get("extra_info")
    return str((extra_info if isinstance(extra_info, Mapping) else row).get("uid") or "")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
