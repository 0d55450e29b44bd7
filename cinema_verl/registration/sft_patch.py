"""The one patch of this project: verl's SFT trainer may open its process group on a CPU.

verl 0.9.1 builds the backend string as `f"cpu:gloo,{device}:{backend}"` (`verl/utils/distributed.py:89`). On the CPU
that is `cpu:gloo,cpu:gloo`, which PyTorch refuses ("Duplicate device type cpu"). The RL workers can open gloo first;
`verl.trainer.sft_trainer` calls that function before anything of ours runs.

So `torch.distributed.init_process_group` is wrapped to read the doubled string as `cpu:gloo`. No working call is
affected: the doubled string is an error everywhere else.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
import torch.distributed

VERIFIED_WITH = "0.9.1"  # the verl whose SFT trainer needs this and was trained with it
_DOUBLED = "cpu:gloo,cpu:gloo"


def install_sft_patch(distributed: ModuleType | None = None) -> bool:
    """Wrap `torch.distributed.init_process_group` in a process that trains on the CPU, once.

    Does nothing when torch was built for CUDA or ROCm (unless VERL_PLATFORM=cpu), or has no distributed part. With a
    verl other than the verified one it warns and does nothing: read `verl/utils/distributed.py` of that version before
    allowing it.

    Args:
        distributed: `verl.utils.distributed`, as an import hook on that module passes it; not used.

    Returns:
        Whether the patch is in place.
    """
    # A PyTorch with CUDA trains on the CPU only where VERL_PLATFORM says so.
    for_the_cpu = not (torch.version.cuda or torch.version.hip) or os.environ.get("VERL_PLATFORM") == "cpu"
    if not for_the_cpu or not torch.distributed.is_available():
        return False
    original = torch.distributed.init_process_group
    if getattr(original, "_cinema_sft_patch", False):
        return True
    installed = metadata.version("verl")
    if installed != VERIFIED_WITH:
        warnings.warn(
            f"the SFT trainer's CPU patch is for verl {VERIFIED_WITH}, this is {installed}: not applied",
            stacklevel=2,
        )
        return False

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        original("cpu:gloo" if backend == _DOUBLED else backend, *args, **kwargs)

    init_process_group._cinema_sft_patch = True  # type: ignore[attr-defined]
    torch.distributed.init_process_group = init_process_group
    return True
