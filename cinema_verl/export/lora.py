"""Adapters into their base weights, one layer at a time: W + (alpha / r) B A, in fp32."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from cinema_verl.export.shards import ExportError, Weight

_PREFIX = "base_model.model."
_BASE = re.compile(r"^(.*)\.base_layer\.(weight|bias)$")
_ADAPTER = re.compile(r"^(.*)\.lora_([AB])\.([^.]+)\.weight$")


def has_adapters(weights: Mapping[str, Weight]) -> bool:
    return any("lora_" in name for name in weights)


def merged(weights: Mapping[str, Weight], checkpoint: Path) -> dict[str, Weight]:
    """The weights of the model that an adapter was trained in, with the adapter merged into them.

    Args:
        weights: of verl's shards, under PEFT's names.
        checkpoint: the folder of the shards; `lora_train_meta.json` in it has rank and alpha.

    Raises:
        ExportError: rank or alpha are not known, the base weights are not there, or a tensor is neither a base weight
            nor the A or B of one adapter.
    """
    scale = _scale(checkpoint)
    adapters: dict[str, dict[str, Weight]] = {}
    base: dict[str, Weight] = {}
    for name, weight in weights.items():
        plain = name.removeprefix(_PREFIX)
        if found := _ADAPTER.match(plain):
            pair = adapters.setdefault(found[1], {})
            if found[2] in pair:
                raise ExportError(f"{checkpoint}: {found[1]} has several adapters; one can be merged")
            pair[found[2]] = weight
        elif "lora_" in plain:
            raise ExportError(f"{checkpoint}: {name} is no adapter of a linear layer, and cannot be merged")
        else:
            base[_BASE.sub(r"\1.\2", plain)] = weight
    for layer, pair in adapters.items():
        target = base.get(f"{layer}.weight")
        if target is None:
            raise ExportError(
                f"{checkpoint} holds the adapter of {layer} without its base weight (checkpoint.save_lora_only): "
                "merge it with peft's PeftModel.from_pretrained(base model, adapter).merge_and_unload()"
            )
        if pair.keys() != {"A", "B"} or (pair["B"].shape[0], pair["A"].shape[1]) != target.shape:
            raise ExportError(f"{checkpoint}: the adapter of {layer} does not fit its weight of shape {target.shape}")
        base[f"{layer}.weight"] = _sum(target, pair["A"], pair["B"], scale)
    return base


def _sum(base: Weight, a: Weight, b: Weight, scale: float) -> Weight:
    def pieces() -> Iterator[torch.Tensor]:
        delta = (b.whole().float() @ a.whole().float()) * scale
        yield base.whole().float().add_(delta)

    return Weight(base.shape, torch.float32, pieces)


def _scale(checkpoint: Path) -> float:
    path = checkpoint / "lora_train_meta.json"
    try:
        meta = json.loads(path.read_bytes())
        scale = float(meta["lora_alpha"]) / int(meta["r"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ExportError(
            f"{path} does not say rank and alpha ({error!r}), and without them nothing is merged"
        ) from error
    if scale <= 0:
        raise ExportError(f"{path}: alpha / r is {scale}, so that the adapter would be lost")
    return scale
