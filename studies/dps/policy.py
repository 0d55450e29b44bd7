"""The small policy in one process: what it samples, and what the log-probabilities of given responses are.

Sampling is the rollout engine of the package (`cinema_verl.rollout.generation`). Log-probabilities are the model's own
modules without their wrapper, so that the responses to a question share its prompt: an image is one token of 28x28
pixels, and rotary positions simply count. `tests/studies` holds both against verl's actor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from cinema_verl.demo.digits import DigitsQuestion
from cinema_verl.meta_action import TAGS
from cinema_verl.rollout.generation import Completion, Policy, Request, generate
from cinema_verl.utils.torchvision import ensure_torchvision_importable

ensure_torchvision_importable()

from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache  # noqa: E402

IMAGE: Final = "<image>"
STOP: Final = TAGS["answer"].close


@dataclass(frozen=True)
class Prompt:
    """A question as the policy sees it.

    Attributes:
        ids: token ids, one placeholder an image.
        images: names of the images, in order.
    """

    ids: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Sampled:
    """A response: its token ids, their log-probabilities when they were sampled (nats), and its text."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str


class StudyPolicy:
    """A Hugging Face directory of the tiny model, and the images that its questions show.

    Args:
        directory: of the weights; they are read in fp32.
        pictures: every image by its name.
    """

    def __init__(self, directory: Path, pictures: Mapping[str, Image.Image]) -> None:
        self.processor = AutoProcessor.from_pretrained(directory)
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
        self.pictures = pictures
        self.tokenizer = self.processor.tokenizer
        self.image_token: int = self.processor.image_token_id
        self._pixels: dict[str, torch.Tensor] = {}
        self.engine = Policy(
            model=self.model,
            processor=self.processor,
            decode=lambda ids: self.tokenizer.decode(ids, skip_special_tokens=True),
            eos=frozenset([self.tokenizer.eos_token_id]),
            banned=tuple(
                self.tokenizer.convert_tokens_to_ids(name)
                for name in ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
            ),
            pad=self.tokenizer.pad_token_id,
            image_token=self.image_token,
        )

    def prompt(self, question: DigitsQuestion) -> Prompt:
        """The question in the model's chat template."""
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": question.prompt}], tokenize=False, add_generation_prompt=True
        ).replace(IMAGE, "<|vision_start|><|image_pad|><|vision_end|>")
        return Prompt(tuple(self.tokenizer(text)["input_ids"]), question.images)

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int | None], max_tokens: int) -> list[Sampled]:
        """One response at temperature 1 for each prompt, each from its own seed; None is the greedy response."""
        requests = [
            Request(
                prompt_ids=prompt.ids,
                images=[self.pictures[name] for name in prompt.images],
                max_tokens=max_tokens,
                temperature=0.0 if seed is None else 1.0,
                stop=(STOP,),
                seed=seed,
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [self._sampled(completion) for completion in generate(self.engine, requests)]

    def _sampled(self, completion: Completion) -> Sampled:
        return Sampled(
            tuple(completion.token_ids), tuple(completion.log_probs), self.engine.decode(completion.token_ids)
        )

    def pixels(self, name: str) -> torch.Tensor:
        """Patches of an image as the processor cuts them: (4, 1176) float."""
        if name not in self._pixels:
            made = self.processor.image_processor(images=[self.pictures[name]], return_tensors="pt")
            if made["image_grid_thw"].tolist() != [[1, 2, 2]]:
                raise ValueError(f"image {name} is not one token: its grid is {made['image_grid_thw'].tolist()}")
            self._pixels[name] = made["pixel_values"]
        return self._pixels[name]

    def log_probs(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> tuple[torch.Tensor, ...]:
        """Log-probabilities of responses, with gradients.

        Args:
            prompts: (B,)
            responses: (B,) token ids, at least one each; T is the length of the longest.

        Returns:
            (B, T) log-probabilities (nats), (B, T) entropies of the next token (nats), and the mask (B, T) of what is
            response, as floats.
        """
        prompt_of = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        rows = torch.tensor([prompt_of[prompt] for prompt in prompts])
        states, attention, cache = self._read(list(prompt_of))
        cache.batch_select_indices(rows)
        ids, mask = _padded(responses, self.engine.pad)
        lengths = attention.sum(-1)[rows].unsqueeze(1)
        inner: Any = self.model.model
        written = inner.language_model(
            inputs_embeds=inner.get_input_embeddings()(ids[:, :-1]),
            attention_mask=torch.cat((attention[rows], mask[:, :-1]), dim=1),
            position_ids=(lengths + torch.arange(ids.shape[1] - 1)).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        # The state before a token predicts it.
        distribution = self.model.lm_head(torch.cat((states[rows].unsqueeze(1), written), dim=1)).log_softmax(dim=-1)
        with torch.no_grad():
            entropy = -(distribution.exp() * distribution).sum(-1)
        return distribution.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropy, mask.float()

    def _read(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Of U prompts, padded on the left: the last state (U, H), which tokens are theirs (U, P), and the cache."""
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), width), self.engine.pad)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            attention[row, width - len(prompt.ids) :] = 1
        inner: Any = self.model.model
        names = {name: place for place, name in enumerate({name: None for prompt in prompts for name in prompt.images})}
        pixels = torch.cat([self.pixels(name) for name in names])
        features = inner.get_image_features(pixels, torch.tensor([[1, 2, 2]]).expand(len(names), -1)).pooler_output
        places = torch.tensor([names[name] for prompt in prompts for name in prompt.images])
        where = (ids == self.image_token).unsqueeze(-1)
        embeds = inner.get_input_embeddings()(ids).masked_scatter(where, torch.cat(list(features))[places])
        cache = DynamicCache(config=inner.language_model.config)
        output = inner.language_model(
            inputs_embeds=embeds,
            attention_mask=attention,
            position_ids=(attention.cumsum(-1) - 1).clamp_min(0).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1], attention, cache


def _padded(responses: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) padded on the right, and which are the responses' (B, T)."""
    ids = torch.full((len(responses), max(map(len, responses))), pad)
    mask = torch.zeros_like(ids)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response)
        mask[row, : len(response)] = 1
    return ids, mask
