"""verl's FSDP2 training engine on the CPU.

verl registers engines for CUDA and Ascend only, and offloads a forward-only (reference) model through pinned memory,
which needs an accelerator; merged LoRA weights reach the rollout in fp32; and `model.use_fused_kernels` works with an
output layer of weights of its own. Everything else is verl's own code.
"""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from cinema_verl.training.lora import is_lora, merged_weights


@contextmanager
def head_with_the_rest(config: Any) -> Iterator[None]:
    """Let FSDP2 shard the output layer as part of the whole model, as verl does where its weights are the input's.

    verl's fused forward reads the layer's weight and never calls it, which is when FSDP2 would put it together.

    Args:
        config: the model's, in which `apply_fsdp2` looks up whether they are.
    """
    tied = config.tie_word_embeddings
    config.tie_word_embeddings = True
    try:
        yield
    finally:
        config.tie_word_embeddings = tied


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device="cpu")
class CPUEngineWithLMHead(FSDPEngineWithLMHead):
    """`FSDPEngineWithLMHead` without pinned memory and without bf16, on all cores that this process may use."""

    engine_config: Any

    def __init__(self, model_config, engine_config, optimizer_config, checkpoint_config):
        # Ray starts actors with OMP_NUM_THREADS=1; training and generation take turns, so each may use every core.
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)

    def get_per_tensor_param(self, *args: Any, **kwargs: Any) -> Any:
        if is_lora(self.module) and self.model_config.lora.get("merge", False):
            return merged_weights(self.module), None
        return super().get_per_tensor_param(*args, **kwargs)

    def _build_fsdp_module(self, module):
        with head_with_the_rest(module.config) if self.model_config.use_fused_kernels else nullcontext():
            return self._shard(module)

    def _shard(self, module):
        if not self.engine_config.forward_only:
            return super()._build_fsdp_module(module)
        # In verl's method `forward_only` only means "offload through pinned memory": build as if it were not set.
        config = self.engine_config
        self.engine_config = dataclasses.replace(self.engine_config, forward_only=False)
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = config
