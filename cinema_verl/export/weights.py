"""Weights onto the disk as transformers names and keeps them, a piece at a time.

The safetensors format is eight bytes of length, a JSON header with the place of each tensor, and the bytes
(https://huggingface.co/docs/safetensors). `safetensors.torch.save_file` takes tensors in memory; this writes the same
file from pieces, so that memory holds one of them.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from cinema_verl.export.shards import ExportError, Weight

LARGEST_FILE: Final = 5 * 10**9  # bytes: what save_pretrained used to cut at
DTYPES: Final = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64", "int64": "I64"}

_CONFIG: Final = "copy the whole checkpoint again, with the huggingface/config.json that belongs to it"


def named_as_saved(weights: Mapping[str, Weight], config: Any, where: str) -> dict[str, Weight]:
    """The same weights by the names that `save_pretrained` gives them, those that are tied once.

    Args:
        weights: by their names in the model's class.
        config: the model's, of transformers.
        where: for messages.

    Raises:
        ExportError: a weight is not the model's, is missing, or has another shape.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.core_model_loading import revert_weight_conversion

    vision = type(config) in AutoModelForImageTextToText._model_mapping
    with torch.device("meta"):
        model = (AutoModelForImageTextToText if vision else AutoModelForCausalLM).from_config(config)
    model.tie_weights()
    once, twice = set(dict(model.named_parameters())), set(dict(model.named_parameters(remove_duplicate=False)))
    expected = model.state_dict()
    aliases = twice - once
    wanted = expected.keys() - aliases
    if unknown := sorted(weights.keys() - expected.keys()):
        raise ExportError(f"{where}: {len(unknown)} weights are not the model's ({unknown[0]}, …): {_CONFIG}")
    if missing := sorted(wanted - weights.keys()):
        raise ExportError(f"{where}: {len(missing)} weights of the model are missing ({missing[0]}, …): {_CONFIG}")
    for name in wanted:
        if weights[name].shape != (shape := tuple(expected[name].shape)):
            raise ExportError(f"{where}: {name} has shape {weights[name].shape}, the model has {shape}: {_CONFIG}")
    kept = {name: weights[name] for name in expected if name in wanted}
    stand_ins = {name: torch.empty(weight.shape, device="meta") for name, weight in kept.items()}
    saved = revert_weight_conversion(model, dict(stand_ins))
    original = {id(tensor): name for name, tensor in stand_ins.items()}
    renamed = {name: original.get(id(tensor)) for name, tensor in saved.items()}
    if None in renamed.values() or len(renamed) != len(kept):
        return kept  # it also takes tensors apart: transformers reads its own names, too
    return {name: kept[old] for name, old in renamed.items() if old is not None}


def write(
    weights: Mapping[str, Weight],
    folder: Path,
    dtype: torch.dtype | None = None,
    largest_file: int = LARGEST_FILE,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Write `model.safetensors`, or several files and their index, into a folder.

    Args:
        dtype: of what is written; None for each weight's own. Integers stay what they are.
        largest_file: bytes, above which a file is not continued; a tensor is never cut.
        progress: is told the bytes of each piece that was written.
    """
    types = {name: dtype if dtype and w.dtype.is_floating_point else w.dtype for name, w in weights.items()}
    sizes = {name: weight.numel * types[name].itemsize for name, weight in weights.items()}
    plan = split_state_dict_into_shards_factory(
        {name: [name] for name in weights},  # plain strings would be left out
        get_storage_size=lambda entry: sizes[entry[0]],
        get_storage_id=lambda entry: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=largest_file,
    )
    for file, names in plan.filename_to_tensors.items():
        _write_file(folder / file, {name: weights[name] for name in names}, types, progress)
    for file in plan.filename_to_tensors:  # all at the end: what waits for the disk would read nothing meanwhile
        with open(folder / file, "rb") as written:
            os.fsync(written.fileno())
    if plan.is_sharded:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(
    path: Path, weights: Mapping[str, Weight], types: Mapping[str, torch.dtype], progress: Callable[[int], object]
) -> None:
    # Each begins at a multiple of its size; otherwise in the order of the shards, which are then read from end to end.
    ordered = sorted(weights, key=lambda name: -types[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        start, end = end, end + weights[name].numel * types[name].itemsize
        kind = DTYPES.get(str(types[name]).removeprefix("torch."))
        if kind is None:
            raise ExportError(f"{name} is of {types[name]}, for which models have no use")
        header[name] = {"dtype": kind, "shape": list(weights[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            before = file.tell()
            for piece in weights[name].pieces():
                flat = piece.to(types[name]).contiguous().reshape(-1)
                data: Any = flat.view(torch.uint8).numpy()
                progress(file.write(memoryview(data)))
                del data
                del piece, flat
            if file.tell() - before != weights[name].numel * types[name].itemsize:
                raise ExportError(f"{name}: other bytes were read than its shape {weights[name].shape} has")
