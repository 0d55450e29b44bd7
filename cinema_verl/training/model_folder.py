"""Does a model's folder hold what a run needs of it? Its weights, tokenizer, processor and chat template, looked at.

`from_pretrained` starts weights that it does not find at random, and says so in a warning among many: a folder of LoRA
weights trains noise. The weights are matched here by transformers itself, over tensors without storage that have the
names and shapes of the files' headers, so that a 72B model takes a second and no memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import TemplateError
from omegaconf import DictConfig, OmegaConf

from cinema_verl.data.families import FAMILIES, refused
from cinema_verl.training.refusal import Refusal, fine_tunes
from cinema_verl.utils.hub import HubUnreachable, only_local
from cinema_verl.utils.native_reasoning import KEY as REASONING
from cinema_verl.utils.pretrained import read_files
from cinema_verl.utils.torchvision import ensure_torchvision_importable

_TRAINABLE: Final = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_TRAJECTORY: Final = "<think>They differ.</think><answer>B</answer>"
_QUESTION: Final = {"role": "user", "content": [{"type": "text", "text": "Which is it?"}]}


class Header(NamedTuple):
    """Of one tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]


def folder_of(path: str) -> Path | None:
    """The folder of a model: the path itself, or where the hub's cache has it; None where it is not on this machine."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _key(config: DictConfig) -> str:
    return "model.path" if fine_tunes(config) else "actor_rollout_ref.model.path"


def hub_refusals(config: DictConfig) -> list[Refusal]:
    """The reason not to start with a model that is not on this machine while the hub does not answer: every process
    would wait for minutes."""
    key = _key(config)
    path = str(OmegaConf.select(config, key))
    if folder_of(path) is not None or "://" in path:  # verl copies from hdfs:// and the like
        return []
    try:
        only_local(path)
    except HubUnreachable as error:
        return [Refusal(key, error.what, error.advice)]
    return []


def folder_refusals(config: DictConfig) -> list[Refusal]:
    """Every reason not to train from the model that a composed configuration names, where it is on this machine."""
    key = _key(config)
    rl = key != "model.path"
    folder = folder_of(str(OmegaConf.select(config, key)))
    if folder is None:
        return []
    kwargs = OmegaConf.select(config, "data.apply_chat_template_kwargs") or {}
    thinking = None if rl else OmegaConf.select(config, "data.enable_thinking_default")
    strips = OmegaConf.select(config, REASONING) == "strip"
    return model_refusals(folder, key, kwargs, rl=rl, strips=strips, thinking=thinking)


def model_refusals(
    folder: Path,
    key: str,
    template_kwargs: Mapping[str, Any] | None = None,
    *,
    rl: bool | None = True,
    strips: bool = False,
    thinking: Any = None,
) -> list[Refusal]:
    """Every reason not to train from this folder.

    Args:
        key: The configuration's key of the model's path.
        template_kwargs: ``data.apply_chat_template_kwargs``.
        rl: For reinforcement learning, whose responses follow the generation prompt; supervised fine-tuning has
            trajectories that the template renders; None looks at the template for neither.
        strips: Whether the reward takes the policy's own reasoning off (`REASONING`): then the template may open it.
        thinking: ``data.enable_thinking_default``, with which verl renders what is taught.
    """
    if (found := family_refusal(folder, key)) is not None:
        return [found]
    ensure_torchvision_importable()  # before transformers, whose processors import torchvision
    from transformers import AutoConfig, AutoProcessor

    with _quiet():
        try:
            config = read_files(AutoConfig, folder, local_files_only=True)
            processor = read_files(AutoProcessor, folder, local_files_only=True)
        except (OSError, ValueError, TypeError, ImportError) as error:
            cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return [Refusal(key, f"{folder}: {cause}", "name a folder with config, tokenizer and processor")]
        refusals = [*_weights(folder, key, config), *_processor(folder, key, config, processor)]
        refusals += _generation(folder, key)
        if getattr(processor, "tokenizer", None) is not None:
            kwargs = dict(template_kwargs or {})
            taught = kwargs if thinking is None else {**kwargs, "enable_thinking": bool(thinking)}
            refusals += _template(key, processor, kwargs, taught, rl=rl, strips=strips)
    return refusals


def _template(
    key: str, processor: Any, kwargs: dict[str, Any], taught: dict[str, Any], *, rl: bool | None, strips: bool
) -> list[Refusal]:
    """Whether the chat template renders a question over images as this program needs it."""
    try:
        _opens_think(processor, kwargs)
        if rl and not strips:
            return list(_prompt_end(key, processor, kwargs))
        return list(_rendering(key, processor, kwargs, taught)) if rl is False else []
    except (ValueError, TypeError, TemplateError) as error:  # there is none, it is no Jinja, it refuses the question
        what = f"the chat template does not render a question: {error}"
        advice = "put the chat template of the model that this one was made from into its folder (chat_template.jinja)"
        return [Refusal(key, what, advice)]


def family_refusal(folder: Path, key: str) -> Refusal | None:
    """The reason not to use a model of another kind, from its config.json alone: transformers may not know it."""
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # said by transformers, which wants the same
    reason = refused(model_type)
    return None if reason is None else Refusal(key, *reason)


# --- Weights --------------------------------------------------------------------------------------------------


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads, and adapters beside them; others are not looked at, by nobody.

    Raises:
        ValueError: It would not find them.
    """
    index, adapters = folder / "model.safetensors.index.json", sorted(folder.glob("adapter_model*.safetensors"))
    if (folder / "model.safetensors").exists() or (folder / "model.safetensors").is_symlink():
        return [folder / "model.safetensors", *adapters]
    if index.exists():
        try:
            found = json.loads(index.read_bytes())
            named, _ = sorted(set(found["weight_map"].values())), found["metadata"]  # transformers wants both
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index.name} is no index of weights ({error!r})") from error
        if gone := [name for name in named if not (folder / name).is_file()]:
            raise ValueError(f"{index.name} names {', '.join(gone)}, and {len(gone)} of them are not there")
        return [*(folder / name for name in named), *adapters]
    if others := sorted({*folder.glob("*.safetensors")} - {*adapters}):
        raise ValueError(
            f"neither model.safetensors nor {index.name}, which would name {others[0].name} and the others"
        )
    return adapters


def read_headers(folder: Path) -> dict[str, Header]:
    """Name, dtype and shape of every tensor in a folder's safetensors files; no weight is read.

    Raises:
        ValueError: A file that is cut short, or that is not there although others say so.
        OSError: As reading raises it.
    """
    headers: dict[str, Header] = {}
    for path in _weight_files(folder):
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            size = path.stat().st_size
            if not 0 < length <= size - 8:
                raise ValueError(f"{path.name} is no safetensors file, or cut short")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        if 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0) > size:
            raise ValueError(f"{path.name} is cut short")
        headers |= {name: Header(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    return headers


def _weights(folder: Path, key: str, config: Any) -> Iterator[Refusal]:
    """Whether every weight is there and is the model's, as `from_pretrained` matches names."""
    import torch
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if getattr(config, "quantization_config", None):
        yield Refusal(key, f"{folder} holds quantised weights, which cannot be trained", "name the model before it")
        return
    try:
        headers = read_headers(folder)
    except (OSError, ValueError, KeyError) as error:
        yield Refusal(key, f"{folder}: {error}", "copy the model again")
        return
    if not headers:
        if not list(folder.glob("pytorch_model*.bin")):  # pickles are for verl to load, not for a look
            yield Refusal(key, f"{folder} holds no weights (*.safetensors)", "copy the model again")
        return
    if other := sorted({header.dtype for header in headers.values()} - set(_TRAINABLE)):
        what = f"{folder} has weights of {', '.join(other)}, which cannot be trained"
        yield Refusal(key, what, "convert it to bfloat16 or float32")
        return
    cls = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if cls is None:
        return  # said by the verdict on the family
    empty = {
        name: torch.empty(header.shape, dtype=getattr(torch, _TRAINABLE[header.dtype]), device="meta")
        for name, header in headers.items()
    }
    _, info = cls.from_pretrained(
        None, config=config, state_dict=empty, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
    )
    yield from _mismatches(folder, key, info)


def _mismatches(folder: Path, key: str, info: Mapping[str, Any]) -> Iterator[Refusal]:
    missing, foreign = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = sorted(info["mismatched_keys"], key=lambda found: found[0])
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights are missing and would be random ({missing[0]}, …)")
    if foreign:
        parts.append(f"{len(foreign)} are not the model's ({foreign[0]}, …)")
    if shapes:
        name, have, want = shapes[0]
        parts.append(f"{len(shapes)} have another shape ({name}: {tuple(have)}, the model has {tuple(want)})")
    if not parts:
        return
    lora = any("lora_" in name or name.startswith("base_model.") for name in foreign)
    advice = "copy the model again, with the config.json that belongs to it"
    if lora:
        advice = "these are LoRA weights: merge them into their base model (peft's merge_and_unload), name that folder"
    yield Refusal(key, f"{folder}: {'; '.join(parts)}", advice)


# --- Tokenizer, processor, template ---------------------------------------------------------------------------


def _processor(folder: Path, key: str, config: Any, processor: Any) -> Iterator[Refusal]:
    """Whether tokenizer and image processor belong to the model."""
    expected = FAMILIES[config.model_type].processor
    if type(processor).__name__ != expected:
        family = FAMILIES[config.model_type].name
        what = f"{folder} has a {type(processor).__name__}, and {family} goes with {expected}"
        yield Refusal(key, what, "copy the processor's files from the model that this one was made from")
        return
    rows = config.get_text_config().vocab_size
    highest = max(processor.tokenizer.get_vocab().values())
    if highest >= rows:
        what = f"the tokenizer of {folder} has ids up to {highest}, and the model embeds {rows}"
        yield Refusal(key, what, "copy the tokenizer that belongs to the model, or resize the embeddings and save it")
    token, wanted = processor.image_token, config.image_token_id
    if (found := processor.tokenizer.convert_tokens_to_ids(token)) != wanted:
        what = f"{token} is token {found} of the tokenizer of {folder}, and the model looks for {wanted}"
        yield Refusal(key, what, "copy the tokenizer that belongs to the model")
    vision = config.vision_config
    for ours, theirs in (
        ("patch_size", "patch_size"),
        ("merge_size", "spatial_merge_size"),
        ("temporal_patch_size", "temporal_patch_size"),
    ):
        have, want = getattr(processor.image_processor, ours, None), getattr(vision, theirs, None)
        if have != want:
            what = f"the image processor of {folder} has {ours} {have}, and the model's vision tower {want}"
            yield Refusal(key, what, "copy preprocessor_config.json (or processor_config.json) from the model it is of")


def _generation(folder: Path, key: str) -> Iterator[Refusal]:
    """Whether what transformers reads beside the weights, once it has them, is whole."""
    path = folder / "generation_config.json"
    try:
        if path.exists():
            dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        yield Refusal(key, f"{path} cannot be read: {error}", "copy it again, or leave it out")


def _prompt_end(key: str, processor: Any, kwargs: dict[str, Any]) -> Iterator[Refusal]:
    """Whether the policy's turn begins inside a `<think>` that the chat template opens."""
    if not _opens_think(processor, kwargs):
        return
    ways = []
    if not _opens_think(processor, _without(kwargs)):
        ways.append("set +data.apply_chat_template_kwargs.enable_thinking=false")
    ways.append("put a chat template without it into the model's folder (chat_template.jinja)")
    ways.append(f"set {REASONING}=strip, which takes the model's own reasoning off before a response is scored")
    yield Refusal(
        key,
        "the chat template opens <think> for the policy, so every response would begin inside a tag that is not its "
        "own, and break the format rule",
        ", or ".join(ways),
    )


def opens_think(folder: Path) -> bool:
    """Whether the chat template of a whole folder (`model_refusals`) opens `<think>` for the policy."""
    ensure_torchvision_importable()
    from transformers import AutoProcessor

    with _quiet():
        return _opens_think(read_files(AutoProcessor, folder, local_files_only=True), {})


def _opens_think(processor: Any, kwargs: Mapping[str, Any]) -> bool:
    text = processor.apply_chat_template([_QUESTION], tokenize=False, add_generation_prompt=True, **kwargs)
    return bool(text.rfind("<think>") > text.rfind("</think>"))


def _rendering(key: str, processor: Any, kwargs: dict[str, Any], taught: dict[str, Any]) -> Iterator[Refusal]:
    """Whether a trajectory is trained on as it is, and behind what the policy will be asked with.

    Templates of reasoning models take `<think>` out of past turns, and open it at the end of a prompt. verl masks as
    many tokens of each answer as the end of a prompt has (`MultiTurnSFTDataset`): where what is taught begins
    otherwise, tokens of the trajectory are masked, or tokens of the template are learned.

    Args:
        kwargs: With which the policy is asked.
        taught: With which verl renders what is taught.
    """
    if _is_taught(processor, kwargs, taught):
        return
    if not _opens_think(processor, kwargs):
        what = "the trajectories would not be trained on as they are, behind the prompt that the policy is asked with"
        what = f"the chat template changes what the assistant says (it takes <think> out, or adds its own), so {what}"
    else:
        what = (
            "the chat template opens <think> where the policy is asked, and trajectories have actions of their own: "
            "what is taught would begin elsewhere than what is asked for, or inside a tag that is not its own"
        )
    default, off = "data.enable_thinking_default=null", "+data.apply_chat_template_kwargs.enable_thinking=false"
    ways = {f"set {default}": kwargs, f"set {off} {default}, and the former where the policy is used": _without(kwargs)}
    known = [way for way, given in ways.items() if _is_taught(processor, given, given)][:1]
    template = "put a chat template that keeps the assistant's words into the model's folder (chat_template.jinja)"
    yield Refusal(key, what, ", or ".join([*known, template]))


def _without(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**kwargs, "enable_thinking": False}


def _is_taught(processor: Any, kwargs: Mapping[str, Any], taught: Mapping[str, Any]) -> bool:
    """Whether what is rendered for training is the prompt of an inference, which opens no `<think>`, and the answer."""
    answer = {"role": "assistant", "content": [{"type": "text", "text": _TRAJECTORY}]}
    asked = processor.apply_chat_template([_QUESTION], tokenize=False, add_generation_prompt=True, **kwargs)
    rendered: str = processor.apply_chat_template([_QUESTION, answer], tokenize=False, **taught)
    return rendered.startswith(asked + _TRAJECTORY) and not _opens_think(processor, kwargs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of what it loads; what matters of it is returned."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
