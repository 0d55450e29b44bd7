#!/usr/bin/env bash
# verl 0.9.1: fused log-probabilities fail under FSDP2 where the output layer has weights of its own (tie_word_embeddings: false).
#
# apply_fsdp2 wraps lm_head by itself in such a model. verl's fused forward multiplies with lm_head.weight and never calls the
# layer, so that FSDP2 does not put the weight together, and the product is of a tensor and a DTensor. With tied weights the layer
# belongs to the root, and all is well. Most models of 7B and more have untied weights.
# Seen: verl 0.9.1, torch 2.13.0 (CPU), transformers 5.10.4, Python 3.11; output "tied: as without FSDP2" and "untied: RuntimeError".
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet verl==0.9.1 transformers==5.10.4 torch==2.13.0
cd "$work"
cat > fused.py <<'PYTHON'
import os

import torch
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM
from verl.models.transformers.monkey_patch import patch_forward_with_backends
from verl.utils.fsdp_utils import apply_fsdp2

torch.distributed.init_process_group("gloo", init_method="file://" + os.path.abspath("store"), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
ids = torch.arange(12).view(2, 6)
found = {}
for name, tied in {"tied": True, "untied": False}.items():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, num_key_value_heads=2, **sizes))
    labels = ids.roll(-1, dims=-1)
    with torch.no_grad():
        plain = model(input_ids=ids).logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    forward = LlamaForCausalLM.forward
    patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend="torch")
    apply_fsdp2(model, {"mesh": mesh}, {})
    try:
        with torch.no_grad():
            fused = model(input_ids=ids, temperature=1.0, return_dict=True).log_probs
        found[name] = "as without FSDP2" if torch.allclose(fused, plain, atol=1e-5) else "others"
    except RuntimeError as error:
        found[name] = "RuntimeError" if "DTensor" in str(error) else str(error)
    LlamaForCausalLM.forward = forward
    print(f"{name}: {found[name]}")
torch.distributed.destroy_process_group()
assert found == {"tied": "as without FSDP2", "untied": "RuntimeError"}
PYTHON
"$work/venv/bin/python" fused.py
