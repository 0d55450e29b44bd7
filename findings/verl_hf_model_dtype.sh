#!/usr/bin/env bash
# verl 0.9.1: a checkpoint's huggingface/ folder holds fp32 weights under a config that says bfloat16.
#
# FSDPCheckpointManager.save_checkpoint with "hf_model" among its contents builds the model that it saves as bfloat16, then
# writes the fp32 state dict into it: config.json says "dtype": "bfloat16", model.safetensors holds float32. Whoever loads the
# folder with dtype="auto" (transformers 5's default) gets rounded weights without a word.
# Seen: verl 0.9.1, transformers 5.10.4, torch 2.13.0 (CPU), Python 3.11; output "config bfloat16, file float32, loaded bfloat16".
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet verl==0.9.1 transformers==5.10.4 accelerate torch==2.13.0
cd "$work"
cat > save.py <<'PYTHON'
import os
from types import SimpleNamespace

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "RANK": "0", "WORLD_SIZE": "1"}
dist.init_process_group("gloo")
config = Qwen2Config(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, architectures=["Qwen2ForCausalLM"], dtype="float32",
)
model = Qwen2ForCausalLM(config).float()
fully_shard(model, mesh=init_device_mesh("cpu", (1,)))

from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
manager = FSDPCheckpointManager(
    model=model,
    optimizer=None,
    lr_scheduler=None,
    processing_class=tokenizer,
    checkpoint_config=OmegaConf.create({"save_contents": ["model", "hf_model"], "load_contents": ["model"]}),
)
manager.save_checkpoint(local_path="checkpoint", global_step=1)

folder = "checkpoint/huggingface"
said = OmegaConf.load(f"{folder}/config.json").get("dtype")
held = {str(weight.dtype).removeprefix("torch.") for weight in load_file(f"{folder}/model.safetensors").values()}
loaded = str(AutoModelForCausalLM.from_pretrained(folder).dtype).removeprefix("torch.")
print(f"config {said}, file {' '.join(held)}, loaded {loaded}")
assert (said, held, loaded) == ("bfloat16", {"float32"}, "bfloat16")
PYTHON
"$work/venv/bin/python" save.py
