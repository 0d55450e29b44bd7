"""An output layer whose weight is read without calling it, as verl's fused forward does, sharded by FSDP2."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from verl.utils.fsdp_utils import apply_fsdp2

from cinema_verl.training.cpu.engine import head_with_the_rest


class Body(nn.Linear):
    """What is wrapped by itself, as the layers of a transformer are."""


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(tie_word_embeddings=False)
        self.embed_tokens, self.body, self.lm_head = nn.Embedding(5, 4), Body(4, 4), nn.Linear(4, 6, bias=False)

    def forward(self, ids):
        return self.body(self.embed_tokens(ids)) @ self.lm_head.weight.t()


@pytest.fixture
def shard(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    policy = {"wrap_policy": {"transformer_layer_cls_to_wrap": ["Body"]}}
    yield lambda model: apply_fsdp2(model, {"mesh": mesh}, policy)
    torch.distributed.destroy_process_group()


def test_passes_and_gradients_are_those_of_a_model_in_one_piece(shard):
    torch.manual_seed(0)
    plain, ids = Reads(), torch.tensor([0, 3, 3])
    alone, sharded = copy.deepcopy(plain), copy.deepcopy(plain)
    shard(alone)
    with pytest.raises(RuntimeError, match="DTensor"):
        alone(ids)
    with head_with_the_rest(sharded.config):
        shard(sharded)
    assert sharded.config.tie_word_embeddings is False
    for model in (plain, sharded):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            with torch.no_grad():
                model(ids)
            optimizer.zero_grad()
            model(ids).pow(2).sum().backward()
            optimizer.step()
    for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
        assert torch.allclose(one, other.full_tensor(), atol=1e-6)
        assert torch.allclose(one.grad, other.grad.full_tensor(), atol=1e-6)
