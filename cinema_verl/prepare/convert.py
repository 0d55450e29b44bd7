"""One draft becomes one question: gold verified, media opened, stored and named in the text, tokens counted.

Whatever is wrong with a row is found here and has a name in `canonical.REASONS`; a question that comes out can be
written as a row that verl trains on. Errors of the machine (a full disk, a folder that may not be read) are not the
row's, and pass through as `OSError`.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from cinema_verl.data.canonical import IMAGE, ImageRef, Question, Rejected, VideoRef, lists_options
from cinema_verl.data.directory import IMAGES, WORK
from cinema_verl.data.faults import (
    Fault,
    gold_fault,
    image_count_fault,
    length_fault,
    placeholder_faults,
    special_token_fault,
)
from cinema_verl.data.tokens import QWEN2_5_VL, ImageSizeError, Patching, PromptCounter, vision_tokens
from cinema_verl.prepare import natural_answers
from cinema_verl.prepare.draft import Adapter, Draft, Media
from cinema_verl.prepare.media.images import ImageStore
from cinema_verl.prepare.media.paths import Downloads, inline_bytes, is_inline, is_url, resolve
from cinema_verl.prepare.media.video import sample_folder, sample_frames
from cinema_verl.prepare.readers import Row
from cinema_verl.prompts import messages
from cinema_verl.utils.hub import only_local

MAX_PIXELS: Final = 602_112
"""Area of a stored image: 768 vision tokens of Qwen2.5-VL. Our choice, with recipe `cinema`'s prompt of 8 images."""
MIN_PIXELS: Final = 3_136
"""Smallest area that the policy sees: 4 vision tokens, qwen_vl_utils' own least (``IMAGE_MIN_TOKEN_NUM``)."""
MAX_IMAGES: Final = 32
"""Of a row: recipe `cinema`'s ``limit_images``, MMIU's largest question."""
FRAMES: Final = 8
"""Of a video. Our choice: at `MAX_PIXELS` they fill recipe `cinema`'s prompt."""
MAX_FRAMES: Final = 64  # of a video at a given rate. Our choice: two minutes at one frame in two seconds
FOLDER_FPS: Final = 3.0  # the rate at which MVBench's folders of frames were cut
_MAX_IMAGE_BYTES: Final = 1 << 28  # of one image file; our choice: above any photograph, below a worker's memory

_RUN = re.compile(rf"{IMAGE}(?:\s*{IMAGE})*")


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """What a question depends on besides its row. Equal settings and equal input give equal bytes.

    Attributes:
        media_root: Absolute path of the folder that relative media paths are below, and absolute ones may be.
        allow_root: Absolute paths of further folders that absolute media paths and links may lead into.
        min_pixels, max_pixels: Limits of an image's area as the policy sees it; larger ones are stored shrunk.
        max_images: Most images of a row, frames not counted; None for any number.
        frames, fps: Frames of a video: this many, evenly, or this many a second; exactly one of the two.
        max_frames: Most frames at `fps`; longer videos are sampled thinner.
        folder_fps: Rate at which folders of frames were cut.
        max_prompt_tokens: Longest prompt, text and images; None for any length. Needs `processor`.
        processor: Model that images are shrunk and prompts are counted for; "" does so for the images as Qwen2.5-VL
            does, and counts no text.
        mode: Prompt mode whose system prompt is counted.
        split: Written over the source's own; "" keeps it.
        allow_download: Hosts that URLs may be fetched from.
    """

    media_root: str
    allow_root: tuple[str, ...] = ()
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    max_images: int | None = MAX_IMAGES
    frames: int | None = FRAMES
    fps: float | None = None
    max_frames: int = MAX_FRAMES
    folder_fps: float = FOLDER_FPS
    max_prompt_tokens: int | None = None
    processor: str = ""
    mode: str = "cinema"
    split: str = ""
    allow_download: tuple[str, ...] = ()


class Converter:
    """Rows of one source to questions whose images are stored below `output`.

    Args:
        output: The dataset directory.
    """

    def __init__(self, adapter: Adapter, settings: ConvertSettings, output: Path) -> None:
        self._adapter, self._settings = adapter, settings
        self._counter = load_counter(settings.processor) if settings.processor else None
        self._patching = self._counter.patching if self._counter else QWEN2_5_VL
        self._store = ImageStore(output / IMAGES, settings.max_pixels, factor=self._patching.factor)
        self._downloads = Downloads(frozenset(settings.allow_download), output / WORK / "downloads")

    def draft(self, row: Row, file: str = "") -> Draft:
        """What the adapter makes of a row of a file, or `Rejected`."""
        return self._adapter.draft(row, file)

    def uid(self, draft: Draft) -> str:
        return f"{draft.source or self._adapter.name}/{draft.source_id}"

    def question(self, draft: Draft) -> Question:
        """The question that a draft becomes.

        Raises:
            Rejected: with the reason; images stored before it was found stay in the store.
            OSError: the machine's fault, not the row's.
        """
        check_draft(draft, self._settings.max_images)
        draft = checked_gold(draft)
        draft = replace(draft, media=tuple(map(_decoded, draft.media)))
        refs: list[ImageRef] = []
        video, text = None, draft.question
        pictures = draft.media
        if draft.media[0].kind == "video":
            refs, video = self._frames(draft.media[0])
            pictures, (before, _, after) = draft.media[1:], draft.question.partition(IMAGE)
            text = _with_lines(before, "Frame", len(refs), after)
        elif len(pictures) > 1:
            text = _in_lines(draft.question, "Image", len(pictures))
        refs += [self._store.put(self._bytes(medium)) for medium in pictures]
        try:
            question = Question(
                uid=self.uid(draft),
                source=draft.source or self._adapter.name,
                source_id=draft.source_id,
                split=self._settings.split or draft.split,
                license=self._adapter.license,
                modality=draft.modality or ("single" if len(refs) == 1 else "frames" if video else "multi"),
                question=text,
                images=tuple(refs),
                answer_type=draft.answer_type,
                answer=draft.answer,
                video=video,
                options=draft.options,
                answer_aliases=draft.aliases,
                tolerance=draft.tolerance,
                pass_rate=draft.pass_rate,
                flags=draft.flags,
            )
        except (TypeError, ValueError) as error:
            raise Rejected("bad_record", str(error)) from error
        return self._counted(question)

    def sync(self) -> None:
        """Wait until the images that were stored are on the disk."""
        self._store.sync()

    def _bytes(self, medium: Media) -> bytes:
        if medium.data is not None:
            return medium.data
        return _read(self.located(medium)[1] or self._path(medium))

    def _path(self, medium: Media) -> Path:
        if is_url(medium.path):
            return self._downloads.fetch(medium.path)
        return resolve(self._settings.media_root, medium.path, self._settings.allow_root)

    def located(self, medium: Media) -> tuple[Media, Path | None]:
        """The medium at the first of its places where there is something, and its path; None where it is no file here.

        Raises:
            Rejected: What `resolve` says of its own place, if there is nothing at any.
        """
        if medium.data is not None or is_url(medium.path):
            return medium, None
        try:
            return medium, self._path(medium)
        except Rejected as rejected:
            if rejected.reason != "path_missing":
                raise
            for place in medium.places:
                try:
                    return place, self._path(place)
                except Rejected:
                    continue
            raise

    def _frames(self, medium: Media) -> tuple[list[ImageRef], VideoRef]:
        settings, (medium, _) = self._settings, self.located(medium)
        wanted: dict[str, Any] = {
            "count": settings.frames,
            "fps": settings.fps,
            "max_frames": max(settings.frames or 0, settings.max_frames),
            "start": medium.start,
            "end": medium.end,
            "to_end": medium.to_end,
        }
        with self._file(medium) as path:
            if path.is_dir():
                folder = sample_folder(path, folder_fps=settings.folder_fps, **wanted)
                refs = [self._store.put(_read(frame)) for frame in folder.paths]
                return refs, VideoRef(medium.path, folder.fps, folder.times)
            frames = sample_frames(path, max_pixels=settings.max_pixels, factor=self._patching.factor, **wanted)
            refs = [self._store.put_image(frame) for frame in frames.images]
            return refs, VideoRef(medium.path, frames.fps, frames.times)

    @contextmanager
    def _file(self, medium: Media) -> Iterator[Path]:
        """The medium as a path; embedded bytes are on disk for as long as the block lasts."""
        if medium.data is None:
            yield self._path(medium)
            return
        with tempfile.NamedTemporaryFile() as file:
            file.write(medium.data)
            file.flush()
            yield Path(file.name)

    def _counted(self, question: Question) -> Question:
        """The question with its token counts.

        Raises:
            Rejected: its prompt is too long, or the image processor would refuse an image.
        """
        settings = self._settings
        try:
            vision = sum(
                vision_tokens(image.width, image.height, self._patching, settings.min_pixels, settings.max_pixels)
                for image in question.images
            )
        except ImageSizeError as error:
            raise Rejected(error.reason, str(error)) from error
        text = 0
        if self._counter:
            text = self._counter.text_tokens([self._counter.render(messages(question.prompt, settings.mode))])[0]
        limit = settings.max_prompt_tokens
        _reject(length_fault(text, vision, len(question.images), limit, "Raise --max-prompt-tokens"))
        return replace(question, vision_tokens=vision, text_tokens=text)


@lru_cache(maxsize=1)
def load_counter(model: str) -> PromptCounter:
    """The prompt counter of a model: a path, or a name that transformers knows. Kept, because loading takes seconds.

    Raises:
        OSError: there is no such model, or the hub does not answer (`HubUnreachable`).
        TypeError: it is not one of the Qwen-VL family.
    """
    from cinema_verl.utils.pretrained import read_files
    from cinema_verl.utils.torchvision import ensure_torchvision_importable

    ensure_torchvision_importable()  # before transformers, whose processors import torchvision
    from transformers import AutoProcessor

    return PromptCounter(read_files(AutoProcessor, model, local_files_only=only_local(model)))


def enlarging(patching: Patching, max_pixels: int) -> str | None:
    """A warning where a model enlarges what is stored as small as `max_pixels`; None where it does not."""
    if max_pixels >= patching.min_pixels:
        return None
    tokens = math.ceil(patching.min_pixels / patching.factor**2)
    return (
        f"--max-pixels {max_pixels:,} is below the {patching.min_pixels:,.0f} pixels that the model's processor "
        f"enlarges every image to: each takes about {tokens} tokens or more, however small it is stored"
    )


def _decoded(medium: Media) -> Media:
    """The medium with its file's bytes, where its path is a ``data:`` URI."""
    if medium.data is None and is_inline(medium.path):
        return replace(medium, path="", data=inline_bytes(medium.path))
    return medium


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise Rejected("path_missing", f"{path.name} is not a file")
    if path.stat().st_size > _MAX_IMAGE_BYTES:
        raise Rejected("image_too_large", f"{path.name} has over {_MAX_IMAGE_BYTES} bytes")
    return path.read_bytes()


def _reject(fault: Fault | None, reason: str = "") -> None:
    """Reject a row for what breaks the contract of rows, by the fault's own code where it is a reason, too."""
    if fault is not None:
        raise Rejected(reason or fault.code, fault.message)


def check_draft(draft: Draft, max_images: int | None = None) -> None:
    """Check what can be known before a file is opened: media, placeholders, text, and the gold.

    Raises:
        Rejected: With the reason.
    """
    if not draft.media:
        raise Rejected("no_images", "the row names no image and no video")
    videos = sum(medium.kind == "video" for medium in draft.media)
    if videos > 1 or (videos and draft.media[0].kind != "video"):
        raise Rejected("several_videos", f"{videos} video(s) among {len(draft.media)} media")
    if not videos:
        _reject(image_count_fault(len(draft.media), max_images, "Raise --max-images"))
    options = "\n".join(draft.options)
    for misplaced in (*placeholder_faults(draft.question, len(draft.media)), *placeholder_faults(options, 0)):
        _reject(misplaced, "placeholders")
    if IMAGE in options and not lists_options(draft.question, draft.options):
        raise Rejected("placeholders", f"an option holds {IMAGE} and the question does not list its options")
    _reject(special_token_fault(f"{draft.question}\n{options}"))
    if not draft.question.replace(IMAGE, "").strip():
        raise Rejected("no_question", "the text is nothing but placeholders")
    try:
        fault = gold_fault(
            draft.answer,
            draft.answer_type,
            options=draft.options,
            aliases=draft.aliases,
            tolerance=draft.tolerance,
            question=draft.question,
        )
    except (TypeError, ValueError) as error:
        raise Rejected("bad_record", str(error)) from error
    _reject(fault, "gold_unreadable")


def _in_lines(text: str, word: str, count: int) -> str:
    """``Image 1: <image>`` and so on, a line each, where the text has all its tags in one place and names none.

    Tags that stand apart (``Is <image> larger than <image>?``) or behind names (``A. <image>``) stay as they are.
    """
    run = _RUN.search(text)
    if run is None or run[0].count(IMAGE) != text.count(IMAGE):
        return text
    return _with_lines(text[: run.start()], word, count, text[run.end() :])


def checked_gold(draft: Draft) -> Draft:
    """The draft, flagged where its gold refuses some natural ways to write the correct answer.

    Raises:
        Rejected: ``gold_unreadable``: it refuses all of them, so that every rollout would be incorrect.
    """
    bad, tried = natural_answers.refused(draft)
    if not bad:
        return draft
    if len(bad) == tried:
        raise Rejected(
            "gold_unreadable",
            f"the gold {draft.answer[:80]!r} is {draft.answer_type!r}, and no natural answer is right, not {bad[0]!r}",
        )
    return replace(draft, flags=(*draft.flags, natural_answers.STRICT))


def _with_lines(before: str, word: str, count: int, after: str) -> str:
    lines = "\n".join(f"{word} {number}: {IMAGE}" for number in range(1, count + 1))
    return "\n".join(part for part in (before.rstrip(), lines, after.lstrip()) if part)
