"""One process: which versions, is the plugin loaded, is every name in its registry?

The driver and a Ray worker on every node are asked the same, because each imports verl for itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from cinema_verl import __version__
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.quiet import quiet

TESTED_WITH = {  # distribution: the version that the tests and the CPU runs of this release used
    "verl": "0.9.1",
    "torch": "2.13.0",
    "transformers": "5.10.4",
    "hydra-core": "1.3.8",
    "ray": "2.60.0",
    "TransferQueue": "0.1.11",
    "tensordict": "0.10.0",
}
REPORT = "if the plugin is loaded, this is a bug of cinema-verl: please report it with this line"


ENGINES = {
    # rollout.name: the module that verl imports for it in a process of its own
    "vllm": "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "sglang": "verl.workers.rollout.sglang_rollout.async_sglang_server",
    "transformers": "cinema_verl.rollout.engine",
}


def inspect_process(where: str, engine: str | None = None) -> list[Finding]:
    """Everything that can be said of one process; runs in the driver and, by Ray, in workers.

    Args:
        engine: the rollout engine (`rollout.name`) whose server shall be imported there; None for none.
    """
    findings = [_versions(where), *_requirements(where)]
    with quiet() as said:
        try:
            importlib.import_module("verl")
        except (Exception, SystemExit) as error:  # our own plugin stops a process by SystemExit
            why = f"{said.getvalue()}\n{type(error).__name__}: {error}".strip()
            return [*findings, Finding(where, "import verl", False, why, "mend the cause named above")]
    findings.append(_plugin(where))
    findings += [_registered(where, *entry) for entry in REGISTRIES]
    findings.append(_platform(where))
    findings.append(importable(where, "torchvision", "the Qwen processors import it", "pip install torchvision"))
    if engine in ENGINES:
        findings.append(engine_finding(where, engine))
    return findings


def engine_finding(where: str, engine: str) -> Finding:
    """The server of a rollout engine, imported as the run imports it.

    `import vllm` alone loads next to nothing, and is well where the server's own imports fail.
    """
    advice = "see the last line of the error; pip install 'cinema-verl[gpu]', or rollout.name=transformers (slower)"
    found = importable(where, ENGINES[engine], f"the server of rollout.name={engine}", advice)
    version = version_of(engine) or __version__
    detail = f"{version}, the server imports" if found.ok else found.detail
    return dataclasses.replace(found, what=f"rollout {engine}, imports", detail=detail)


def _versions(where: str) -> Finding:
    have = {name: version_of(name) for name in TESTED_WITH}
    other = [f"{name} {TESTED_WITH[name]}" for name, version in have.items() if _public(version) != TESTED_WITH[name]]
    listed = ", ".join(f"{name} {version or 'missing'}" for name, version in have.items())
    detail = f"cinema-verl {__version__}, Python {platform.python_version()}, {listed}"
    if other:
        return Finding(where, "versions", None, f"{detail} (this release was tested with {', '.join(other)})")
    return Finding(where, "versions", True, detail)


def _requirements(where: str) -> Iterator[Finding]:
    """What pip would say of the installed versions: ours and verl's unconditional requirements."""
    wrong = []
    for distribution in ("cinema-verl", "verl"):
        if version_of(distribution) is None:
            yield Finding(where, "installation", False, f"{distribution} is not installed", "pip install cinema-verl")
            continue
        for line in metadata.requires(distribution) or ():
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = version_of(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                wrong.append((distribution, requirement, version))
    for distribution, requirement, version in wrong:
        yield Finding(
            where,
            "requirement",
            False,
            f"{distribution} needs {requirement}, found {version or 'none'}",
            f"pip install '{requirement.name}{requirement.specifier}'",
        )
    if not wrong:
        yield Finding(where, "requirements", True, "what cinema-verl and verl require is installed")


def _plugin(where: str) -> Finding:
    """The entry point is there, verl's policy lets it in, and `import verl` has loaded it."""
    entries = [e for e in metadata.entry_points(group="verl.plugins") if e.value == "cinema_verl.plugin"]
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    loaded = "cinema_verl.plugin" in sys.modules
    if loaded:
        door = f"entry point {entries[0].name!r}" if entries else "VERL_USE_EXTERNAL_MODULES"
        return Finding(where, "plugin", True, f"loaded by `import verl` through {door}")
    if not entries:
        return Finding(
            where,
            "plugin",
            False,
            "no entry point of cinema-verl in the group verl.plugins: verl does not know of it",
            "pip install cinema-verl in this environment (being on PYTHONPATH is not enough), "
            "or set VERL_USE_EXTERNAL_MODULES=cinema_verl.plugin",
        )
    return Finding(
        where,
        "plugin",
        False,
        f"installed, and kept out by VERL_USE_EXTERNAL_PLUGINS={policy}",
        f"unset VERL_USE_EXTERNAL_PLUGINS, or add {entries[0].name} to it",
    )


REGISTRIES: tuple[tuple[str, str, Callable[[Any], object]], ...] = (
    # what, the verl module that owns the registry, how to look there
    ("trainer cinema", "verl.trainer.ppo.v1", lambda m: m.get_trainer_cls("cinema")),
    ("estimator cinema_dps", "verl.trainer.ppo.core_algos", lambda m: m.get_adv_estimator_fn("cinema_dps")),
    (
        "agent loop cinema",
        "verl.experimental.agent_loop",
        lambda m: m.agent_loop._agent_loop_registry["cinema"]["_target_"],
    ),
    ("rollout transformers", "verl.workers.rollout.base", lambda m: m.get_rollout_class("transformers")),
    (
        "rollout transformers, server",
        "verl.workers.rollout.replica",
        lambda m: m.RolloutReplicaRegistry.get("transformers"),
    ),
    ("platform cpu", "verl.plugin.platform.platform_manager", lambda m: m.PlatformRegistry._platforms["cpu"]),
    (
        "engine fsdp2 on cpu",
        "verl.workers.engine",
        lambda m: m.EngineRegistry._engines["language_model"]["fsdp2"]["cpu"],
    ),
)


def _registered(where: str, what: str, module: str, look: Callable[[Any], object]) -> Finding:
    with quiet():
        try:
            found = look(importlib.import_module(module))
        except (Exception, SystemExit) as error:
            detail = f"not in the registry of {module} ({type(error).__name__}: {error})"
            return Finding(where, what, False, detail, REPORT)
    return Finding(where, what, True, str(getattr(found, "__module__", found)))


def _platform(where: str) -> Finding:
    from verl.plugin.platform import get_platform

    with quiet():
        found = get_platform()
    detail = f"{found.device_name} ({type(found).__name__})"
    if found.is_available():
        return Finding(where, "platform", True, detail)
    # Right on the GPU-less head node of a GPU cluster and in Ray workers without a GPU; wrong for the CPU recipe.
    return Finding(where, "platform", None, f"{detail}, none visible here; VERL_PLATFORM=cpu trains on the CPU")


def importable(where: str, module: str, why: str, advice: str) -> Finding:
    with quiet():
        try:
            version = getattr(importlib.import_module(module), "__version__", "")
        except (Exception, SystemExit) as error:
            return Finding(where, module, False, f"{why}: {type(error).__name__}: {error}", advice)
    return Finding(where, module, True, f"{version} imports")


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, None without one."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str | None) -> str | None:
    """Without the local part: 2.13.0+cpu is 2.13.0."""
    return version.partition("+")[0] if version else None
