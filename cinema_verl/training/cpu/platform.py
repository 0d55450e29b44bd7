"""The CPU as a verl platform.

verl 0.9.1 ships platforms for CUDA, ROCm and Ascend only (`verl.plugin.platform`). This one lets the same trainer,
workers and checkpoints run on a laptop. It is chosen by `VERL_PLATFORM=cpu`, or automatically where PyTorch was built
without CUDA and ROCm; on a GPU node it is never chosen automatically, not even in Ray actors that see no GPU.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class _CPUDevice(ModuleType):
    """`torch.cpu` plus the members that verl expects of a device module (`get_torch_device()`)."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, index: int | None = None) -> str:
        return "CPU"

    def empty_cache(self) -> None:
        """There is no cache to empty."""

    def ipc_collect(self) -> None:
        """There is no device memory that processes share."""

    def reset_peak_memory_stats(self, index: int | None = None) -> None:
        """The kernel's peak counter cannot be reset."""

    def max_memory_allocated(self, index: int | None = None) -> int:
        """Peak resident memory of this process, in bytes: what `perf/max_memory_allocated_gb` then reports."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    max_memory_reserved = memory_allocated = memory_reserved = max_memory_allocated

    def mem_get_info(self, index: int | None = None) -> tuple[int, int]:
        """(free, total) bytes of the machine."""
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, index: int | None = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, index: int | None = None) -> None:
        torch.set_rng_state(state)


_DEVICE = _CPUDevice("cinema_verl.training.cpu.device")


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """`verl.plugin.platform.PlatformBase` for the CPU."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _DEVICE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return torch.version.cuda is None and torch.version.hip is None

    def current_device(self) -> Any:
        # verl passes this to `.to()` and `torch.device()`: for the CPU it must be the name, not an index.
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one CPU device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU kernels are synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """There is no allocator to configure."""

    def empty_cache(self) -> None:
        """See `_CPUDevice.empty_cache`."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        # verl's resource pools count "GPU" or "NPU" and nothing else (`ResourcePoolManager._check_resource_available`),
        # so the CPU recipe declares as many fictitious GPUs to Ray as it has workers (`ray_kwargs.ray_init.num_gpus`).
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None
