"""What vLLM will set memory aside for, against what it was seen to do."""

import pytest
from omegaconf import OmegaConf

from cinema_verl.checks.engine import inspect_engine, profiled_tokens
from cinema_verl.data.tokens import QWEN2_5_VL

LARGEST = QWEN2_5_VL.max_pixels // QWEN2_5_VL.factor**2


@pytest.mark.parametrize(
    ("context", "tokens"),
    [(128_000, 114_688), (10_240, 16_384), (32_768, 32_768), (40_000, 32_768), (1, 16_384)],  # the first two: vLLM's
)
def test_the_largest_input(context, tokens):
    assert LARGEST == 16_384
    assert profiled_tokens(LARGEST, context) == tokens


def config(model="/nowhere", name="vllm", length=None):
    rollout = {"name": name, "max_model_len": length}
    data = {"max_prompt_length": 8192, "max_response_length": 2048}
    return OmegaConf.create({"actor_rollout_ref": {"rollout": rollout, "model": {"path": str(model)}}, "data": data})


def test_a_context_that_is_not_set_is_the_models(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 128000}}')
    (finding,) = inspect_engine(config(tmp_path), QWEN2_5_VL)
    assert "114,688" in finding.detail
    assert "max_model_len=10240" in finding.advice
    (finding,) = inspect_engine(config(tmp_path, length=10_240), QWEN2_5_VL)
    assert "16,384" in finding.detail
    assert finding.advice == ""
    (finding,) = inspect_engine(config(), QWEN2_5_VL)
    assert "not on this machine" in finding.detail
    assert list(inspect_engine(config(name="transformers"), QWEN2_5_VL)) == []
