"""Batched sampling: exactly what one request alone would get, with the actor's own log-probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from verl.utils import hf_processor

from cinema_verl.rollout.generation import Policy, Request, generate, sample, truncate_logits

STOP = "</answer>"


@pytest.fixture(scope="module")
def processor(tiny_model):
    return hf_processor(str(tiny_model))


@pytest.fixture(scope="module")
def policy(tiny_model, processor):
    from transformers import AutoModelForImageTextToText

    tokenizer = processor.tokenizer
    return Policy(
        model=AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32).eval(),
        processor=processor,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        eos=frozenset({tokenizer.eos_token_id}),
        banned=tuple(tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])),
        pad=tokenizer.pad_token_id,
        image_token=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )


@pytest.fixture(scope="module")
def ask(processor):
    """A request about so many random images (one or two tokens wide each) and a question of so many words."""

    def ask(images, words=5, **parameters):
        noise = np.random.default_rng(images)
        pictures = [
            Image.fromarray(noise.integers(0, 256, (28, 28 * (1 + i % 2), 3), dtype=np.uint8)) for i in range(images)
        ]
        content = [{"type": "image"}] * images + [{"type": "text", "text": " ".join(["largest"] * words)}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        ids = processor(text=[prompt], images=pictures or None)["input_ids"][0]
        return Request(**({"prompt_ids": ids, "images": pictures, "max_tokens": 12, "seed": images} | parameters))

    return ask


def fixed(policy, token, **changes):
    """The same policy, but with one token that it can hardly help sampling: the rest of its vocabulary is banned."""
    others = tuple(i for i in range(policy.model.config.text_config.vocab_size) if i != token)
    return replace(policy, banned=others, **changes)


def assert_same(batched, alone):
    assert batched.token_ids == alone.token_ids
    assert batched.stop_reason == alone.stop_reason
    assert batched.log_probs == pytest.approx(alone.log_probs, abs=1e-4)


def forced_log_probs(policy, request, completion):
    """The log-probability of each response token by one forward over prompt and response, positions by transformers."""
    ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    vision = {}
    if request.images:
        vision = dict(policy.processor.image_processor(images=list(request.images), return_tensors="pt"))
        vision["mm_token_type_ids"] = (ids == policy.image_token).long()
    with torch.no_grad():
        logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), **vision).logits[0].float()
    start = len(request.prompt_ids)
    log_probs = (logits[start - 1 : -1] / (request.temperature or 1.0)).log_softmax(dim=-1)
    return log_probs.gather(1, ids[0, start:, None]).squeeze(1).tolist()


@pytest.fixture(scope="module")
def mixed_requests(ask):
    """All that can differ within a batch: images, lengths, limits, temperatures, truncation."""
    return [
        ask(2, words=3),
        ask(0, words=17, temperature=0.7),
        ask(4, words=1, max_tokens=1),
        ask(1, words=30, max_tokens=25, top_p=0.8),
        ask(3, words=8, temperature=0.0),
        ask(2, words=3, seed=99, top_k=3),
    ]


def test_a_batch_gives_every_request_what_it_would_get_alone(policy, mixed_requests):
    batched = generate(policy, mixed_requests)
    for request, completion in zip(mixed_requests, batched, strict=True):
        assert_same(completion, generate(policy, [request])[0])
    assert len({tuple(completion.token_ids) for completion in batched}) == len(batched)


def test_rows_that_finish_leave_the_others_undisturbed(policy, ask):
    requests = [ask(i % 3, words=2 + i, max_tokens=1 + 5 * (i % 4), seed=i) for i in range(8)]
    for request, completion in zip(requests, generate(policy, requests), strict=True):
        assert len(completion.token_ids) <= request.max_tokens
        assert_same(completion, generate(policy, [request])[0])


def test_log_probs_are_those_of_a_full_forward_over_prompt_and_response(policy, mixed_requests):
    """What the actor computes: the policy at the request's temperature, neither truncated nor masked."""
    assert {request.temperature for request in mixed_requests} >= {0.0, 0.7, 1.0}
    for request, completion in zip(mixed_requests, generate(policy, mixed_requests), strict=True):
        assert completion.log_probs == pytest.approx(forced_log_probs(policy, request, completion), abs=1e-4)


def test_the_seed_decides_and_nothing_else(policy, ask):
    first, again, other = generate(policy, [ask(2, seed=1), ask(2, seed=1), ask(2, seed=2)])
    assert first.token_ids == again.token_ids != other.token_ids
    fresh, another = generate(policy, [ask(2, seed=None), ask(2, seed=None)])
    assert fresh.token_ids != another.token_ids


def test_greedy_takes_the_most_probable_token_whatever_the_seed(policy, ask):
    one, two = generate(policy, [ask(1, temperature=0.0, seed=seed) for seed in (1, 2)])
    assert one.token_ids == two.token_ids
    step = torch.tensor([[*ask(1).prompt_ids]])
    vision = dict(policy.processor.image_processor(images=list(ask(1).images), return_tensors="pt"))
    with torch.no_grad():
        logits = policy.model(input_ids=step, **vision, mm_token_type_ids=(step == policy.image_token).long()).logits
    logits[..., list(policy.banned)] = -torch.inf
    assert one.token_ids[0] == int(logits[0, -1].argmax())


def test_images_are_looked_at_and_their_order_matters(policy, ask):
    request = ask(2, temperature=0.0)
    swapped = replace(request, images=[image.resize((28, 28)) for image in reversed(request.images)])
    one_wide = replace(request, images=[image.resize((28, 28)) for image in request.images])
    ids = [i for n, i in enumerate(request.prompt_ids) if i != policy.image_token or request.prompt_ids[n - 1] != i]
    ordered, reverse = generate(policy, [replace(one_wide, prompt_ids=ids), replace(swapped, prompt_ids=ids)])
    assert ordered.log_probs != reverse.log_probs


def test_banned_tokens_are_never_sampled(policy, ask):
    requests = [ask(1, seed=seed, max_tokens=30) for seed in range(8)]
    seen = {token for completion in generate(policy, requests) for token in completion.token_ids}
    narrowed = replace(policy, banned=(*policy.banned, *seen))
    assert not seen & {token for completion in generate(narrowed, requests) for token in completion.token_ids}


def test_a_stop_text_ends_the_response_and_stays_in_it(policy, processor, ask):
    close = processor.tokenizer.convert_tokens_to_ids(STOP)
    (completion,) = generate(fixed(policy, close), [ask(1, stop=(STOP,))])
    assert (completion.token_ids, completion.stop_reason) == ([close], "stop")
    (without,) = generate(fixed(policy, close), [ask(1)])
    assert (without.token_ids, without.stop_reason) == ([close] * 12, "length")


def test_a_stop_text_may_be_spread_over_tokens(policy, processor, ask):
    a = processor.tokenizer.convert_tokens_to_ids("a")
    (completion,) = generate(fixed(policy, a), [ask(1, stop=("aaa", "b"))])
    assert (completion.token_ids, completion.stop_reason) == ([a] * 3, "stop")


def test_a_stop_text_may_end_with_a_character_of_several_tokens(policy, processor, ask):
    pieces = processor.tokenizer("é", add_special_tokens=False)["input_ids"]
    assert len(pieces) == 2
    only = tuple(i for i in range(policy.model.config.text_config.vocab_size) if i not in pieces)
    requests = [ask(1, stop=("é",), seed=seed, max_tokens=40) for seed in range(4)]
    for completion in generate(replace(policy, banned=only), requests):
        assert completion.stop_reason == "stop"
        assert completion.token_ids[-2:] == pieces


# ---- interrupted ------------------------------------------------------------------------------------------------


def interrupted_after(steps):
    """False as often as a token is to be drawn; the first question is before the first token."""
    answers = iter([False] * steps)
    return lambda: next(answers, True)


def gone_on(request, completion):
    done = len(completion.token_ids)
    ids = [*request.prompt_ids, *completion.token_ids]
    return replace(request, prompt_ids=ids, max_tokens=request.max_tokens - done, begun=request.begun + done)


@pytest.mark.parametrize("cuts", [(0, 3), (1,), (4, 2, 1)])
def test_an_interrupted_batch_goes_on_as_if_it_had_not_been(policy, mixed_requests, cuts):
    whole = generate(policy, mixed_requests)
    ids, log_probs = [[] for _ in whole], [[] for _ in whole]
    left = dict(enumerate(mixed_requests))
    for steps in (*cuts, 1000):
        completions = generate(policy, list(left.values()), interrupted=interrupted_after(steps))
        for i, completion in zip(list(left), completions, strict=True):
            ids[i] += completion.token_ids
            log_probs[i] += completion.log_probs
            if completion.stop_reason == "aborted":
                assert len(completion.token_ids) == steps
                left[i] = gone_on(left[i], completion)
            else:
                assert completion.stop_reason == whole[i].stop_reason
                del left[i]
    assert not left
    for i, one in enumerate(whole):
        assert ids[i] == one.token_ids
        assert log_probs[i] == pytest.approx(one.log_probs, abs=1e-4)


def test_a_stop_text_that_interruptions_split_is_seen(policy, processor, ask):
    a = processor.tokenizer.convert_tokens_to_ids("a")
    request = ask(1, stop=("aaa",))
    for reason in ("aborted", "aborted", "stop"):
        (completion,) = generate(fixed(policy, a), [request], interrupted=interrupted_after(1))
        assert (completion.token_ids, completion.stop_reason) == ([a], reason)
        request = gone_on(request, completion)
    assert request.begun == 3


def test_a_stop_text_that_begins_in_the_prompt_is_not_the_responses(policy, processor, ask):
    a = processor.tokenizer.convert_tokens_to_ids("a")
    request = ask(1, stop=("aaa",))
    request = replace(request, prompt_ids=[*request.prompt_ids, a, a], max_tokens=1)
    assert generate(fixed(policy, a), [request])[0].stop_reason == "length"
    assert generate(fixed(policy, a), [replace(request, begun=1)])[0].stop_reason == "length"
    assert generate(fixed(policy, a), [replace(request, begun=2)])[0].stop_reason == "stop"


@pytest.mark.parametrize("begun", [-1, 3])
def test_a_response_so_far_leaves_a_prompt(begun):
    with pytest.raises(ValueError, match="of 3 prompt tokens cannot be the response so far"):
        Request([260, 261, 262], [], 4, begun=begun)


def test_an_end_token_ends_the_response_and_stays_in_it(policy, processor, ask):
    eos = processor.tokenizer.eos_token_id
    (completion,) = generate(fixed(policy, eos), [ask(1)])
    assert (completion.token_ids, completion.stop_reason) == ([eos], "stop")
    (ignored,) = generate(fixed(policy, eos, eos=frozenset()), [ask(1)])
    assert (len(ignored.token_ids), ignored.stop_reason) == (12, "length")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_ids": []}, "needs a prompt"),
        ({"max_tokens": 0}, "room for at least one token, got 3 prompt tokens and max_tokens=0"),
        ({"max_tokens": -5}, "max_tokens=-5"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\]"),
        ({"stop": ("",)}, "must not be empty"),
    ],
)
def test_an_impossible_request_is_refused_before_it_joins_a_batch(changes, message):
    with pytest.raises(ValueError, match=message):
        Request(**({"prompt_ids": [1, 2, 3], "images": (), "max_tokens": 5} | changes))


# Probabilities 0.4, 0.1, 0.3, 0.2 in the order of the vocabulary.
LOGITS = torch.tensor([0.4, 0.1, 0.3, 0.2]).log()


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (-1, 1.0, [0, 1, 2, 3]),
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [0]),
        (2, 1.0, [0, 2]),
        (9, 1.0, [0, 1, 2, 3]),
        (-1, 0.39, [0]),
        (-1, 0.65, [0, 2]),  # 0.4 is not enough: the token that crosses the threshold is kept
        (-1, 0.75, [0, 2, 3]),
        (-1, 1e-9, [0]),  # never nothing
        (2, 0.95, [0, 2]),
        (3, 0.5, [0, 2]),
    ],
)
def test_truncation_keeps_the_most_probable_tokens(top_k, top_p, kept):
    result = truncate_logits(LOGITS.unsqueeze(0), torch.tensor([top_k]), torch.tensor([top_p]))[0]
    assert torch.isfinite(result).nonzero().flatten().tolist() == kept
    assert torch.equal(result[kept], LOGITS[kept])


def test_each_row_is_truncated_by_its_own_parameters():
    result = truncate_logits(LOGITS.expand(3, 4), torch.tensor([1, -1, -1]), torch.tensor([1.0, 0.65, 1.0]))
    assert torch.isfinite(result).sum(dim=1).tolist() == [1, 2, 4]


def test_sampling_draws_from_the_distribution():
    """Chi-square over four tokens, three degrees of freedom: above 16.3 once in a thousand seeds; this one is fixed."""
    number = 20_000
    uniform = torch.rand(number, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = sample(LOGITS.expand(number, 4), uniform, torch.zeros(number, dtype=torch.bool))
    counts = torch.bincount(drawn, minlength=4).double()
    expected = LOGITS.double().exp() * number
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3


def test_sampling_is_the_inverse_of_the_distribution_function():
    uniform = torch.tensor([0.0, 0.399, 0.401, 0.499, 0.501, 0.799, 0.801, 1 - 2**-53], dtype=torch.float64)
    drawn = sample(LOGITS.expand(8, 4), uniform, torch.zeros(8, dtype=torch.bool))
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_impossible_tokens_are_not_drawn_even_at_the_ends_of_the_distribution():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(2, 5)
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits, uniform, torch.zeros(2, dtype=torch.bool)).tolist() == [1, 3]


def test_greedy_rows_ignore_their_draw():
    uniform = torch.tensor([0.99, 0.99], dtype=torch.float64)
    assert sample(LOGITS.expand(2, 4), uniform, torch.tensor([True, False])).tolist() == [0, 3]
