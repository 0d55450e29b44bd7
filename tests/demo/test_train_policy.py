"""The cold start: the recipes compose over verl's SFT configuration, and the script trains through verl."""

import json

import pytest
import torch

from cinema_verl.demo.train_policy import digits_cold_start, main


def test_the_shipped_policy_is_small_and_loads(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from cinema_verl.demo.tiny_model import SPECIAL_TOKENS, build_config, build_tokenizer

    directory = digits_cold_start()
    assert sum(path.stat().st_size for path in directory.iterdir()) < 4_000_000
    model = AutoModelForImageTextToText.from_pretrained(directory)
    assert model.dtype == torch.float32
    tokenizer = AutoProcessor.from_pretrained(directory).tokenizer
    # A data set or tokenizer that moved on would leave the shipped weights behind.
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    expected, actual = build_config(tokenizer).to_diff_dict(), model.config.to_diff_dict()
    assert actual["text_config"]["hidden_size"] == expected["text_config"]["hidden_size"]


def test_the_shipped_policy_was_measured_and_leaves_room_to_improve():
    measured = json.loads((digits_cold_start() / "measured.json").read_text())
    assert measured["questions"] >= 200
    assert 0.55 < measured["greedy_acc"] < 0.8
    assert measured["format"] > 0.93
    assert measured["unique_patterns"] > 3.5


@pytest.mark.slow
def test_a_short_cold_start_learns_the_format_and_exports(tmp_path):
    report = main(
        [
            "--output",
            str(tmp_path),
            "--pretrain",
            "1600",
            "--sft-train",
            "400",
            "--test",
            "40",
            "trainer.experiment_name=test",
        ]
    )
    assert report["questions"] == 40
    assert report["greedy_format"] > 0.5
    assert (tmp_path / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["cinema_cold_start", "cinema_cold_start_cpu", "cinema_cold_start_one", "cinema_cold_start_cot"]
)
def test_recipes_compose_into_what_verl_instantiates(name):
    import verl  # noqa: F401 (loads the plugin, which adds the search path)
    from hydra import compose, initialize_config_module
    from verl.utils.config import omega_conf_to_dataclass

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", overrides=[f"+recipe={name}"])
    for part in ("engine", "optim", "checkpoint"):
        omega_conf_to_dataclass(config[part])
    # `truncation=right` would cut image tokens and keep their features; "none" is a true string.
    assert config.data.truncation == "error"
    assert config.data.enable_thinking_default is None
    assert config.model.use_remove_padding is False


@pytest.mark.parametrize("name", ["cinema_cold_start", "cinema_cold_start_one", "cinema_cold_start_cot"])
def test_the_paper_s_facts_are_in_the_recipe_and_its_ablations(name):
    import verl  # noqa: F401
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", overrides=[f"+recipe={name}"])
    assert config.trainer.experiment_name == name.removeprefix("cinema_")
    assert (config.optim.lr, config.trainer.total_epochs) == (1e-5, 2)
    assert "Qwen2.5-VL-7B" in config.model.path
