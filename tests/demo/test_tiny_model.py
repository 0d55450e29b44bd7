"""The tiny model is a Qwen2.5-VL to transformers and to verl's data sets, and its tags are ordinary tokens."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from cinema_verl.demo import digit_images, digits, tiny_model
from cinema_verl.meta_action import TAGS
from cinema_verl.reward import compute_score

TRAJECTORY = "<global>from 3 up to 7</global><focus>A=7, B=3</focus><answer>A</answer>"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny_model.save_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def processor(directory):
    from verl.utils import hf_processor

    return hf_processor(str(directory))


@pytest.fixture(scope="module")
def model(directory):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits")
    digits.write_dataset(path, digits.Sizes(train=10, test=10, sft_train=10, sft_val=10))
    return path


def test_each_tag_is_one_ordinary_token_that_survives_decoding(processor):
    tokenizer = processor.tokenizer
    for tag in (tag for tags in TAGS.values() for tag in tags):
        (token,) = tokenizer(tag)["input_ids"]
        assert token not in tokenizer.all_special_ids
        assert tokenizer.decode([token], skip_special_tokens=True) == tag
    assert set(tokenizer.all_special_tokens) == set(tiny_model.SPECIAL_TOKENS)


@pytest.mark.parametrize("text", [TRAJECTORY, "x < 3, <b>7</b>\n 10+4=14", "naïve 数字 \t", "<answer >"])
def test_decoding_round_trips(processor, text):
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_gold_trajectories_are_short_and_digits_are_single_tokens(processor):
    pools = digit_images.load_pools()
    lengths = [
        len(processor.tokenizer(text)["input_ids"])
        for question in digits.questions(pools, "train", "x", 500, 0, set())
        for text in question.trajectories
    ]
    assert sum(lengths) / len(lengths) < 32
    assert max(lengths) <= 53
    assert len(processor.tokenizer("0123456789")["input_ids"]) == 10


def test_tokenizer_is_the_same_in_another_process(processor):
    program = "from cinema_verl.demo.tiny_model import build_tokenizer as b; print(sorted(b().get_vocab().items()))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert other.strip().endswith(str(sorted(processor.tokenizer.get_vocab().items())))


def test_an_image_is_one_token_and_generation_runs(processor, model):
    assert model.num_parameters() == 755_904
    content = [part for _ in "AB" for part in ({"type": "image"}, {"type": "text", "text": "\n"})]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.new("RGB", (28, 28), shade) for shade in ("white", "black")]
    inputs = processor(text=[prompt], images=[images], return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 2
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert output.shape[1] <= inputs["input_ids"].shape[1] + 3
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    logits = model(**inputs).logits
    swapped = processor(text=[prompt], images=[images[::-1]], return_tensors="pt")
    assert not torch.allclose(logits, model(**swapped).logits)


def test_verl_reads_the_rl_rows(directory, processor, dataset, tmp_path):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"max_prompt_length": 128, "filter_overlong_prompts": False, "cache_dir": str(tmp_path)})
    path = str(dataset / "train.parquet")
    rows = RLHFDataset(path, processor.tokenizer, config, processor=processor)
    assert len(rows) == 10
    row = rows[0]
    assert row["agent_name"] == "cinema"
    parts = row["raw_prompt"][0]["content"]
    images = [part for part in parts if part["type"] == "image"]
    assert len(images) == row["extra_info"]["num_images"]
    gold = f"<think>so</think><answer>{row['reward_model']['ground_truth']}</answer>"
    assert compute_score(row["data_source"], gold, row["reward_model"]["ground_truth"], row["extra_info"])["acc"] == 1


def test_verl_reads_the_sft_rows_with_model_positions_and_response_loss(processor, model, dataset):
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    config = {"pad_mode": "no_padding", "max_length": 256}
    rows = MultiTurnSFTDataset(str(dataset / "sft_train.parquet"), processor.tokenizer, config, processor=processor)
    assert len(rows) == 20
    for row in (rows[0], rows[-1]):
        ids = row["input_ids"]
        trained = processor.tokenizer.decode(ids[row["loss_mask"].bool()])
        assert trained.endswith("</answer><|im_end|>\n")
        assert trained.startswith(tuple(tags.open for tags in TAGS.values()))
        grid = row["multi_modal_inputs"]["image_grid_thw"]
        assert int((ids == model.config.image_token_id).sum()) == len(grid)
        positions, _ = model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=(ids == model.config.image_token_id).long()[None],
            image_grid_thw=grid,
        )
        assert torch.equal(row["position_ids"][1:], positions[:, 0])


def test_seed_decides_the_weights_and_nothing_else_changes():
    tokenizer = tiny_model.build_tokenizer()
    config = tiny_model.build_config(tokenizer)
    before = torch.random.get_rng_state()
    first, again, other = (tiny_model.build_model(config, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


# ---- The two shims -----------------------------------------------------------------------------------------


def _run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_torchvision_imports_beside_a_torch_without_cuda():
    program = """
from cinema_verl.utils.torchvision import ensure_torchvision_importable as ensure
import torch
first, again = ensure(), ensure()
import torchvision.transforms.v2
print(first == again, first <= (torch.version.cuda is None))
"""
    assert _run(program) == ["True", "True"]


def test_nothing_is_declared_where_torch_has_cuda():
    program = """
import torch
torch.version.cuda = "13.0"
from cinema_verl.utils.torchvision import ensure_torchvision_importable as ensure
print(ensure(), hasattr(torch.ops.torchvision, "nms"))
"""
    assert _run(program) == ["False", "False"]
