"""The CPU as a verl platform: there when asked for, absent on a GPU build of PyTorch."""

import pickle

import pytest
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from cinema_verl.training.cpu.platform import CPUPlatform


@pytest.fixture
def platform():
    return CPUPlatform()


def test_verl_knows_it_by_name():
    assert PlatformRegistry.get("cpu") is CPUPlatform


def test_it_answers_all_that_verl_asks(platform):
    assert isinstance(platform, PlatformBase)
    assert not CPUPlatform.__abstractmethods__
    assert platform.device_name == "cpu"
    assert platform.communication_backend_name() == "gloo"
    assert platform.device_count() == 1
    assert torch.zeros(1).to(platform.current_device()).device.type == "cpu"
    assert torch.device(platform.current_device()).type == "cpu"


@pytest.mark.parametrize(
    ("cuda", "hip", "available"), [(None, None, True), ("12.8", None, False), (None, "6.2", False)]
)
def test_it_never_volunteers_where_torch_could_have_an_accelerator(platform, monkeypatch, cuda, hip, available):
    """Not even in a process that sees none of the machine's GPUs, such as a Ray actor on the driver's node."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert platform.is_platform_available() is available
    assert platform.is_platform_available(use_smi_check=True) is available


def test_the_device_module_has_what_verl_takes_for_granted(platform):
    device = platform.device_module
    assert device.is_available()
    assert device.current_device() == "cpu"
    assert device.device_count() == 1
    device.empty_cache(), device.ipc_collect(), device.reset_peak_memory_stats(), device.synchronize()
    free, total = device.mem_get_info()
    assert 0 < free < total
    assert 1 << 20 < device.max_memory_allocated() < total
    assert device.max_memory_reserved() == device.max_memory_allocated()
    assert device.get_device_name() == "CPU"
    assert not hasattr(device, "cudart"), "what torch.cpu lacks and verl does not need is not invented"


def test_its_random_state_can_be_saved_and_restored(platform):
    state = platform.device_module.get_rng_state()
    first = torch.rand(3)
    platform.device_module.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
    platform.manual_seed(1)
    first = torch.rand(3)
    platform.manual_seed_all(1)
    assert torch.equal(torch.rand(3), first)


def test_ranges_are_a_context(platform):
    with platform.nvtx_range("step"):
        pass


def test_it_travels_to_workers(platform):
    assert pickle.loads(pickle.dumps(platform)).device_name == "cpu"
