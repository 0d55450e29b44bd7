"""`cinema-verl plan`: the arithmetic against real models, and the recipes against the GPUs that they name."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.checks.compose import compose
from cinema_verl.checks.fits import DEVICES, effort, fits, known_models, load_of, main, model_of, needed
from cinema_verl.checks.memory import GIB, Load, memory, shape_of
from cinema_verl.registration.command_line import RL_TRAINER, program_of, shipped_recipes

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    # parameters, as `transformers` builds them from the published configurations
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen3-vl-2b": 2_127_532_032,
    "qwen3-vl-4b": 4_437_815_808,
    "qwen3-vl-8b": 8_767_123_696,
    "qwen3-vl-32b": 33_357_390_064,
}
MACHINES = {"cinema_3b_lora_24gb": 24}  # recipes for other GPUs than those of 80 GB


def loads() -> st.SearchStrategy[Load]:
    return st.builds(
        Load,
        shards=st.integers(1, 64),
        weight_bytes=st.sampled_from([2, 4]),
        lora_rank=st.sampled_from([0, 8, 64]),
        tokens=st.integers(1, 100_000),
        packed=st.booleans(),
        fused=st.booleans(),
        checkpointing=st.booleans(),
        image_share=st.floats(0, 1),
        param_offload=st.booleans(),
        optimizer_offload=st.booleans(),
        gpu=st.sampled_from([24 * GIB, 80 * GIB]),
        engine_share=st.floats(0.1, 0.9),
        tensor_parallel=st.integers(1, 8),
        sequence=st.integers(1, 20_000),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_models(name):
    assert shape_of(known_models()[name]).parameters == PUBLISHED[name]


def test_every_known_model_is_checked():
    assert set(known_models()) == set(PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen3-vl-2b", "qwen3-vl-8b"])
def test_parameters_are_those_that_transformers_builds(name):
    import torch

    from cinema_verl.utils.torchvision import ensure_torchvision_importable

    ensure_torchvision_importable()
    from transformers import AutoConfig, AutoModelForImageTextToText

    given = dict(known_models()[name])
    text = dict(given.get("text_config") or {k: v for k, v in given.items() if isinstance(v, int) and k[0] in "hniv"})
    text["tie_word_embeddings"] = given["tie_word_embeddings"]
    vision = dict(given["vision_config"], out_hidden_size=text["hidden_size"])
    config = AutoConfig.for_model(
        given["model_type"], text_config=text, vision_config=vision, tie_word_embeddings=given["tie_word_embeddings"]
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(each.numel() for each in model.parameters()) == PUBLISHED[name]


@pytest.mark.slow
def test_memory_is_what_pytorch_takes():
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "memory_plan.py"))
    for size in benchmark["SIZES"][::2]:
        _, measured, computed = benchmark["measured"](size)
        assert 0.85 < computed / measured < 1.15, size.name


@given(loads(), st.sampled_from([*PUBLISHED]))
def test_more_gpus_shorter_batches_and_offloading_never_take_more(load, name):
    shape = shape_of(known_models()[name])
    found = memory(shape, load)
    assert min(found.update, found.generate, found.cache) >= 0
    more = memory(shape, replace(load, shards=2 * load.shards))
    assert more.weights + more.gradients + more.optimizer <= found.weights + found.gradients + found.optimizer
    assert memory(shape, replace(load, tokens=max(1, load.tokens // 2))).update <= found.update
    assert memory(shape, replace(load, param_offload=True, optimizer_offload=True)).generate <= found.generate


def plan_of(recipe: str, *overrides: str):
    config, findings = compose(recipe, overrides)
    assert config is not None, findings[-1]
    gigabytes = MACHINES.get(recipe, 80)
    name, shape = model_of(config, None)
    load = load_of(config, gigabytes * GIB)
    found = memory(shape, load)
    return name, shape, load, found, effort(config, shape, load, found, DEVICES[gigabytes])


ON_GPUS = [each for each in shipped_recipes() if program_of(each) == RL_TRAINER and "cpu" not in each]


@pytest.mark.parametrize("recipe", sorted({*ON_GPUS} - {"cinema_val_only"}))
def test_every_recipe_fits_the_machine_that_it_is_for(recipe):
    _, _, load, found, spent = plan_of(recipe)
    assert fits(found, load.gpu), f"{needed(found) / GIB:.1f} of {load.gpu / GIB:.0f} GiB"
    assert found.sequences >= 4, "or generation goes one by one"
    assert 0 < spent.hours < 24 * 60


def test_known_figures_of_the_paper_s_recipe():
    """Worked out by hand: 8,292,166,656 parameters of 4 bytes over 8 GPUs, a gradient and two moments each."""
    name, _, load, found, spent = plan_of("cinema")
    assert (name, load.shards, load.sequence) == ("qwen2.5-vl-7b", 8, 10_240)
    assert found.weights == found.gradients == 8_292_166_656 * 4 / 8 == found.optimizer / 2
    assert load.tokens == 24_576  # 16,384, padded by half
    assert found.logits == 24_576 * 152_064 * 8
    assert spent.checkpoint == 8_292_166_656 * (4 + 8) * 3  # two are kept, and one is written
    # 60 % of 80 GiB, less the weights and the engine's own: 2 * 2 * 28 layers * 4 heads * 128 for a token
    assert found.sequences == int((48 * GIB - 2 * 8_292_166_656 - 2 * GIB) / (57_344 * 10_240))


def test_the_command(capsys):
    assert main(["+recipe=cinema"]) == 0
    assert "qwen2.5-vl-7b: 8.29 billion parameters" in capsys.readouterr().out
    assert main(["+recipe=cinema", "--gpu-memory", "24"]) == 1
    assert "does not fit" in capsys.readouterr().out


def test_a_folder_may_be_named_as_the_model(tiny_model, capsys):
    assert main(["+recipe=cinema", "--model", str(tiny_model)]) == 0
    assert f"{tiny_model}: 0.00 billion parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["+recipe=cinema_cold_start"], "is for SFT"),
        (["+recipe=cinema_cpu"], "trains on the CPU"),
        (["+recipe=cinema", "--model", "qwen2.5-vl-7"], "Did you mean qwen2.5-vl-7b?"),
        (["+recipe=cinema", "actor_rollout_ref.model.path=/models/mine"], "give a folder with the model's config.json"),
        (["+recipe=cinma"], "Did you mean cinema?"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert says in capsys.readouterr().err


def test_a_folder_is_read_and_a_family_that_is_not_known_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(known_models()["qwen3-vl-2b"]))
    assert main(["+recipe=cinema", f"actor_rollout_ref.model.path={tmp_path}"]) == 0
    assert "2.13 billion" in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(SystemExit, match="2"):
        main(["+recipe=cinema", f"actor_rollout_ref.model.path={tmp_path}"])
    assert "'llava'" in capsys.readouterr().err
