"""The families of vision-language models that can be trained, in one place: everything else asks here.

verl 0.9.1 must know a family's processor: `verl.utils.tokenizer.hf_processor` returns none for others, and its agent
loop decodes prompts without special tokens, which theirs would need. And the way in which its image processor cuts must
be known here, because prompts are counted before anything is loaded. What works with each is in docs/models.md, run
cell by cell by `tests/families`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Family(NamedTuple):
    """One kind of model, as people and as transformers call it.

    Attributes:
        name: What people call it; variants of a family share it up to the bracket.
        processor: Class of its processor.
        image_processor: Stem of the class of its image processor, which has a twin that ends in "Pil".
        clip: The image processor's limits are of a clip (frames x area), and an image is one of equal frames.
        fsdp2: It trains with verl's FSDP2, which gives every embedding a unit of its own. GLM-4V's vision tower reads
            the weight of its position embedding without calling it, and finds it sharded.
    """

    name: str
    processor: str
    image_processor: str
    clip: bool = False
    fsdp2: bool = True


_QWEN2: Final = "Qwen2VLImageProcessor"
FAMILIES: Final = {
    "qwen2_vl": Family("Qwen2-VL", "Qwen2VLProcessor", _QWEN2),
    "qwen2_5_vl": Family("Qwen2.5-VL", "Qwen2_5_VLProcessor", _QWEN2),
    "qwen3_vl": Family("Qwen3-VL", "Qwen3VLProcessor", _QWEN2),
    "qwen3_vl_moe": Family("Qwen3-VL (mixture of experts)", "Qwen3VLProcessor", _QWEN2),
    "qwen3_5": Family("Qwen3.5", "Qwen3VLProcessor", _QWEN2),
    "qwen3_5_moe": Family("Qwen3.5 (mixture of experts)", "Qwen3VLProcessor", _QWEN2),
    "glm4v": Family("GLM-4.1V", "Glm4vProcessor", "Glm4vImageProcessor", clip=True, fsdp2=False),
    "glm46v": Family("GLM-4.6V", "Glm46VProcessor", "Glm46VImageProcessor", clip=True, fsdp2=False),
}
"""By `model_type` of a model's config.json."""

IMAGE_PROCESSORS: Final = {
    family.image_processor + twin: family.clip for family in FAMILIES.values() for twin in ("", "Pil")
}
"""Classes whose resizing is known, and whether their limits are of a clip."""


def names() -> str:
    """The families for a message: "Qwen2-VL, … or GLM-4.6V"."""
    *most, last = dict.fromkeys(family.name for family in FAMILIES.values() if "(" not in family.name)
    return f"{', '.join(most)} or {last}"


def refused(model_type: Any) -> tuple[str, str] | None:
    """What is wrong with a model of this `model_type`, and what to do; None for one of `FAMILIES`."""
    if model_type in FAMILIES:
        return None
    return f"verl 0.9.1 cannot train {model_type} on images", f"use a model of {names()}"
