"""`from_pretrained` that loads every weight of a folder or none, and never runs code that a folder brings.

transformers starts a missing weight at random. Asked for a folder with code of its own and told nothing else, it offers
on the terminal to run it, and waits for the reply.
"""

from pathlib import Path
from typing import Any


def read_files(auto_class: Any, directory: str | Path, **options: Any) -> Any:
    """A config, tokenizer or processor of transformers' own classes.

    Args:
        auto_class: of transformers, with `from_pretrained`.
        options: of `from_pretrained`.

    Raises:
        OSError, ValueError: as transformers raises them; a folder that needs code of its own is a ValueError.
    """
    return auto_class.from_pretrained(directory, trust_remote_code=False, **options)


def load_model(auto_class: Any, directory: str | Path, **options: Any) -> Any:
    """The model in a folder, whole.

    Args:
        auto_class: of transformers, with `from_pretrained`.
        options: of `from_pretrained`.

    Raises:
        ValueError: weights of the model are missing from the folder, or weights in the folder are not the model's.
        RuntimeError: a weight has another shape, as transformers says it.
    """
    options = {"trust_remote_code": False, **options}
    model, info = auto_class.from_pretrained(directory, output_loading_info=True, **options)
    missing, foreign = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if not missing and not foreign:
        return model
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights of the model are missing and would be random ({missing[0]}, …)")
    if foreign:
        parts.append(f"{len(foreign)} weights are not the model's ({foreign[0]}, …)")
    lora = any("lora_" in name or name.startswith("base_model.") for name in foreign)
    advice = "merge the adapters into their base model, and name that folder" if lora else "copy the model again"
    raise ValueError(f"{directory}: {'; '.join(parts)}: {advice}")
