"""What CINEMA adds to verl, and when: each registration is tied to the verl module that owns the registry.

This runs inside every `import verl`, so it imports very little. The trainer, the engine and the rest are imported in
the processes that import their registry, right after it (`HOOKS`); a failure there fails the import of that module.
"""

import importlib
import multiprocessing
import os
import sys
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import ModuleType

import wrapt
from packaging.specifiers import SpecifierSet

from cinema_verl import __version__
from cinema_verl.registration import moved
from cinema_verl.registration.command_line import check_command_line, running_program
from cinema_verl.utils.torchvision import ensure_torchvision_importable

TESTED_VERL = ">=0.9.1,<0.10"  # the same range as in pyproject.toml; a test holds them together
ALLOW_UNTESTED = "CINEMA_VERL_ALLOW_UNTESTED_VERL"


class PluginError(RuntimeError):
    """CINEMA could not be registered with verl. Not an ImportError: to verl those mean "optional part absent"."""


@dataclass(frozen=True)
class Hook:
    """What to do once a module of verl (or Hydra) has been imported, in whichever process that happens."""

    after: str
    """The module that owns the registry."""
    do: str
    """`package.module`: import it, it registers itself. `package.module:function`: import it and call that."""
    provides: str
    """The name in the announcement and in error messages."""


HOOKS = (
    Hook("verl.trainer.ppo.v1", "cinema_verl.training.trainer", "trainer cinema"),
    Hook("verl.trainer.ppo.core_algos", "cinema_verl.training.advantage", "estimator cinema_dps"),
    Hook("verl.experimental.agent_loop", "cinema_verl.training.agent_loop", "agent loop cinema"),
    Hook("verl.workers.rollout.replica", f"{__name__}:register_rollout_replica", "rollout transformers"),
    Hook("verl.workers.rollout.base", f"{__name__}:register_rollout_adapter", "rollout transformers"),
    Hook("verl.plugin.platform.platform_manager", "cinema_verl.training.cpu.platform", "platform cpu"),
    Hook("verl.workers.engine", "cinema_verl.training.cpu.engine", "engine fsdp2 on cpu"),
    Hook("verl.checkpoint_engine", "cinema_verl.training.cpu.checkpoint_engine", "checkpoint engine gloo"),
    Hook("hydra", f"{__name__}:register_search_path", "recipes"),
)


def install() -> None:
    """Install `HOOKS`, refuse what cannot work, and announce CINEMA once in each driver process (`is_driver`).

    Raises:
        PluginError: verl is not a tested version, or a registration that was due at once failed.
        SystemExit: the command line of a trainer asks for a recipe and would not get it (`check_command_line`).
    """
    verl = verl_version()
    if not SpecifierSet(TESTED_VERL).contains(verl, prereleases=True) and os.environ.get(ALLOW_UNTESTED) != "1":
        raise PluginError(
            f"verl {verl} is outside the range this release is tested with ({TESTED_VERL}). Install a verl in that "
            f"range or a newer cinema-verl; {ALLOW_UNTESTED}=1 goes ahead regardless."
        )
    driver = is_driver()
    if driver:
        check_command_line(sys.argv[1:], running_program())
    moved.install()
    for hook in HOOKS:
        wrapt.register_post_import_hook(partial(run, hook), hook.after)
    ensure_torchvision_importable()  # for the Qwen processors, which verl imports
    if driver and os.environ.get("RANK", "0") == "0":
        provided = ", ".join(dict.fromkeys(hook.provides for hook in HOOKS))
        print(f"cinema-verl {__version__} loaded into verl {verl}: {provided}", file=sys.stderr)


def verl_version() -> str:
    """The version of the verl that is being imported, else of the installed one."""
    return getattr(sys.modules.get("verl"), "__version__", None) or metadata.version("verl")


def is_driver() -> bool:
    """Whether somebody started this process: neither Ray nor multiprocessing did, as vLLM starts its engine's."""
    return not in_ray_worker() and multiprocessing.parent_process() is None


def in_ray_worker() -> bool:
    """Whether this process executes Ray tasks or actors (rather than being a driver or not using Ray)."""
    ray = sys.modules.get("ray")
    # The order matters: `get_runtime_context` in a process that is not connected would start a cluster.
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def run(hook: Hook, module: ModuleType) -> None:
    """Carry out one hook.

    Raises:
        PluginError: from whatever went wrong; the import of `module` fails with it.
    """
    name, _, function = hook.do.partition(":")
    try:
        ours = importlib.import_module(name)
        if function:
            getattr(ours, function)(module)
    except Exception as error:
        raise PluginError(
            f"cinema-verl {__version__} could not provide {hook.provides} when {hook.after} was imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def register_rollout_replica(replica: ModuleType) -> None:
    """`verl.workers.rollout.replica.RolloutReplicaRegistry` takes a loader: nothing is imported before it is used."""

    def load_replica() -> type:
        from cinema_verl.rollout.engine import TransformersReplica

        return TransformersReplica

    replica.RolloutReplicaRegistry.register("transformers", load_replica)


def register_rollout_adapter(base: ModuleType) -> None:
    """`verl.workers.rollout.base` has no register function; its registry maps to dotted names."""
    base._ROLLOUT_REGISTRY[("transformers", "async")] = "cinema_verl.rollout.engine.ServerAdapter"


def register_search_path(hydra: ModuleType) -> None:
    """Also register what `hydra_plugins/` provides: some editable and vendored installs lose namespace packages."""
    if in_ray_worker():
        return  # nothing is composed there
    from hydra.core.plugins import Plugins

    from cinema_verl.registration.search_path import CinemaSearchPath

    Plugins.instance().register(CinemaSearchPath)
