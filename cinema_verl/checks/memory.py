"""How much memory a GPU of a training run needs, from the model's configuration: arithmetic, and nothing is loaded.

Weights, gradients and optimizer are counted exactly. Activations and logits are counted from what PyTorch keeps for one
micro-batch, and held against measurements (`benchmarks/memory_plan.py`). All sizes are bytes per GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

GIB: Final = 2**30
HALF: Final = 2
"""Bytes of a bfloat16, in which verl computes."""
LOGITS_PACKED: Final = 6
LOGITS_PADDED: Final = 8
"""Bytes for one entry of the logits: themselves, what `log_softmax` keeps, and their gradients; where sequences are
padded, verl copies them once more."""
FUSED_LOGITS: Final = 0.5
"""The same with `use_fused_kernels`, which goes through the tokens in pieces. Our choice: 1/16 of the whole."""
OVERHEAD: Final = int(1.5 * GIB)
"""CUDA's context, NCCL's buffers, fragments. Our choice: what verl's processes show before a model is loaded."""
ENGINE_OVERHEAD: Final = int(2.0 * GIB)
"""vLLM's own activations and CUDA graphs. Our choice."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2.5-VL or Qwen3-VL model that its parameters and activations follow from.

    Attributes:
        hidden, layers, heads, kv_heads, head_dim, intermediate, vocab: Of the language model.
        tied: Whether input and output embedding are one matrix.
        third: Whether it is a Qwen3-VL: queries and keys are normalised instead of shifted, the vision tower has plain
            MLPs, learnt positions and mergers at several depths.
        vision_depth, vision_hidden, vision_intermediate, patch: Of the vision tower; a patch is so many pixels a side.
        deepstack: Number of its further mergers.
        positions: Number of its learnt positions.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    third: bool
    vision_depth: int
    vision_hidden: int
    vision_intermediate: int
    patch: int
    deepstack: int = 0
    positions: int = 0

    @property
    def layer(self) -> int:
        """Parameters of one layer of the language model."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys)
        extra = 2 * self.head_dim if self.third else queries + 2 * keys
        return attention + extra + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def vision(self) -> int:
        """Parameters of the vision tower."""
        wide, inner, merged = self.vision_hidden, self.vision_intermediate, 4 * self.vision_hidden
        attention = 4 * wide * wide + 4 * wide
        merger = merged * merged + merged + merged * self.hidden + self.hidden
        patches = 3 * 2 * self.patch * self.patch * wide
        if not self.third:
            block = attention + 3 * wide * inner + 2 * inner + wide + 2 * wide
            return patches + self.vision_depth * block + merger + wide
        block = attention + 2 * wide * inner + inner + wide + 4 * wide
        further = self.deepstack * (merger + 2 * merged)
        return patches + wide + self.positions * wide + self.vision_depth * block + merger + 2 * wide + further

    @property
    def parameters(self) -> int:
        """All parameters, as `transformers` builds the model."""
        embeddings = self.embedding * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer + self.hidden + self.vision

    def lora(self, rank: int) -> int:
        """Parameters of adapters on all linear maps of the language model's layers; the vision tower has none."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + queries) + 2 * (self.hidden + keys) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends

    def image_tokens(self, pixels: float) -> int:
        """Tokens of an image of so many pixels."""
        return math.ceil(pixels / (2 * self.patch) ** 2)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape of a ``config.json``.

    Raises:
        ValueError: It is of a family that is not known here.
    """
    family, vision = config.get("model_type"), config.get("vision_config") or {}
    if family not in ("qwen2_5_vl", "qwen3_vl"):
        raise ValueError(f"the memory of a {family!r} model is not known here; of qwen2_5_vl and qwen3_vl it is")
    text = config.get("text_config") or config  # Qwen2.5-VL's published files have the text's keys at the top
    third = family == "qwen3_vl"
    return Shape(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        third=third,
        vision_depth=vision["depth"],
        vision_hidden=vision["hidden_size"],
        vision_intermediate=vision["intermediate_size"],
        patch=vision.get("patch_size", 16 if third else 14),
        deepstack=len(vision.get("deepstack_visual_indexes", ())) if third else 0,
        positions=vision.get("num_position_embeddings", 2304) if third else 0,
    )


@dataclass(frozen=True)
class Load:
    """What a configuration asks of each GPU.

    Attributes:
        shards: GPUs that one copy of the trained model is cut over.
        weight_bytes: Bytes of a stored parameter: 4, or 2 with ``model_dtype=bf16``.
        lora_rank: 0 for full training.
        tokens: Tokens of a micro-batch, padding included.
        packed: Whether sequences are packed rather than padded.
        fused: Whether log-probs are computed by fused kernels.
        checkpointing: Whether activations are computed again in the backward pass.
        image_share: Share of the tokens that are images.
        param_offload, optimizer_offload: Whether these wait in host memory.
        gpu: Memory of the GPU; engine_share: the part that the rollout engine takes; tensor_parallel: its GPUs a copy.
        sequence: Longest prompt and response together.
    """

    shards: int
    weight_bytes: int
    lora_rank: int
    tokens: int
    packed: bool
    fused: bool
    checkpointing: bool
    image_share: float
    param_offload: bool
    optimizer_offload: bool
    gpu: int
    engine_share: float
    tensor_parallel: int
    sequence: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, by what they are for.

    Attributes:
        weights, gradients, optimizer: Of its shard.
        gathered: Layers that are whole while they are computed.
        kept: What one micro-batch keeps until its backward pass.
        inside, logits: What one layer needs, and what the log-probs need; they do not need it at once.
        engine: The rollout engine's, while it generates; of these, `cache` are for keys and values.
        update, generate: The sums of the two phases.
        sequences: Sequences of the longest kind whose keys and values fit at once.
    """

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    kept: float
    inside: float
    logits: float
    engine: float
    cache: float
    update: float
    generate: float
    sequences: int


def activations(shape: Shape, load: Load) -> tuple[float, float]:
    """(kept, inside): what one micro-batch keeps until the backward pass, and what one layer needs while it is computed
    again there. Without checkpointing, all layers keep what is inside of them.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    inside = 12 * shape.hidden + 5 * queries + 4 * keys + 5 * shape.intermediate
    patches = 4 * load.image_share
    vision_inside = patches * (18 * shape.vision_hidden + (5 if not shape.third else 3) * shape.vision_intermediate)
    if not load.checkpointing:
        return HALF * load.tokens * (shape.layers * inside + shape.vision_depth * vision_inside), 0.0
    kept = shape.layers * shape.hidden + patches * shape.vision_depth * shape.vision_hidden
    return HALF * load.tokens * kept, HALF * load.tokens * max(inside, vision_inside)


def logits(shape: Shape, load: Load) -> float:
    """What the log-probs of one micro-batch need."""
    whole = LOGITS_PACKED if load.packed else LOGITS_PADDED
    return load.tokens * shape.vocab * (FUSED_LOGITS if load.fused else whole)


def cache_of_token(shape: Shape) -> int:
    """Bytes of one token's keys and values."""
    return 2 * HALF * shape.layers * shape.kv_heads * shape.head_dim


def memory(shape: Shape, load: Load) -> Memory:
    """The memory of one GPU in both phases: the update, and the generation on the same GPU."""
    trained = shape.lora(load.lora_rank) if load.lora_rank else shape.parameters
    trained_bytes = 4 if load.lora_rank else load.weight_bytes
    weights = shape.parameters * load.weight_bytes / load.shards + (trained * 4 / load.shards if load.lora_rank else 0)
    gradients, optimizer = (trained * trained_bytes * copies / load.shards for copies in (1, 2))
    units = 2 * shape.layer + shape.embedding * (1 if shape.tied else 2)
    gathered = float(units * HALF) if load.shards > 1 or load.weight_bytes > HALF else 0.0
    kept, inside = activations(shape, load)
    outside = logits(shape, load)
    update = weights + gradients + optimizer + gathered + kept + max(inside, outside) + OVERHEAD
    resident = (0.0 if load.param_offload else weights) + (0.0 if load.optimizer_offload else optimizer)
    engine = load.engine_share * load.gpu
    engine_weights = shape.parameters * HALF / load.tensor_parallel
    cache = max(0.0, engine - engine_weights - ENGINE_OVERHEAD)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        gathered=gathered,
        kept=kept,
        inside=inside,
        logits=outside,
        engine=engine,
        cache=cache,
        update=update,
        generate=resident + engine + OVERHEAD,
        sequences=int(cache * load.tensor_parallel / (cache_of_token(shape) * load.sequence)),
    )
