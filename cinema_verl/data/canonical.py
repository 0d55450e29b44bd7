"""The canonical question: what every source becomes, and the only thing that the rest of the pipeline reads.

A row of a source becomes one `Question`, or is `Rejected` for a named reason. Questions are stored as JSON lines. The
policy's prompt (`Question.prompt`) and the row that verl reads (`Question.rl_row`) are made only from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from cinema_verl.data.faults import CODES
from cinema_verl.data.schema import MODALITIES, image_cell, rl_row
from cinema_verl.prompts import messages
from cinema_verl.verify import answer_types

REASONS: Final[dict[str, str]] = {
    # In the order of the steps that find them.
    "bad_record": "a field of the source's row is missing or has another type than its other rows have",
    "placeholders": "the text does not name as many images as the row has",
    "no_images": "the row has no image, and verl's SFT collator fails on text-only rows",
    "no_question": "nothing is left of the question once its placeholders are taken away",
    "duplicate_uid": "another row of the source has the same id",
    "no_answer": "the row has no gold answer",
    "free_text": "the gold is prose of more than a few words, which no rule can verify (`answer_type: text` admits it)",
    "multi_part": "the gold answers several sub-questions at once",
    "several_golds": "the row gives several golds, and they are not one answer in several words",
    "not_an_option": "the gold is none of the options, or the text of two of them",
    "options": "options that cannot be read: only one, more than there are letters, or an empty one",
    "answer_type": "an answer type that is not known here, or none where the gold may be an order or a set",
    "gold_unreadable": CODES["gold_unreadable"],
    "too_many_images": CODES["too_many_images"],
    "several_videos": "several videos, or a video behind images: one video comes first, and images may follow",
    "special_token": CODES["special_token"],
    "prompt_too_long": CODES["prompt_too_long"],
    "path_url": "the row names a URL where a file is expected, and downloads are not allowed for its host",
    "path_outside": "a path or link that leads out of the folders that were named (--media-root, --allow-root)",
    "path_missing": "there is no such file below the source's root",
    "download_refused": "a URL that must not be fetched: its host, address, scheme, redirect or size is not allowed",
    "download_failed": "a URL that could not be fetched",
    "image_format": "not a picture of a kind that is read here",
    "image_broken": "the picture is truncated, or its content is not what its header says",
    "image_too_large": "more pixels than any picture of a dataset has: decoding it could exhaust the memory",
    "image_too_thin": "an aspect ratio that the image processors refuse, or nothing left of a side once shrunk",
    "image_animated": "several frames or pages, and the row does not say which one is meant",
    "video_format": "not a video of a kind that is read here, or without a video stream",
    "video_broken": "the video is truncated, or a frame that is needed cannot be decoded",
    "video_no_frames": "no frame lies in the part of the video that the row is about",
    "benchmark_question": "a benchmark's question: it shares a picture with it, and its words",
    "benchmark_image": "a benchmark's picture, under another question",
    "benchmark_text": "a benchmark's words, long and particular enough to be that question, over other pictures",
    "duplicate": "the same question over the same pictures as an earlier one",
    "pass_rate": "a pass rate outside the window of the mix: too easy or too hard to learn from",
    "pass_rate_unknown": "no pass rate, and the mix takes only questions that have one",
    "excluded": "in another set, whose questions the mix was told to leave out",
    "not_in_mix": "of its kind the mix has as many as it asks for",
}
"""Why a row of a source can be rejected, and what it means. `Rejected` refuses a reason that is not here."""

SPLITS: Final = ("train", "val", "test")
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IMAGE: Final = "<image>"


class Rejected(Exception):
    """A row that cannot become a question: counted by `reason`, explained by `detail`, never dropped.

    Raises:
        KeyError: the reason is not one of `REASONS`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        REASONS[reason]
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class SourceError(ValueError):
    """A file is not what its adapter expects, and the whole run stops. The message says which field differs."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One stored image.

    Attributes:
        path: Absolute in memory. On disk relative to the dataset's directory where it lies inside.
        width, height: Pixels of the stored file, after EXIF rotation and shrinking.
        sha256: Hex digest of the stored file's bytes; the file is named by it.
        phash: 64-bit perceptual hash as 16 hex digits.
    """

    path: str
    width: int
    height: int
    sha256: str
    phash: str


@dataclass(frozen=True, slots=True)
class VideoRef:
    """The video that a question's images are frames of.

    Attributes:
        path: As the source names it, relative to the source's root.
        fps: Average frames a second of the file.
        frame_times: Seconds from the start, one for each image.
    """

    path: str
    fps: float
    frame_times: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One verified question over images, a video's frames or one image.

    Attributes:
        uid: The question's name in every file, ``source/source_id``; unique in a dataset.
        source: Becomes verl's ``data_source``.
        split: ``train``, ``val`` or ``test``.
        modality: ``multi``, ``frames`` or ``single``.
        question: Text with one ``<image>`` for each image, in order, and no other placeholder.
        options: Option texts without their letters; empty for open questions.
        answer: Gold as `cinema_verl.verify` reads it: a letter for mcq, JSON where it is structured.
        answer_aliases: Other answers that count as correct.
        tolerance: For numbers; None takes the answer type's own.
        pass_rate: Share of a reference model's tries that were correct, as the source states it; None if unknown.
        vision_tokens, text_tokens: Of the prompt, as `cinema_verl.data.tokens` counts them; 0 if not counted.
        flags: Remarks that are no reason to reject the row.
    """

    uid: str
    source: str
    source_id: str
    split: str
    license: str
    modality: str
    question: str
    images: tuple[ImageRef, ...]
    answer_type: str
    answer: str
    video: VideoRef | None = None
    options: tuple[str, ...] = ()
    answer_aliases: tuple[str, ...] = ()
    tolerance: float | None = None
    pass_rate: float | None = None
    vision_tokens: int = 0
    text_tokens: int = 0
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"{self.uid}: modality {self.modality!r} is none of {', '.join(MODALITIES)}")
        if self.answer_type not in (known := answer_types()):
            raise ValueError(f"{self.uid}: answer type {self.answer_type!r} is none of {', '.join(known)}")
        if self.split not in SPLITS:
            raise ValueError(f"{self.uid}: split {self.split!r} is none of {', '.join(SPLITS)}")
        if self.pass_rate is not None and not 0 <= self.pass_rate <= 1:
            raise ValueError(f"{self.uid}: pass_rate {self.pass_rate} is not from 0 to 1")

    @property
    def prompt(self) -> str:
        """The user message: the question, and its options where the text does not list them itself."""
        if not self.options or lists_options(self.question, self.options):
            return self.question
        return "\n".join([self.question, *(f"{LETTERS[i]}. {text}" for i, text in enumerate(self.options))])

    def to_json(self, root: Path | None = None) -> dict[str, Any]:
        """As JSON values. Image paths inside `root` become relative to it."""
        record = _by_field(self)
        record["images"] = images = tuple(map(_by_field, self.images))
        inside = None if root is None else f"{str(root).rstrip('/')}/"
        for image in images:
            if inside and image["path"].startswith(inside):
                image["path"] = image["path"][len(inside) :]
        record["video"] = self.video and _by_field(self.video)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any], root: Path | None = None) -> Question:
        """The inverse of `to_json`: relative image paths are below `root`.

        Raises:
            ValueError: a missing or unknown field, or one of another type; the message names it.
        """
        known = {field.name for field in fields(cls)}
        try:
            if unknown := set(record) - known:
                names = ", ".join(sorted(unknown))
                raise ValueError(f"it has {names}. Rows of your own become questions by `cinema-verl prepare own`")
            values = dict(record)
            values["images"] = tuple(
                ImageRef(**{**image, "path": str((root or Path()) / image["path"])}) for image in record["images"]
            )
            if video := record.get("video"):
                values["video"] = VideoRef(**{**video, "frame_times": tuple(video["frame_times"])})
            for name in ("options", "answer_aliases", "flags"):
                values[name] = tuple(record.get(name, ()))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"question {record.get('uid', '?')!r} is not in canonical form: {error}") from error

    def rl_row(self, index: int, *, min_pixels: int, max_pixels: int, mode: str = "cinema") -> dict[str, Any]:
        """The row of `RL_SCHEMA` for this question.

        Args:
            index: Position in its file.
            min_pixels, max_pixels: Limits of each image's area as the policy sees it.
            mode: One of `cinema_verl.prompts.modes`.

        Raises:
            RowError: The row would break verl's data contract.
        """
        return rl_row(
            uid=self.uid,
            index=index,
            split=self.split,
            data_source=self.source,
            ability={"multi": "multi_image", "frames": "video", "single": "single_image"}[self.modality],
            prompt=messages(self.prompt, mode),
            images=[image_cell(image.path, min_pixels=min_pixels, max_pixels=max_pixels) for image in self.images],
            modality=self.modality,
            question=self.prompt,
            answer=self.answer,
            answer_type=self.answer_type,
            options=self.options,
            aliases=self.answer_aliases,
            tolerance=self.tolerance,
        )


def _by_field(record: ImageRef | VideoRef | Question) -> dict[str, Any]:
    """The fields by name, not copied: `dataclasses.asdict` copies all that is in them."""
    return {name: getattr(record, name) for name in record.__slots__}


_LABEL = re.compile(r"(?<![A-Za-z])([A-Z])\s*[.):,]\s*")


def lists_options(text: str, options: tuple[str, ...]) -> bool:
    """Whether the text shows every option behind its letter: ``A. cat``, ``(A) cat``, ``A: cat``."""
    labels = [(label[1], label.end()) for label in _LABEL.finditer(text)]
    return all(
        any(letter == LETTERS[i] and text.startswith(option.strip(), end) for letter, end in labels)
        for i, option in enumerate(options)
    )
