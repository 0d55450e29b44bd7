"""How many tokens a prompt will have, from its text and the sizes of its images, without reading pixels.

verl resizes an image twice on its way to the vision encoder: ``qwen_vl_utils.fetch_image`` to the row's own
limits (``RLHFDataset.process_multi_modal_info``), then the model's image processor to *its* limits. The counts
here follow both steps, so that they equal the length of the prompt that verl's agent loop builds, and an
over-long prompt is known before any model is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cinema_verl.data.families import IMAGE_PROCESSORS, names

MIN_SIDE: Final = 28
"""Pixels: one vision token of Qwen2-VL. An area limit must leave room for one; a smaller picture is enlarged to it."""
MAX_ASPECT_RATIO: Final = 200
"""qwen_vl_utils' ``MAX_RATIO``, and the same in transformers' ``smart_resize``: both raise beyond it."""

# From qwen_vl_utils.vision_process: the limits of an image whose row has none, in vision tokens.
_DEFAULT_MIN_TOKENS: Final = 4  # IMAGE_MIN_TOKEN_NUM
_DEFAULT_MAX_TOKENS: Final = 16384  # IMAGE_MAX_TOKEN_NUM
_FETCH_MERGE_SIZE: Final = 2  # SPATIAL_MERGE_SIZE

Messages = Sequence[Mapping[str, Any]]


class ImageSizeError(ValueError):
    """An image of this size cannot become vision tokens. The message says why and what to do.

    Attributes:
        reason: For preparation, the `canonical.REASONS` of the row.
    """

    reason = "image_too_thin"


@dataclass(frozen=True, slots=True)
class Patching:
    """How an image processor cuts images: one vision token is a square of `factor` pixels a side.

    Attributes:
        patch_size: Pixels a side of a patch: 14 for Qwen2-VL, Qwen2.5-VL and GLM-4V, 16 for Qwen3-VL and Qwen3.5.
        merge_size: Patches a side that the encoder merges into one token.
        min_pixels, max_pixels: Area in pixels that the processor keeps every image between.
    """

    patch_size: int
    merge_size: int
    min_pixels: float
    max_pixels: float

    @property
    def factor(self) -> int:
        """Pixels a side of one vision token."""
        return self.patch_size * self.merge_size

    @classmethod
    def of(cls, image_processor: Any, overrides: Mapping[str, Any] | None = None) -> Patching:
        """Read an image processor of a class in `families.IMAGE_PROCESSORS`.

        GLM-4V's limits are of a clip, and an image is one of `temporal_patch_size` equal frames: halved here.

        Args:
            overrides: ``data.mm_processor_kwargs``, which verl passes to the processor on every call. There as
                here, ``min_pixels`` and ``max_pixels`` count only together, and only Qwen's processors know them.

        Raises:
            TypeError: Another class, whose resizing is not known here whatever its attributes are called, or one
                that is told not to resize.
        """
        overrides = overrides or {}
        name = type(image_processor).__name__
        clip = IMAGE_PROCESSORS.get(name)
        if clip is None:
            raise TypeError(f"{name} cuts images in a way that is not known here. Use a model of {names()}")
        if not overrides.get("do_resize", image_processor.do_resize):
            raise TypeError(f"{name} is told not to resize (do_resize=false), so images do not fit its tokens. Drop it")
        size = overrides.get("size") or image_processor.size
        low, high = size["shortest_edge"], size["longest_edge"]
        if not clip and overrides.get("min_pixels") is not None and overrides.get("max_pixels") is not None:
            low, high = overrides["min_pixels"], overrides["max_pixels"]
        if clip:
            low, high = low / image_processor.temporal_patch_size, high / image_processor.temporal_patch_size
        return cls(int(image_processor.patch_size), int(image_processor.merge_size), low, high)


QWEN2_5_VL: Final = Patching(patch_size=14, merge_size=2, min_pixels=3_136, max_pixels=12_845_056)
"""Of the paper's backbone (its ``preprocessor_config.json``): how images are counted without a processor."""


@lru_cache(maxsize=65_536)
def vision_tokens(
    width: int, height: int, patching: Patching, min_pixels: int | None = None, max_pixels: int | None = None
) -> int:
    """Number of image placeholder tokens that an image of this size takes in the prompt.

    Rotating the image (EXIF) does not change it.

    Args:
        width, height: Pixels, as the file has them.
        min_pixels, max_pixels: The row's own limits; None for qwen_vl_utils' defaults.

    Raises:
        ImageSizeError: The aspect ratio is over `MAX_ASPECT_RATIO` before or after the row's resizing, the limits
            contradict each other or leave nothing of a side.
    """
    factor = patching.patch_size * _FETCH_MERGE_SIZE
    low = _DEFAULT_MIN_TOKENS * factor**2 if min_pixels is None else min_pixels
    high = _DEFAULT_MAX_TOKENS * factor**2 if max_pixels is None else max_pixels
    if low > high:
        raise ImageSizeError(f"min_pixels {low} is over max_pixels {high}. Give both limits in this order")
    fetched = smart_resize(height, width, factor, low, high)
    if 0 in fetched:
        raise ImageSizeError(
            f"{width}x{height} px leaves nothing of a side: tokens are {factor} px a side, and max_pixels is {high}. "
            + _advice(width, height, factor)
        )
    seen = smart_resize(*fetched, patching.factor, patching.min_pixels, patching.max_pixels)
    rows, columns = (max(1, side // patching.factor) for side in seen)
    return rows * columns


def _advice(width: int, height: int, factor: int) -> str:
    """What helps a picture that shrinks to nothing; one that is no thin strip is too small for its row's limit."""
    if max(width, height) < 4 * min(width, height):
        enough = math.ceil(factor**2 * max(width, height) / min(width, height))  # keeps one token of the short side
        return f"Give its row max_pixels of at least {enough}: data made for smaller tokens has lower limits"
    return "It is very thin: raise max_pixels, or crop"


def check_ratio(width: int, height: int) -> None:
    """Make sure that the image processors take an image of this shape.

    Raises:
        ImageSizeError: One side is more than `MAX_ASPECT_RATIO` times the other.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageSizeError(
            f"{width}x{height} px has an aspect ratio over {MAX_ASPECT_RATIO}, which the processor refuses. "
            "Crop or split the image"
        )


def smart_resize(height: int, width: int, factor: int, min_pixels: float, max_pixels: float) -> tuple[int, int]:
    """``smart_resize`` of qwen_vl_utils and of transformers' Qwen2-VL: (height, width), multiples of `factor`.

    The two differ only where shrinking leaves less than one `factor` of a side. 0 stands for it here;
    qwen_vl_utils then fails, and transformers takes one `factor`.

    Raises:
        ImageSizeError: See `check_ratio`.
    """
    check_ratio(width, height)
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    area = rows * columns * factor**2
    if area > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        rows, columns = math.floor(height / scale / factor), math.floor(width / scale / factor)
    elif area < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * scale / factor), math.ceil(width * scale / factor)
    return rows * factor, columns * factor


_PLACEHOLDER = re.compile(r"(<image>)")


class PromptCounter:
    """Counts the tokens of prompts as verl's agent loop builds them, without opening an image.

    The loop renders the messages with the *processor's* chat template, replaces each image by as many
    placeholder tokens as the image processor says, and tokenizes (verl's
    ``VLContinuousTokenMixin.render_tokens_with_mm``): `text_tokens` plus the `vision_tokens` of the images.

    Args:
        processor: The model's processor, as ``verl.utils.hf_processor`` returns it.
        chat_template_kwargs: ``data.apply_chat_template_kwargs``.
        mm_processor_kwargs: ``data.mm_processor_kwargs``.

    Raises:
        TypeError: No processor, or one that `Patching.of` does not know.
    """

    def __init__(
        self,
        processor: Any,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.patching = Patching.of(getattr(processor, "image_processor", None), mm_processor_kwargs)
        self.special_tokens: tuple[str, ...] = tuple(processor.tokenizer.all_special_tokens)
        self._processor = processor
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._image_token_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """The text that is tokenized, with one placeholder token for each ``<image>``.

        Args:
            add_generation_prompt: End with the opening of the assistant's turn, as a rollout's prompt does.

        Raises:
            jinja2.TemplateError: The chat template refuses the messages, for instance an unknown role.
        """
        conversation = [{**message, "content": _parts(message["content"])} for message in messages]
        text: str = self._processor.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **self._template_kwargs
        )
        return text

    def text_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each rendered prompt, its image placeholders not counted. Fastest with many texts at once."""
        if not texts:
            return []
        encoded = self._processor.tokenizer(list(texts), return_attention_mask=False)["input_ids"]
        return [len(ids) - ids.count(self._image_token_id) for ids in encoded]


def _parts(content: str) -> list[dict[str, str]]:
    """Message text cut at ``<image>`` as ``RLHFDataset._build_messages`` cuts it."""
    return [
        {"type": "image"} if part == "<image>" else {"type": "text", "text": part}
        for part in _PLACEHOLDER.split(content)
        if part
    ]
