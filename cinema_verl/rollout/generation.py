"""Batched sampling from a Hugging Face vision-language model: the numeric half of the transformers rollout engine.

One decoding loop over a batch of requests, each with its own sampling parameters and its own seed. What the requests of
a question have in common, its images and its prompt, is computed and kept once. It reports the log-probability of every
sampled token under the unmasked policy at the sampling temperature, which is the number that the actor computes for it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cinema_verl.rollout.shared_prompt import SharedPrompts, shared_attention


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
        begun: how many tokens at the end of `prompt_ids` are the response so far, of a request that was interrupted. It
            goes on as if it had not been: with the next number of its stream, and with stop texts that began there.

    Raises:
        ValueError: without a prompt, for `max_tokens` < 1, `top_p` outside (0, 1], an empty stop text, or a response so
            far that leaves no prompt.
    """

    prompt_ids: Sequence[int]
    images: Sequence[Any]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    begun: int = 0

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
        if not 0 <= self.begun < len(self.prompt_ids):
            raise ValueError(f"{self.begun} of {len(self.prompt_ids)} prompt tokens cannot be the response so far")


@dataclass
class Completion:
    """Sampled token ids, their log-probabilities (nats) and "stop", "length" or "aborted"; "" while it goes on."""

    token_ids: list[int]
    log_probs: list[float]
    stop_reason: str


@dataclass(frozen=True)
class Policy:
    """A model with what decoding needs to know about it.

    Attributes:
        model: a transformers image-text-to-text model in eval mode.
        processor: the family's processor, text and images -> model inputs; None for text-only models.
        decode: token ids -> text, special tokens skipped.
        eos: ids that end a response.
        banned: ids that must never be sampled (vision placeholders).
        pad: the padding id.
        image_token: id of the image placeholder, whose positions get image features; -1 for text-only models.
    """

    model: Any
    processor: Any
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


def sample(logits: torch.Tensor, uniform: torch.Tensor, greedy: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling: (B,) token ids from logits (B, V), uniform (B,) in [0, 1) and greedy (B,) bool."""
    cumulative = logits.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    # Scaling by the last entry absorbs rounding, so that the draw can never fall past the end of the vocabulary.
    drawn = torch.searchsorted(cumulative, (uniform.unsqueeze(1) * cumulative[:, -1:]), right=True).squeeze(1)
    return torch.where(greedy, logits.argmax(dim=-1), drawn.clamp_max(logits.shape[-1] - 1))


class _Sampler:
    """Draws the next token of rows, each by its request's parameters and from its request's own random stream.

    A draw depends on the request's seed and the token's place in the response only.
    """

    def __init__(self, policy: Policy, requests: Sequence[Request]):
        self.device = policy.model.device
        self.banned = list(policy.banned)
        self.temperature = torch.tensor([r.temperature for r in requests], dtype=torch.float32, device=self.device)
        self.top_k = torch.tensor([r.top_k for r in requests], device=self.device)
        self.top_p = torch.tensor([r.top_p for r in requests], dtype=torch.float32, device=self.device)
        self.streams = [np.random.default_rng(request.seed) for request in requests]
        for stream, request in zip(self.streams, requests, strict=True):
            stream.random(request.begun)  # drawn already

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> tuple[torch.Tensor, list[float]]:
        """Logits (N, V) of the requests `rows` -> (N,) token ids, and their log-probabilities (nats)."""
        index = torch.tensor(rows, device=self.device)
        temperature = self.temperature[index]
        greedy = temperature <= 0
        logits = logits.float() / torch.where(greedy, 1.0, temperature).unsqueeze(1)
        log_probs = logits.log_softmax(dim=-1)
        if self.banned:
            logits[:, self.banned] = float("-inf")
        allowed = truncate_logits(logits, self.top_k[index], self.top_p[index])
        uniform = torch.tensor([self.streams[row].random() for row in rows], dtype=torch.float64)
        token = sample(allowed, uniform.to(self.device), greedy)
        return token, log_probs.gather(1, token.unsqueeze(1)).squeeze(1).tolist()


@torch.inference_mode()
def generate(
    policy: Policy,
    requests: Sequence[Request],
    watch: Callable[[int, Completion], object] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Completion]:
    """Continue every request, all in one batch.

    Requests with the same prompt and images share what is computed of both. A row leaves the batch when it samples an
    end token, completes a stop text or reaches its `max_tokens`, and the rest go on without it.

    Args:
        watch: is told after each token which request it continues, by its place, and what there is of its completion;
            of one that has ended that is all of it.
        interrupted: is asked before each token; once it says so, what has not ended is returned as "aborted".

    Raises:
        NotImplementedError: for a model that `cinema_verl.rollout.shared_prompt` cannot serve.
    """
    completions = [Completion([], [], "") for _ in requests]
    if interrupted():
        return [Completion([], [], "aborted") for _ in requests]
    draw, stopped = _Sampler(policy, requests), _StopTexts(policy.decode)
    prompts, prompt_of = distinct(requests)
    # Rows of one prompt stand together.
    rows = sorted(range(len(requests)), key=prompt_of.__getitem__)
    continued = [prompt_of[row] for row in rows]
    logits, cache, attention, next_position = _prefill(policy, prompts)
    logits, next_position = logits[continued], next_position[..., continued, :]
    shared = SharedPrompts(cache, attention, continued)
    with shared_attention(policy.model):
        while True:
            token, log_probs = draw(logits, rows)
            keep = []
            for i, (row, token_id) in enumerate(zip(rows, token.tolist(), strict=True)):
                completion = completions[row]
                completion.token_ids.append(token_id)
                completion.log_probs.append(log_probs[i])
                if token_id in policy.eos or stopped(requests[row], completion.token_ids):
                    completion.stop_reason = "stop"
                elif len(completion.token_ids) >= requests[row].max_tokens:
                    completion.stop_reason = "length"
                else:
                    keep.append(i)
                if watch is not None:
                    watch(row, completion)
            if keep and interrupted():
                for i in keep:
                    completions[rows[i]].stop_reason = "aborted"
                keep = []
            if not keep:
                return completions
            if len(keep) < len(rows):
                shared.keep(keep)
                rows = [rows[i] for i in keep]
                token, next_position = token[keep], next_position[..., keep, :]
            logits = policy.model(
                input_ids=token.unsqueeze(1),
                position_ids=next_position,
                past_key_values=shared.cache,
                use_cache=True,
                logits_to_keep=1,
                shared=shared,
            ).logits[:, -1]
            next_position = next_position + 1


def distinct(requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
    """The first request of each prompt with its images, and for each request the number of its prompt."""
    digests: dict[int, tuple[Any, ...]] = {}  # of images, by identity
    numbers: dict[tuple[Any, ...], int] = {}
    firsts: list[Request] = []
    prompt_of = []
    for request in requests:
        for image in request.images:
            if id(image) not in digests:
                digests[id(image)] = (image.mode, image.size, hashlib.sha256(image.tobytes()).digest())
        content = (tuple(request.prompt_ids), *(digests[id(image)] for image in request.images))
        if content not in numbers:
            numbers[content] = len(firsts)
            firsts.append(request)
        prompt_of.append(numbers[content])
    return firsts, prompt_of


def _prefill(policy: Policy, prompts: Sequence[Request]) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
    """One forward pass over U prompts, padded on the left to P tokens.

    Returns:
        Logits of the next token (U, V), the cache, which tokens are no padding (U, P), and the next token's rotary
        position, (U, 1) or (4, U, 1).
    """
    model, device = policy.model, policy.model.device
    width = max(len(prompt.prompt_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), policy.pad, dtype=torch.long)
    attention = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt.prompt_ids) :] = torch.tensor(prompt.prompt_ids)
        attention[row, width - len(prompt.prompt_ids) :] = 1
    input_ids, attention = input_ids.to(device), attention.to(device)
    vision = _vision_inputs(policy, prompts)
    # Qwen's rotary positions of text after images depend on the image grids; every later token is one further on.
    positions = _positions(policy, input_ids, attention, vision)
    output = model(
        input_ids=input_ids,
        attention_mask=attention,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **vision,
    )
    return output.logits[:, -1], output.past_key_values, attention, positions[..., -1:] + 1


class _StopTexts:
    """Tells when a response completes one of its stop texts, decoding only when its last token could do so."""

    # A stop text is short: the last 32 tokens hold it whole (the longest of ours, "</answer>", is 9 characters).
    TAIL = 32

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self.decode = decode
        self.pieces: dict[int, str] = {}

    def __call__(self, request: Request, token_ids: Sequence[int]) -> bool:
        last, stop = token_ids[-1], request.stop
        piece = self.pieces.get(last)
        if piece is None:
            piece = self.pieces[last] = self.decode([last])
        # A piece that is not ASCII may be part of a character, so its text alone says nothing.
        if not any(text[-1] in piece or not piece.isascii() for text in stop):
            return False
        begun = request.prompt_ids[len(request.prompt_ids) - request.begun :]
        tail = self.decode([*begun[-self.TAIL :], *token_ids][-self.TAIL :])
        return any(text in tail for text in stop)


def _vision_inputs(policy: Policy, prompts: Sequence[Request]) -> dict[str, torch.Tensor]:
    """What the processor makes of the prompts' images, in the order of the prompts: the model's own inputs."""
    seen = [prompt for prompt in prompts if prompt.images]
    if not seen:
        return {}
    # As verl's agent loop asks: the prompt's text, with one placeholder an image where placeholders are text.
    inputs = policy.processor(
        text=[policy.decode(_collapse(prompt.prompt_ids, policy.image_token)) for prompt in seen],
        images=[list(prompt.images) for prompt in seen],
        padding=True,
        return_tensors="pt",
    )
    vision = {name: value.to(policy.model.device) for name, value in inputs.items() if name not in _OF_TEXT}
    return {n: v.to(policy.model.dtype) if v.is_floating_point() else v for n, v in vision.items()}


def _collapse(ids: Sequence[int], token: int) -> list[int]:
    """One of each run of a token."""
    return [each for i, each in enumerate(ids) if each != token or i == 0 or ids[i - 1] != token]


_OF_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Outputs of a processor that belong to the text, which the request has with its placeholders expanded."""


def _positions(
    policy: Policy, input_ids: torch.Tensor, attention: torch.Tensor, vision: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Rotary positions of a left-padded batch: (4, B, T) text + (time, height, width), as verl's trainer makes them."""
    text = (attention.cumsum(dim=-1) - 1).clamp_min(0)
    rope_index = getattr(getattr(policy.model, "model", policy.model), "get_rope_index", None)
    if rope_index is None:
        return text
    multimodal, _ = rope_index(
        input_ids,
        mm_token_type_ids=torch.eq(input_ids, policy.image_token).long(),
        image_grid_thw=vision.get("image_grid_thw"),
        attention_mask=attention,
    )
    return torch.cat((text.unsqueeze(0), multimodal), dim=0)
