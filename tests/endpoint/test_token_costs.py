"""What calls take, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.endpoint.token_costs import TEMPLATE_TOKENS, VISION, expected_tokens, prompt_tokens, text_bytes


@pytest.mark.parametrize(
    ("rule", "size", "tokens"),
    [
        ("qwen2.5", (28, 28), 4),  # never less than 4
        ("qwen2.5", (280, 280), 100),
        ("qwen2.5", (281, 280), 110),
        ("qwen2.5", (28_000, 28_000), 16_384),
        ("qwen3", (320, 320), 100),
        ("tiles", (512, 512), 85 + 170),
        ("tiles", (1024, 1024), 85 + 4 * 170),  # brought to 768 x 768
        ("tiles", (2048, 4096), 85 + 6 * 170),  # fitted into 1024 x 2048, brought to 768 x 1536
        ("tiles", (1, 2048), 85 + 4 * 170),
        ("tiles-mini", (1024, 1024), 2833 + 4 * 5667),
        ("patches", (320, 320), 246),  # 100 patches
        ("patches", (4096, 4096), 3779),  # 1536 of them
    ],
)
def test_tokens_of_an_image(rule, size, tokens):
    assert VISION[rule](*size) == tokens


@given(st.sampled_from(sorted(VISION)), st.integers(1, 20_000), st.integers(1, 20_000))
def test_every_image_has_tokens_and_lies_as_well_as_it_stands(rule, width, height):
    most = 2833 + 8 * 5667 if rule == "tiles-mini" else 16_384
    assert 1 <= VISION[rule](width, height) == VISION[rule](height, width) <= most


def test_text_counts_by_its_bytes():
    messages = [
        {"role": "system", "content": "abcd"},
        {"role": "user", "content": [{"type": "image", "sha256": "0" * 64}, {"type": "text", "text": "é!"}]},
    ]
    assert text_bytes(messages) == 7
    assert expected_tokens(7) == 2
    other = 2 * TEMPLATE_TOKENS + 100
    assert prompt_tokens(messages, [(280, 280)], "qwen2.5") == (2 + other, 7 + other)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999))),
)
def test_the_expected_is_never_more_than_the_most(texts, sizes):
    expected, most = prompt_tokens([{"role": "user", "content": text} for text in texts], sizes, "tiles")
    assert expected <= most
