"""`from_pretrained` that loads every weight of a folder or none: transformers starts a missing one at random."""

from pathlib import Path
from typing import Any


def load_model(auto_class: Any, directory: str | Path, **options: Any) -> Any:
    """The model in a folder, whole.

    Args:
        auto_class: of transformers, with `from_pretrained`.
        options: of `from_pretrained`.

    Raises:
        ValueError: weights of the model are missing from the folder, or weights in the folder are not the model's.
        RuntimeError: a weight has another shape, as transformers says it.
    """
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
