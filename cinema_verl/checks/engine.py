"""What vLLM sets memory aside for when it starts: the largest input that it could be given, however the data are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from omegaconf import OmegaConf

from cinema_verl.checks.finding import Finding
from cinema_verl.data.tokens import Patching
from cinema_verl.training.arithmetic import model_context

WHERE: Final = "engine"
_FRAMES: Final = 14
"""Of the video that vLLM makes up for Qwen2-VL and Qwen2.5-VL (`_MAX_FRAMES_PER_VIDEO`, vllm 0.24 to 0.27)."""
_FRAMES_OF_A_TOKEN: Final = 2  # temporal_patch_size of all Qwen-VL models


def profiled_tokens(largest_image: int, max_model_len: int) -> int:
    """Vision tokens of the largest input that vLLM tries when it starts.

    verl limits images alone (`rollout.limit_images`), so it is one video of the largest pictures: of as many frames as
    the context holds, two a picture's tokens, at most 14 and at least one.

    Args:
        largest_image: Tokens of an image at the processor's `max_pixels`.
        max_model_len: Tokens of the context.
    """
    return largest_image * min(max(max_model_len // largest_image, 1), _FRAMES // _FRAMES_OF_A_TOKEN)


def inspect_engine(config: Any, patching: Patching) -> Iterator[Finding]:
    """Of a run that uses vLLM."""
    if OmegaConf.select(config, "actor_rollout_ref.rollout.name") != "vllm":
        return
    given = config.actor_rollout_ref.rollout.max_model_len
    length = given or model_context(config)
    key = "actor_rollout_ref.rollout.max_model_len"
    if length is None:
        advice = "set it to data.max_prompt_length + data.max_response_length"
        yield Finding(WHERE, key, None, "not set: vLLM takes the model's, which is not on this machine", advice)
        return
    needed = config.data.max_prompt_length + config.data.max_response_length
    image = int(patching.max_pixels // patching.factor**2)
    tokens = profiled_tokens(image, length)
    detail = f"vLLM sets memory aside for an input of {tokens:,} vision tokens when it starts (a context of {length:,})"
    least = profiled_tokens(image, needed)
    advice = f"set {key}={needed}, which is what a trajectory may have: {least:,} vision tokens"
    yield Finding(WHERE, "profile", None, detail, advice if tokens > least else "")
