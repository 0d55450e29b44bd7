"""Attention of continuations over the prompts that they share: a prompt's keys and values are kept once.

The G continuations of a question attend to the same prompt. Here its keys and values have no copies: the queries of all
its continuations meet them in one matrix product, their scores are joined with those over each continuation's own
tokens, and one softmax runs over both. The result is that of ordinary attention, up to rounding.

It is an attention function of transformers (`AttentionInterface`), so models whose attention is chosen by name need no
change. States of linear attention, which do not grow with the prompt, are copied to every continuation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from cinema_verl.utils.torchvision import ensure_torchvision_importable

ensure_torchvision_importable()

from transformers import AttentionInterface  # noqa: E402
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer  # noqa: E402

NAME: Final = "cinema_shared_prompt"


class SharedPrompts:
    """Keys and values of U prompts, and which prompt each of R rows continues.

    Args:
        cache: of a forward pass over the prompts; it becomes that of the rows, which have no tokens of their own yet.
        attention: (U, P) 1 for tokens, 0 for padding.
        prompt: (R,) number of each row's prompt.

    Attributes:
        cache: what the next forward pass over the rows takes as `past_key_values`.
        keys, values: of each layer of softmax attention, (U, K, P, D) with K heads of D numbers.

    Raises:
        NotImplementedError: for a layer whose attention is neither full nor linear.
    """

    def __init__(self, cache: Cache, attention: torch.Tensor, prompt: Sequence[int]):
        self.cache = cache
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.device = attention.device
        rows = torch.tensor(prompt, device=self.device)
        for number, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer:
                self.keys[number], self.values[number] = layer.keys, layer.values
                cache.layers[number] = DynamicLayer()
            elif isinstance(layer, CacheLayerMixin):
                raise NotImplementedError(
                    f"layer {number} keeps a {type(layer).__name__}; the transformers rollout engine takes models of "
                    f"full and linear attention only: use rollout.name=vllm"
                )
            else:
                layer.reorder_cache(rows)
        self.padding = None if bool(attention.all()) else attention == 0
        self.prompts = len(attention)
        self._place(prompt)

    def _place(self, prompt: Sequence[int]) -> None:
        """Give each row a place among those of its prompt: there are as many as the largest group has rows."""
        self.prompt = list(prompt)
        sizes = [0] * self.prompts
        places = []
        for number in self.prompt:
            places.append((number, sizes[number]))
            sizes[number] += 1
        self.group = max(sizes)
        slots = [number * self.group + place for number, place in places]
        everywhere = slots == list(range(self.prompts * self.group))
        self.slots = None if everywhere else torch.tensor(slots, device=self.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order. Prompts that no row continues go when they are half of all."""
        self.cache.reorder_cache(torch.tensor(rows, device=self.device))
        prompt = [self.prompt[row] for row in rows]
        left = sorted(set(prompt))
        if 2 * len(left) <= self.prompts:
            index = torch.tensor(left, device=self.device)
            for kept in (self.keys, self.values):
                for number in kept:
                    kept[number] = kept[number][index]
            self.padding = None if self.padding is None else self.padding[index]
            self.prompts = len(left)
            prompt = [left.index(number) for number in prompt]
        self._place(prompt)

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, K, N, X) to (U, K, G * N, X), where G is the size of the largest group; places without a row are 0."""
        if self.slots is not None:
            placed = rows.new_zeros(self.prompts * self.group, *rows.shape[1:])
            placed[self.slots] = rows
            rows = placed
        _, heads, number, size = rows.shape
        return rows.view(self.prompts, self.group, heads, number, size).transpose(1, 2).flatten(2, 3)

    def by_row(self, together: torch.Tensor) -> torch.Tensor:
        """The inverse of `by_prompt`."""
        _, heads, number, size = together.shape
        rows = together.view(self.prompts, heads, self.group, number // self.group, size).transpose(1, 2).flatten(0, 1)
        return rows if self.slots is None else rows[self.slots]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared: SharedPrompts,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One new token of each row over the row's prompt and over its own tokens so far.

    Args:
        query: (R, H, 1, D).
        key, value: (R, K, S, D), the rows' own; H is a multiple of K.

    Returns:
        (R, 1, H, D), and None for the weights.

    Scores and softmax are in float32, whatever the model's precision.
    """
    layer: Any = module.layer_idx
    heads, groups = query.shape[1], key.shape[1]
    query = (query * scaling).view(len(query), groups, heads // groups, -1).float()
    over_prompt = shared.by_prompt(query) @ shared.keys[layer].float().transpose(-1, -2)
    if shared.padding is not None:
        over_prompt.masked_fill_(shared.padding[:, None, None], float("-inf"))
    over_own = shared.by_prompt(query @ key.float().transpose(-1, -2))
    weights = torch.cat((over_prompt, over_own), dim=-1).softmax(dim=-1).to(value.dtype)
    length = over_prompt.shape[-1]
    output = shared.by_row(weights[..., :length] @ shared.values[layer])
    output = output + shared.by_row(weights[..., length:]) @ value
    return output.reshape(len(output), 1, heads, -1), None


AttentionInterface.register(NAME, attend)  # type: ignore[arg-type]  # one query a row, and prompts as a keyword


@contextmanager
def shared_attention(model: Any) -> Iterator[None]:
    """Inside, the model's text decoder attends by `attend`; forward passes get `shared=` and no mask.

    Raises:
        NotImplementedError: for a model whose attention cannot be chosen.
    """
    text = model.config.get_text_config()
    part = next((name for name in model.config.sub_configs if getattr(model.config, name) is text), "")
    before = text._attn_implementation
    model.set_attn_implementation({part: NAME})
    try:
        if text._attn_implementation != NAME:
            raise NotImplementedError(
                f"{type(model).__name__} does not let its attention be chosen (transformers' AttentionInterface), "
                "which the transformers rollout engine needs: use rollout.name=vllm"
            )
        yield
    finally:
        model.set_attn_implementation({part: before})
