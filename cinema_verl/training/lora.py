"""LoRA as any program can load it: merged weights in `huggingface/`, the adapter beside them; and for the rollout.

verl 0.9.1 saves a PEFT model under its wrapped names (`base_model.model.….base_layer.weight`, `….lora_A.default…`),
which transformers takes for unknown keys: it loads random weights in their place, and says so in one warning.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from verl.utils.fsdp_utils import get_fsdp_full_state_dict, merged_lora_context, normalize_peft_param_name
from verl.utils.model import convert_weight_keys
from verl.utils.transformers_compat import drop_tied_target_keys

ADAPTER = "lora_adapter"


def is_lora(module: Any) -> bool:
    """Whether an engine's module, sharded or not, has adapters."""
    return hasattr(module, "peft_config") or hasattr(getattr(module, "_fsdp_wrapped_module", None), "peft_config")


def merged_weights(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight under the model's own name, merged, in the precision that is trained; all ranks call it.

    verl's own stream (`FSDPEngine.get_per_tensor_param`) rounds what it merges to bf16, which an engine that computes
    in fp32 shows as a gap between its probabilities and the actor's.

    Args:
        module: an FSDP2 engine's `PeftModel`; it is unmerged again when the stream has ended.
    """
    with merged_lora_context(module, backup_adapters=True):
        weights = convert_weight_keys(normalize_peft_param_name(module.state_dict()), module)
        for name, weight in weights.items():
            whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
            yield name, whole.detach().clone()  # on one rank it is the very weight that is about to be unmerged


def export_merged(module: Any, checkpoint: Path) -> None:
    """Write merged weights to `huggingface/` and the adapter to `lora_adapter/` of a checkpoint; all ranks call it.

    The merging is in fp32, W + (alpha / r) B A, and so is what is written: rounding to bf16 loses small updates.

    Args:
        module: the engine's `PeftModel`, sharded by FSDP; it stays as it is.
        checkpoint: a folder in which `huggingface/` has configuration and tokenizer already.
    """
    state = get_fsdp_full_state_dict(module, offload_to_cpu=True, rank0_only=True)
    if torch.distributed.get_rank() == 0:
        wrapped = getattr(module, "_fsdp_wrapped_module", module)
        write_merged(state, wrapped.peft_config, wrapped.get_base_model().config, checkpoint)
    torch.distributed.barrier()


def write_merged(state: dict[str, torch.Tensor], adapters: dict[str, Any], config: Any, checkpoint: Path) -> None:
    """The part of `export_merged` that is one process's.

    Args:
        state: the whole `PeftModel`'s state, on the CPU, under its wrapped names.
        adapters: its `peft_config`, of which verl makes one adapter, "default".
        config: the base model's.
        checkpoint: see `export_merged`.
    """
    from accelerate import init_empty_weights
    from peft import PeftModel, get_peft_model
    from transformers import GenerationConfig
    from verl.utils.model import get_hf_auto_model_class

    directory = checkpoint / "huggingface"
    with init_empty_weights():
        base = get_hf_auto_model_class(config).from_config(config)
    (adapter,) = adapters.values()
    with torch.device("meta"):
        model: PeftModel = get_peft_model(base, copy.deepcopy(adapter))
    # Merging adds to the base layers in place, and on a CPU the state may be the very weights that are trained.
    copied = {name: tensor.to(torch.float32, copy=".base_layer." in name) for name, tensor in state.items()}
    model.load_state_dict(copied, assign=True)
    model.save_pretrained(str(checkpoint / ADAPTER), save_embedding_layers=False)  # "auto" would ask the hub

    merged: Any = model.merge_and_unload()
    weights = merged.state_dict()
    drop_tied_target_keys(weights, merged, merged.config)
    if (directory / "generation_config.json").exists():
        merged.generation_config = GenerationConfig.from_pretrained(directory)
    merged.save_pretrained(directory, state_dict=weights)
