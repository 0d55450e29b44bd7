"""Prompts that are kept once: the engine's continuations are those of ordinary attention, whatever model and batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cinema_verl.demo.tiny_model import build_config
from cinema_verl.rollout.generation import Policy, Request, distinct, generate

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}


def qwen2_5_vl(tokenizer, **_):
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))


def qwen3_vl(tokenizer, **ids):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 3,
            "rope_parameters": {**ROPE, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            **VISION,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
        **ids,
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen3_5(tokenizer, **ids):
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    config = Qwen3_5Config(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "rope_parameters": {**ROPE, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25},
        },
        vision_config={**VISION, "out_hidden_size": 64, "num_position_embeddings": 64},
        **ids,
    )
    return Qwen3_5ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[qwen2_5_vl, qwen3_vl, qwen3_5], ids=lambda build: build.__name__)
def policy(request, processor):
    tokenizer = processor.tokenizer
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
    torch.manual_seed(0)
    model = request.param(tokenizer, **ids).eval()
    return Policy(
        model=model,
        processor=processor,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        eos=frozenset({tokenizer.eos_token_id}),
        banned=(ids["image_token_id"], ids["video_token_id"]),
        pad=tokenizer.pad_token_id,
        image_token=ids["image_token_id"],
    )


@pytest.fixture(scope="module")
def ask(processor):
    """A request about pictures of a seed; each request has its own copies of them."""

    def ask(images, seed, words=3, pictures=0, **parameters):
        noise = np.random.default_rng(pictures)
        shown = [Image.fromarray(noise.integers(0, 256, (28, 56, 3), dtype=np.uint8)) for _ in range(images)]
        content = [{"type": "image"}] * images + [{"type": "text", "text": " ".join(["largest"] * words)}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        ids = processor(text=[prompt], images=shown or None)["input_ids"][0]
        return Request(**({"prompt_ids": ids, "images": shown, "max_tokens": 8, "seed": seed} | parameters))

    return ask


@pytest.fixture
def mixed(ask):
    """Groups of three, one and four, of prompts of different lengths, mixed, whose rows end at different lengths."""
    asked = [ask(2, seed, max_tokens=2 + 3 * seed) for seed in range(3)]
    asked += [ask(0, 9, words=20, max_tokens=11)]
    asked += [ask(1, seed, words=9, max_tokens=12 - 3 * seed) for seed in range(4)]
    return [asked[i] for i in (3, 0, 4, 5, 1, 6, 2, 7)]


def forced(policy, request, completion):
    """Log-probabilities of the response by one forward pass over prompt and response, without a cache."""
    ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    vision = {}
    if request.images:
        vision = dict(policy.processor.image_processor(images=list(request.images), return_tensors="pt"))
        vision["mm_token_type_ids"] = (ids == policy.image_token).long()
    with torch.no_grad():
        logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), **vision).logits[0].float()
    start = len(request.prompt_ids)
    return logits[start - 1 : -1].log_softmax(dim=-1).gather(1, ids[0, start:, None]).squeeze(1).tolist()


def test_rows_that_share_a_prompt_and_end_at_different_lengths(policy, mixed):
    before = policy.model.config.get_text_config()._attn_implementation
    together = generate(policy, mixed)
    assert {len(completion.token_ids) for completion in together} > {2, 3}
    for request, completion in zip(mixed, together, strict=True):
        alone = generate(policy, [request])[0]
        assert completion.token_ids == alone.token_ids
        assert completion.log_probs == pytest.approx(alone.log_probs, abs=1e-5)
        assert completion.log_probs == pytest.approx(forced(policy, request, completion), abs=1e-5)
    assert policy.model.config.get_text_config()._attn_implementation == before


def test_a_group_costs_one_pass_over_its_prompt(policy, ask):
    seen = []
    hook = policy.model.register_forward_hook(
        lambda model, arguments, keywords, output: seen.append(
            (tuple(keywords["input_ids"].shape), keywords.get("pixel_values"), keywords.get("shared"))
        ),
        with_kwargs=True,
    )
    try:
        generate(policy, [ask(2, seed) for seed in range(8)])
    finally:
        hook.remove()
    (first, pixels, _), *rest = seen
    assert first[0] == 1
    assert len(pixels) == 2 * 8  # two pictures of 2 x 4 patches
    assert rest
    assert all(shape[1] == 1 for shape, _, _ in rest)
    for _, _, shared in rest:
        assert all(len(keys) == 1 for keys in shared.keys.values()), "kept once for all rows"


def test_requests_are_the_same_question_by_content_only(ask):
    one, again, other_pictures, other_words = ask(2, 1), ask(2, 2), ask(2, 3, pictures=1), ask(2, 4, words=4)
    grey = replace(one, images=[image.convert("L") for image in one.images])
    fewer = replace(one, images=one.images[:1])
    prompts, numbers = distinct([one, other_pictures, again, other_words, grey, fewer, one])
    assert numbers == [0, 1, 0, 2, 3, 4, 0]
    assert prompts == [one, other_pictures, other_words, grey, fewer]


def test_the_whole_processor_is_asked_as_verl_asks(policy, ask, processor):
    """A family's processor may add inputs to those of its image processor; verl gives them all to the model."""
    calls = []

    class Adding:
        image_token_id = policy.image_token

        def __call__(self, text, images, **options):
            calls.append((len(text), [len(shown) for shown in images]))
            return processor(text=text, images=images, **options) | {"extra": torch.ones(len(text), 2)}

    given = []
    hook = policy.model.register_forward_pre_hook(
        lambda model, arguments, keywords: given.append(keywords.pop("extra", None)), with_kwargs=True
    )
    try:
        generate(replace(policy, processor=Adding()), [ask(2, 0), ask(0, 1), ask(1, 2), ask(2, 3)])
    finally:
        hook.remove()
    assert given[0].shape == (2, 2)
    assert calls == [(2, [2, 1])], "questions with images, each once"
    assert all(extra is None for extra in given[1:])


def test_a_layer_that_forgets_is_refused(ask, processor, policy):
    """Sliding windows would need to know how far back each row's prompt lies."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = build_config(processor.tokenizer)
    config.text_config.use_sliding_window, config.text_config.sliding_window = True, 4
    config.text_config.layer_types = ["full_attention", "sliding_attention", "sliding_attention"]
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with pytest.raises(NotImplementedError, match=r"layer 1 keeps a DynamicSlidingWindowLayer.*rollout\.name=vllm"):
        generate(replace(policy, model=model), [ask(1, 0)])
