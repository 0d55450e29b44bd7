"""Batched sampling from a Hugging Face vision-language model: the numeric half of the transformers rollout engine.

One decoding loop over a batch of requests, each with its own sampling parameters and its own seed. It reports the
log-probability of every sampled token under the unmasked policy at the sampling temperature, which is the number that
the actor computes for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    Attributes:
        prompt_ids: token ids with every image placeholder expanded.
        images: PIL images of the prompt, in order.
        max_tokens: largest number of tokens to sample, >= 1.
        temperature: 0 means greedy.
        top_p, top_k: nucleus and top-k truncation; 1.0 and -1 switch them off.
        stop: texts that end the response, kept in it.
        seed: of this request's own random stream; None draws a fresh one.

    Raises:
        ValueError: without a prompt, for `max_tokens` < 1, `top_p` outside (0, 1] or an empty stop text.
    """

    prompt_ids: Sequence[int]
    images: Sequence[Any]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        # Checked here and not in the batch, so that a bad request fails alone.
        if not len(self.prompt_ids) or self.max_tokens < 1:
            raise ValueError(
                f"a request needs a prompt and room for at least one token, got {len(self.prompt_ids)} prompt tokens "
                f"and max_tokens={self.max_tokens}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], where 1 switches it off; got {self.top_p!r}")
        if "" in self.stop:
            raise ValueError("a stop text must not be empty")


@dataclass
class Completion:
    """Sampled token ids, their log-probabilities (nats) and "stop" or "length"."""

    token_ids: list[int]
    log_probs: list[float]
    stop_reason: str


@dataclass(frozen=True)
class Policy:
    """A model with what decoding needs to know about it.

    Attributes:
        model: a transformers image-text-to-text model in eval mode.
        image_processor: pixels -> `pixel_values`, `image_grid_thw`; None for text-only models.
        decode: token ids -> text, special tokens skipped.
        eos: ids that end a response.
        banned: ids that must never be sampled (vision placeholders).
        pad: the padding id.
        image_token: id of the image placeholder, whose positions get image features; -1 for text-only models.
    """

    model: Any
    image_processor: Any
    decode: Callable[[Sequence[int]], str]
    eos: frozenset[int]
    banned: tuple[int, ...]
    pad: int
    image_token: int


def truncate_logits(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Per-row top-k and nucleus truncation: logits (B, V) with everything outside set to -inf.

    Args:
        logits: (B, V), already divided by the temperature.
        top_k: (B,) int, <= 0 means off.
        top_p: (B,) float, 1.0 means off. The token that crosses the threshold is kept.
    """
    if bool((top_k <= 0).all() and (top_p >= 1.0).all()):
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    drop = (top_k > 0).unsqueeze(1) & (rank >= top_k.unsqueeze(1))
    probability = ordered.softmax(dim=-1)
    drop |= (top_p < 1.0).unsqueeze(1) & (probability.cumsum(dim=-1) - probability >= top_p.unsqueeze(1))
    return logits.masked_fill(drop.scatter(1, order, drop), float("-inf"))


class _Streams:
    """One uniform random stream a request, so that a draw depends on its own seed and position only."""

    def __init__(self, requests: Sequence[Request]):
        self.streams = [np.random.default_rng(request.seed) for request in requests]

    def draw(self, rows: Sequence[int]) -> torch.Tensor:
        """(len(rows),) float64 in [0, 1)."""
        return torch.tensor([self.streams[row].random() for row in rows], dtype=torch.float64)


def sample(logits: torch.Tensor, uniform: torch.Tensor, greedy: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling: (B,) token ids from logits (B, V), uniform (B,) in [0, 1) and greedy (B,) bool."""
    cumulative = logits.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    # Scaling by the last entry absorbs rounding, so that the draw can never fall past the end of the vocabulary.
    drawn = torch.searchsorted(cumulative, (uniform.unsqueeze(1) * cumulative[:, -1:]), right=True).squeeze(1)
    return torch.where(greedy, logits.argmax(dim=-1), drawn.clamp_max(logits.shape[-1] - 1))


@torch.inference_mode()
def generate(
    policy: Policy, requests: Sequence[Request], watch: Callable[[int, Completion], object] | None = None
) -> list[Completion]:
    """Continue every request, all in one batch.

    Prompts are padded on the left; a row leaves the batch when it samples an end token, completes a stop text or
    reaches its `max_tokens`, and the rest go on without it.

    Args:
        watch: is told after each token which request it continues, by its place, and what there is of its completion.
    """
    model, device = policy.model, policy.model.device
    completions = [Completion([], [], "length") for _ in requests]
    temperature = torch.tensor([r.temperature for r in requests], dtype=torch.float32, device=device)
    greedy = temperature <= 0
    scale = torch.where(greedy, torch.ones_like(temperature), temperature)
    top_k = torch.tensor([r.top_k for r in requests], device=device)
    top_p = torch.tensor([r.top_p for r in requests], dtype=torch.float32, device=device)
    streams = _Streams(requests)
    stopped = _StopTexts(policy.decode)

    width = max(len(r.prompt_ids) for r in requests)
    input_ids = torch.full((len(requests), width), policy.pad, dtype=torch.long)
    attention = torch.zeros_like(input_ids)
    for row, request in enumerate(requests):
        input_ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        attention[row, width - len(request.prompt_ids) :] = 1
    input_ids, attention = input_ids.to(device), attention.to(device)
    vision = _vision_inputs(policy, requests, input_ids)
    # Qwen's rotary positions of text after images depend on the image grids; every later token is one further on.
    positions = _positions(model, input_ids, attention, vision)
    inputs = {"input_ids": input_ids, "position_ids": positions, **vision}
    next_position = positions[..., -1:] + 1

    alive = torch.arange(len(requests), device=device)
    cache = None
    while True:
        output = model(**inputs, attention_mask=attention, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        logits = output.logits[:, -1].float() / scale[alive].unsqueeze(1)
        log_probs = logits.log_softmax(dim=-1)
        allowed = logits.clone()
        if policy.banned:
            allowed[:, list(policy.banned)] = float("-inf")
        allowed = truncate_logits(allowed, top_k[alive], top_p[alive])
        rows = alive.tolist()
        token = sample(allowed, streams.draw(rows).to(device), greedy[alive])
        chosen = log_probs.gather(1, token.unsqueeze(1)).squeeze(1).tolist()

        keep = []
        for i, (row, token_id) in enumerate(zip(rows, token.tolist(), strict=True)):
            completion = completions[row]
            completion.token_ids.append(token_id)
            completion.log_probs.append(chosen[i])
            if watch is not None:
                watch(row, completion)
            if token_id in policy.eos or stopped(completion.token_ids, requests[row].stop):
                completion.stop_reason = "stop"
            elif len(completion.token_ids) < requests[row].max_tokens:
                keep.append(i)
        if not keep:
            return completions
        if len(keep) < len(rows):
            index = torch.tensor(keep, device=device)
            alive, token, attention = alive[index], token[index], attention[index]
            next_position = next_position[..., index, :]
            cache.batch_select_indices(index)
        attention = torch.cat((attention, attention.new_ones(len(keep), 1)), dim=1)
        inputs = {"input_ids": token.unsqueeze(1), "position_ids": next_position}
        next_position = next_position + 1


class _StopTexts:
    """Tells when a response completes one of its stop texts, decoding only when its last token could do so."""

    # A stop text is short: the last 32 tokens hold it whole (the longest of ours, "</answer>", is 9 characters).
    TAIL = 32

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self.decode = decode
        self.pieces: dict[int, str] = {}

    def __call__(self, token_ids: Sequence[int], stop: tuple[str, ...]) -> bool:
        last = token_ids[-1]
        piece = self.pieces.get(last)
        if piece is None:
            piece = self.pieces[last] = self.decode([last])
        # A piece that is not ASCII may be part of a character, so its text alone says nothing.
        if not any(text[-1] in piece or not piece.isascii() for text in stop):
            return False
        tail = self.decode(token_ids[-self.TAIL :])
        return any(text in tail for text in stop)


def _vision_inputs(policy: Policy, requests: Sequence[Request], input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    images = [image for request in requests for image in request.images]
    if not images:
        return {}
    features = policy.image_processor(images=images, return_tensors="pt")
    return {
        "pixel_values": features["pixel_values"].to(input_ids.device, policy.model.dtype),
        "image_grid_thw": features["image_grid_thw"].to(input_ids.device),
        "mm_token_type_ids": torch.eq(input_ids, policy.image_token).long(),
    }


def _positions(
    model: Any, input_ids: torch.Tensor, attention: torch.Tensor, vision: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Rotary positions of a left-padded batch: (4, B, T) text + (time, height, width), as verl's trainer makes them."""
    text = (attention.cumsum(dim=-1) - 1).clamp_min(0)
    rope_index = getattr(getattr(model, "model", model), "get_rope_index", None)
    if rope_index is None:
        return text
    multimodal, _ = rope_index(
        input_ids,
        mm_token_type_ids=vision.get("mm_token_type_ids", torch.zeros_like(input_ids)),
        image_grid_thw=vision.get("image_grid_thw"),
        attention_mask=attention,
    )
    return torch.cat((text.unsqueeze(0), multimodal), dim=0)
