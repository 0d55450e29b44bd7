"""Private methods of verl that are overridden: the list in docs/architecture.md, which must not grow unnoticed."""

import importlib
import inspect
import pkgutil

import verl  # noqa: F401  registers the plugin, which makes torchvision importable

import cinema_verl.data
import cinema_verl.rollout
import cinema_verl.training

OVERRIDDEN = {
    "CinemaTrainer._compute_advantage",
    "CinemaTrainer._save_checkpoint",
    "CinemaTrainer._dump_generations",
    "CinemaTrainer._init_dataloader",
    "CinemaTrainer._init_resource_pool_mgr",
    "CinemaTrainer._maybe_log_val_generations",
    "CinemaTrainer._val_metrics_update",
    "CinemaSFTTrainer._build_ckpt_handler",
    "CinemaSFTTrainer._build_dataloader",
    "SFTCheckpoints._find_latest_checkpoint",
    "CPUEngineWithLMHead._build_fsdp_module",
    "Bounded._wait_for_next_poll",
    "CinemaDataset._read_files_and_tokenize",
    "CinemaSFTDataset._build_messages",
    "CinemaSFTDataset._download",
    "CinemaSFTDataset._read_files_and_process",
    "SharingAgentLoopWorker._compute_multi_modal_inputs",
    "SharingAgentLoopWorker._compute_score",
    "SharingAgentLoopWorker._run_agent_loop",
}
"""Before adding one, look for a public door: a callback `on_…`, a config value, a registry, a public method."""

MOST = 19


def subclasses_of_verls() -> set[type]:
    """Every class of the rooms that run inside verl with a class of verl above it."""
    found = set()
    for room in (cinema_verl.training, cinema_verl.rollout, cinema_verl.data):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            members = vars(importlib.import_module(module.name)).values()
            found |= {member for member in members if inspect.isclass(member) and member.__module__ == module.name}
    return {cls for cls in found if verls_above(cls)}


def verls_above(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] == "verl"]


def test_the_private_methods_that_are_overridden_are_those_of_the_list():
    classes = subclasses_of_verls()
    assert len(classes) >= 12
    # What stands before verl's class in the order of resolution: the class itself, and ours without a base of verl's.
    found = {
        f"{own.__name__}.{name}"
        for cls in classes
        for own in cls.__mro__
        if own.__module__.split(".")[0] == "cinema_verl"
        for name in vars(own)
        if name.startswith("_")
        and not name.startswith("__")
        and any(name in vars(base) for base in verls_above(cls))
        and callable(getattr(cls, name))
    }
    # One that is missing here is gone from verl, or no longer overridden.
    assert found == OVERRIDDEN
    assert len(OVERRIDDEN) <= MOST
