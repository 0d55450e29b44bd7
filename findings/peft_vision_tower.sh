#!/usr/bin/env bash
# peft 0.21.2: LoRA on the language model's usual module names also adapts a part of Qwen2.5-VL's vision tower.
#
# target_modules is matched by the end of a module's name. The seven names of every Llama-like block (q_proj … down_proj) are
# meant for the language model; Qwen2.5-VL's vision blocks call their MLP gate_proj, up_proj and down_proj, too, and their
# attention qkv and proj. So the MLPs of the vision tower are adapted and its attention is not, and nothing says so.
# Seen: peft 0.21.2, transformers 5.10.4, torch 2.13.0 (CPU), Python 3.11; output: 3 adapted modules in the vision tower, all of
# its MLP, beside 7 in the language model.
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.10.4 torch==2.13.0
cd "$work"
cat > adapt.py <<'PYTHON'
from peft import LoraConfig, get_peft_model
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

LANGUAGE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
config = Qwen2_5_VLConfig(
    text_config={
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": rope,
    },
    vision_config={
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    },
)
model = get_peft_model(Qwen2_5_VLForConditionalGeneration(config), LoraConfig(r=2, target_modules=LANGUAGE))
adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
vision = sorted(name.split("visual.")[1] for name in adapted if "visual." in name)
print(f"vision tower: {', '.join(vision)}; language model: {len(adapted) - len(vision)} modules")
assert vision == [f"blocks.0.mlp.{name}" for name in ("down_proj", "gate_proj", "up_proj")] and len(adapted) == 10
PYTHON
"$work/venv/bin/python" adapt.py
