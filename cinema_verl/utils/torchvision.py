"""Let torchvision be imported beside a PyTorch built without an accelerator.

The Qwen-VL processors and ``qwen_vl_utils`` import torchvision for its image transforms, which are plain
PyTorch. The wheel on PyPI links its native operators to CUDA; where those libraries are absent the operators
do not load, and the import dies on *describing* two of them ("operator torchvision::nms does not exist").
Declaring the two schemas is enough for the import; calling them still fails, and nothing here calls them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

# The operators whose fake kernels torchvision registers unconditionally at import
# (torchvision/_meta_registrations.py).
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # torch.library.Library; a definition lives as long as its Library object


def ensure_torchvision_importable() -> bool:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` where torchvision's own operators cannot load.

    Does nothing when torch was built for CUDA or ROCm, when torchvision is absent or already imported, or
    when its native library loads. Call it before the first import of torchvision; calling it again is free.

    Returns:
        Whether the schemas stand in for the native operators in this process.
    """
    import torch  # here, so that naming this function in a command does not cost seconds

    global _library
    if _library is not None:
        return True
    if torch.version.cuda or torch.version.hip or "torchvision" in sys.modules or _native_operators_load():
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)
    return True


def _native_operators_load() -> bool:
    """Whether torchvision's compiled library works here; also true where there is no torchvision."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    import torch

    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except (OSError, RuntimeError):
            continue
        return True
    return False
