"""One Hugging Face folder, there as a whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from cinema_verl.data.directory import beside, contents_of, put_in_place
from cinema_verl.export import lora, weights
from cinema_verl.export.card import card
from cinema_verl.export.find import TEMPLATE_KWARGS, Found, manner_of
from cinema_verl.export.manner import FILE, STOP, to_json
from cinema_verl.export.shards import ExportError, Weight, read_safetensors, read_shards
from cinema_verl.training.model_folder import family_refusal, model_refusals
from cinema_verl.utils.pretrained import read_files
from cinema_verl.utils.torchvision import ensure_torchvision_importable

_KEPT: Final = ("*.json", "*.jinja", "*.txt", "*.model")
"""Of verl's `huggingface/`: configuration, tokenizer, processor, chat template. Code is not among them."""
_VERSIONS: Final = ("cinema-verl", "torch", "transformers")


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        dtype: name of a torch dtype; None for that of training, fp32 where adapters are merged.
        stop_strings: whether `generation_config.json` stops at `</answer>`.
    """

    dtype: str | None = None
    stop_strings: bool = True


@dataclass(frozen=True)
class Exported:
    """What was written: bytes of weights, their number and dtype, and whether the folder was there before."""

    size: int
    count: int
    dtype: str
    before: bool = False


def export(
    found: Found, output: Path, options: Options = Options(), progress: Callable[[int, int], object] = lambda *_: None
) -> Exported:
    """Write the policy of a checkpoint to `output`.

    Everything is written beside it, into `.NAME.partial`, checked there as a training would check it, and renamed.
    What a killed export leaves there, the next one deletes.

    Args:
        output: must not be there, or be empty, or hold this very export.
        progress: is told the bytes of weights that are written, and of all.

    Raises:
        ExportError: the checkpoint is incomplete or no model's, or `output` holds something else.
        Locked: another process is writing to it.
        OSError: as reading and writing raise it.
    """
    output, hf = output.resolve(), found.shards / "huggingface"
    if not (hf / "config.json").is_file():
        raise ExportError(f"{hf} has no config.json: copy all of the checkpoint, or export another step")
    record = {"source": _digest(found.shards), "step": found.step, "stop": STOP if options.stop_strings else None}
    record["asked_for"] = options.dtype
    if before := _before(output, record):
        return before
    tensors, dtype = read(found, options.dtype)
    size = sum(w.numel * (dtype if w.dtype.is_floating_point else w.dtype).itemsize for w in tensors.values())
    output.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(output.parent).free) < size:
        raise ExportError(f"{output.parent} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB are to be written")
    with beside(output) as partial:
        if before := _before(output, record):  # by another command, since the look above
            return before
        _fill(found, output.name, partial, tensors, dtype, options, record, lambda done: progress(done, size))
        _before(output, record)
        put_in_place(partial, output)
    return Exported(size, len(tensors), _name(dtype))


def _fill(
    found: Found,
    name: str,
    folder: Path,
    tensors: Mapping[str, Weight],
    dtype: torch.dtype,
    options: Options,
    record: Mapping[str, Any],
    progress: Callable[[int], object],
) -> None:
    """Write all files into `folder`, and look at them as a training would."""
    done = 0

    def count(written: int) -> None:
        nonlocal done
        done += written
        progress(done)

    _describe(found, folder, name, dtype, options, record)
    weights.write(tensors, folder, dtype, progress=count)
    if refusals := model_refusals(folder, str(found.shards), rl=None):
        raise ExportError("what was written cannot be used: " + "; ".join(map(str, refusals)))


def read(found: Found, dtype: str | None = None) -> tuple[dict[str, Weight], torch.dtype]:
    """The weights of a checkpoint under the names of files, and the dtype to write them in.

    From the shards, with adapters merged; from `huggingface/` where that is all that was kept.
    """
    ensure_torchvision_importable()
    from transformers import AutoConfig

    hf, adapters = found.shards / "huggingface", False
    _settings(hf / "config.json")
    if (refusal := family_refusal(hf, str(hf))) is not None:
        raise ExportError(str(refusal))
    if any(found.shards.glob("model_world_size_*.pt")):
        tensors = read_shards(found.shards)
        if adapters := lora.has_adapters(tensors):
            tensors = lora.merged(tensors, found.shards)
        config = read_files(AutoConfig, hf, local_files_only=True)
        tensors = weights.named_as_saved(tensors, config, str(found.shards))
    elif any(hf.glob("*.safetensors")):
        tensors = read_safetensors(hf)
    else:
        raise ExportError(
            f"{found.shards} holds neither shards nor weights in huggingface/: checkpoint.save_contents must have "
            "`model` or `hf_model`"
        )
    if dtype:
        return tensors, getattr(torch, dtype)
    found_types = {w.dtype for w in tensors.values() if w.dtype.is_floating_point}
    return tensors, torch.float32 if adapters else max(found_types, key=lambda each: each.itemsize)


def _describe(
    found: Found, folder: Path, name: str, dtype: torch.dtype, options: Options, record: Mapping[str, Any]
) -> None:
    """Write everything but the weights."""
    hf = found.shards / "huggingface"
    for pattern in _KEPT:
        for path in hf.glob(pattern):
            if not path.name.endswith(".safetensors.index.json"):
                shutil.copyfile(path, folder / path.name)
    config = _settings(hf / "config.json")
    if config.get("auto_map"):
        raise ExportError(f"{hf}/config.json asks for code of the model's own, which is not run or copied here")
    # verl writes the dtype of its computation here, and transformers would load fp32 weights rounded to it.
    config = _with_dtype(config, _name(dtype))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if given := found.setting(TEMPLATE_KWARGS):
        _give_to_the_template(folder, given)
    generation = folder / "generation_config.json"
    settings = _settings(generation) if generation.exists() else _generation(hf)
    if options.stop_strings:
        settings["stop_strings"] = [STOP]
    generation.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    manner, known = manner_of(found)
    versions = {each: metadata.version(each) for each in _VERSIONS}
    about = {**record, "dtype": _name(dtype), "versions": versions, "asked": to_json(manner), "asked_is_known": known}
    (folder / FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(found, manner, _name(dtype), name), encoding="utf-8")


def _give_to_the_template(folder: Path, given: Mapping[str, Any]) -> None:
    """Set in the chat template what the run gave it, for whoever asks the policy does not know of it."""
    from transformers import AutoProcessor

    template = read_files(AutoProcessor, folder, local_files_only=True).chat_template
    if not isinstance(template, str):
        raise ExportError(f"{folder} has no single chat template, and the run gave it {json.dumps(given)}")
    lines = [f"{{%- set {name} = {value!r} -%}}\n" for name, value in given.items()]  # Jinja reads Python's literals
    (folder / "chat_template.jinja").write_text("".join([*lines, template]), encoding="utf-8")


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ExportError(f"{path} cannot be read ({error}): copy it again, or export another step") from error


def _with_dtype(value: Any, dtype: str) -> Any:
    if not isinstance(value, dict):
        return value
    named = {key: dtype if key in ("dtype", "torch_dtype") else _with_dtype(each, dtype) for key, each in value.items()}
    return named


def _generation(hf: Path) -> dict[str, Any]:
    from transformers import AutoConfig, GenerationConfig

    config = read_files(AutoConfig, hf, local_files_only=True)
    settings: dict[str, Any] = GenerationConfig.from_model_config(config).to_diff_dict()
    return settings


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _before(output: Path, record: Mapping[str, Any]) -> Exported | None:
    """The export that is there already, if it is this one; None where there is nothing.

    Raises:
        ExportError: there is something else.
    """
    if not output.exists() or (output.is_dir() and not contents_of(output)):
        return None
    try:
        about = json.loads((output / FILE).read_bytes())
        same = all(about.get(key) == value for key, value in record.items())
    except (OSError, ValueError, AttributeError):
        raise ExportError(f"{output} holds something else: choose another --output, or move it away") from None
    if not same:
        raise ExportError(f"{output} is another export (step {about.get('step')}): choose another --output")
    tensors = read_safetensors(output)
    size = sum(weight.numel * weight.dtype.itemsize for weight in tensors.values())
    return Exported(size, len(tensors), str(about.get("dtype")), before=True)


def _digest(shards: Path) -> str:
    """What the files of a checkpoint hold, by their names, sizes, and first and last megabyte."""
    files = sorted([*shards.glob("model_world_size_*.pt"), *(shards / "huggingface").iterdir()])
    digest = hashlib.sha256()
    for path in [path for path in files if path.is_file()]:
        size = path.stat().st_size
        with open(path, "rb") as file:
            digest.update(f"{path.name} {size}".encode() + file.read(1 << 20))
            file.seek(max(size - (1 << 20), 0))
            digest.update(file.read())
    return digest.hexdigest()
