"""Rotary positions of fine-tuning rows, worked out by hand, for every family that can be trained."""

import pytest
import torch
from tiny_families import TINY, config_of, processor_of, tokenizer_of
from verl.utils import hf_processor

from cinema_verl.data.sft_dataset import rotary_positions


@pytest.fixture(params=list(TINY))
def processor(request, tmp_path):
    tiny = TINY[request.param]
    tokenizer = tokenizer_of(tiny)
    config_of(tiny, tokenizer).save_pretrained(tmp_path)
    processor_of(tiny, tokenizer).save_pretrained(tmp_path)
    return hf_processor(str(tmp_path))


def test_an_image_is_a_square_of_positions_and_text_goes_on_after_its_longer_side(processor):
    """Two words, an image of 2 x 3 tokens (4 x 6 patches), a word, an image of one token, a word, padding."""
    image, word = processor.image_token_id, 5
    start = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")  # an ordinary word to GLM
    ids = torch.tensor([word, start or word, *[image] * 6, word, image, word, word])
    mask = torch.tensor([1] * 11 + [0])
    found = rotary_positions(processor, ids, mask, torch.tensor([[1, 4, 6], [1, 2, 2]]))
    time = [0, 1, *[2] * 6, 5, 6, 7]
    height = [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7]
    width = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7]
    assert found.dtype == torch.int64
    assert found[:, :11].tolist() == [list(range(11)), time, height, width]
