"""`cinema-verl doctor`: will this machine train what the command line says?

The same questions are put to the driver and to a Ray worker on every node, because each imports verl for itself:
which versions, is the plugin loaded, is every name in its registry. Then the recipe is composed as the run would
compose it, and what it selects is looked up. Every finding that is not well says what to do.
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from cinema_verl import __version__
from cinema_verl.registration.command_line import PROGRAMS, RL_TRAINER, program_of, shipped_recipes

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

EXAMPLES = """\
examples:
  cinema-verl doctor                              the recipe for this machine: cinema, or cinema_cpu without a GPU
  cinema-verl doctor --recipe cinema trainer.nnodes=2 actor_rollout_ref.rollout.name=vllm
  cinema-verl doctor --no-ray                     seconds less, and blind to what Ray workers see
  cinema-verl doctor --json | jq '.[] | select(.ok == false)'

The exit code is 0 when nothing is wrong and 1 otherwise. Lines with "-" are worth knowing and need nothing done.
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    where: str
    what: str
    ok: bool | None
    """None: worth knowing, nothing to do."""
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {True: "✓", False: "✗", None: "-"}[self.ok]
        advice = f"\n    → {self.advice}" if self.advice and not self.ok else ""
        return f"{mark} {self.what}: {self.detail}{advice}"


# ---- one process ------------------------------------------------------------------------------------------------


def inspect_process(where: str) -> list[Finding]:
    """Everything that can be said of one process; runs in the driver and, by Ray, in workers."""
    findings = [_versions(where), *_requirements(where)]
    with _quiet() as said:
        try:
            importlib.import_module("verl")
        except (Exception, SystemExit) as error:  # our own plugin stops a process by SystemExit
            why = f"{said.getvalue()}\n{type(error).__name__}: {error}".strip()
            return [*findings, Finding(where, "import verl", False, why, "mend the cause named above")]
    findings.append(_plugin(where))
    findings += [_registered(where, *entry) for entry in REGISTRIES]
    findings.append(_platform(where))
    findings.append(_importable(where, "torchvision", "the Qwen processors import it", "pip install torchvision"))
    return findings


def _versions(where: str) -> Finding:
    have = {name: _version(name) for name in TESTED_WITH}
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
        if _version(distribution) is None:
            yield Finding(where, "installation", False, f"{distribution} is not installed", "pip install cinema-verl")
            continue
        for line in metadata.requires(distribution) or ():
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = _version(requirement.name)
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
    with _quiet():
        try:
            found = look(importlib.import_module(module))
        except (Exception, SystemExit) as error:
            detail = f"not in the registry of {module} ({type(error).__name__}: {error})"
            return Finding(where, what, False, detail, REPORT)
    return Finding(where, what, True, str(getattr(found, "__module__", found)))


def _platform(where: str) -> Finding:
    from verl.plugin.platform import get_platform

    with _quiet():
        found = get_platform()
    detail = f"{found.device_name} ({type(found).__name__})"
    if found.is_available():
        return Finding(where, "platform", True, detail)
    # Right on the GPU-less head node of a GPU cluster and in Ray workers without a GPU; wrong for the CPU recipe.
    return Finding(where, "platform", None, f"{detail}, none visible here; VERL_PLATFORM=cpu trains on the CPU")


def _importable(where: str, module: str, why: str, advice: str) -> Finding:
    with _quiet():
        try:
            version = getattr(importlib.import_module(module), "__version__", "")
        except (Exception, SystemExit) as error:
            return Finding(where, module, False, f"{why}: {type(error).__name__}: {error}", advice)
    return Finding(where, module, True, f"{version} imports")


# ---- the recipe ---------------------------------------------------------------------------------------------------


def default_recipe() -> str:
    """The one for this machine, as verl would detect its platform."""
    from verl.plugin.platform import get_platform

    return "cinema_cpu" if get_platform().device_name == "cpu" else "cinema"


def compose(recipe: str, overrides: Sequence[str]) -> tuple[Any, list[Finding]]:
    """Compose what `python -m verl.trainer.… +recipe=RECIPE OVERRIDES` would compose.

    Returns:
        The configuration (None if it does not compose) and the findings about the search path and the composition.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from cinema_verl.registration.search_path import PROVIDER

    where = "recipe"
    program = _program(recipe)
    with initialize_config_module("verl.trainer.config", version_base=None):
        sources = [s for s in GlobalHydra.instance().config_loader().get_sources() if s.is_group("recipe")]
        ours = next((s for s in sources if s.provider == PROVIDER), None)
        if ours is None:
            advice = "pip install cinema-verl again: its recipes or the package hydra_plugins are missing"
            return None, [Finding(where, "search path", False, "Hydra finds no recipes of cinema-verl", advice)]
        findings = [Finding(where, "search path", True, f"{ours.scheme()}://{ours.path}")]
        shadow = next(s for s in sources if s.is_config(f"recipe/{recipe}") or s is ours)
        if shadow is not ours:
            detail = f"recipe/{recipe} is taken from {shadow.provider} ({shadow.path}), which comes before ours"
            findings.append(Finding(where, "search path", False, detail, "rename that file, or take it off the path"))
        try:
            config = hydra_compose(PROGRAMS[program], overrides=[f"+recipe={recipe}", *overrides])
        except Exception as error:
            advice = "correct the recipe's name or the override"
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            return None, [*findings, Finding(where, f"+recipe={recipe}", False, f"{error}{cause}", advice)]
    return config, [*findings, Finding(where, f"+recipe={recipe}", True, f"composes for {program}")]


def _program(recipe: str) -> str:
    return program_of(recipe) if recipe in shipped_recipes() else RL_TRAINER


def inspect_selection(config: Any) -> list[Finding]:
    """What an RL configuration selects, each name looked up where verl will look it up."""
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    rollout = config.actor_rollout_ref.rollout
    findings = []
    for what, name, cinemas, known, key in (
        ("trainer", config.trainer.v1.trainer_mode, "cinema", TRAINER_REGISTRY, "trainer.v1.trainer_mode"),
        ("estimator", config.algorithm.adv_estimator, "cinema_dps", ADV_ESTIMATOR_REGISTRY, "algorithm.adv_estimator"),
        (
            "agent loop",
            rollout.agent.default_agent_loop,
            "cinema",
            _agent_loop_registry,
            "actor_rollout_ref.rollout.agent.default_agent_loop",
        ),
        (
            "rollout",
            rollout.name,
            rollout.name,
            {engine for engine, _ in _ROLLOUT_REGISTRY},
            "actor_rollout_ref.rollout.name",
        ),
    ):
        if name not in known:
            advice = f"set {key} to one of {', '.join(sorted(map(str, known)))}"
            findings.append(Finding("recipe", what, False, f"{key}={name} is not registered with verl", advice))
        elif name != cinemas:
            findings.append(Finding("recipe", what, None, f"{name}: a baseline; CINEMA's is {cinemas}"))
        else:
            findings.append(Finding("recipe", what, True, str(name)))
    if not config.trainer.use_v1:
        advice = "drop trainer.use_v1=false"
        findings.append(Finding("recipe", "legacy trainer", False, "it knows nothing of CINEMA", advice))
    findings.append(_validated(config))
    findings += _engines(config)
    return findings


def _validated(config: Any) -> Finding:
    """verl's own validation (`verl.utils.config.validate_config`), which the driver runs before anything starts."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    with _quiet():
        try:
            auto_set_device(config)
            validate_config(config, need_reference_policy(config), need_critic(config))
        except Exception as error:
            return Finding("recipe", "validation", False, f"verl refuses it: {error}", "correct the value it names")
    return Finding("recipe", "validation", True, "verl accepts the configuration")


def _engines(config: Any) -> Iterator[Finding]:
    """The optional engines: wrong only when this run selects one that does not import."""
    selected = config.actor_rollout_ref.rollout.name
    if selected == "vllm":
        advice = "pip install 'cinema-verl[gpu]', or actor_rollout_ref.rollout.name=transformers (slower)"
        yield _importable("recipe", "vllm", "the selected rollout engine", advice)
    else:
        yield Finding("recipe", "vllm", None, f"{_version('vllm') or 'not installed'}; this run does not use it")
    # verl's default where the recipe says nothing (`verl.workers.config.model.HFModelConfig`).
    attention = config.actor_rollout_ref.model.override_config.get("attn_implementation", "flash_attention_2")
    if attention == "flash_attention_2":
        advice = (
            "pip install --no-build-isolation 'cinema-verl[flash-attn]', "
            "or +actor_rollout_ref.model.override_config.attn_implementation=sdpa"
        )
        yield _importable("recipe", "flash_attn", "the selected attention", advice)
    else:
        installed = _version("flash-attn") or "not installed"
        yield Finding("recipe", "flash-attn", None, f"{installed}; this run uses {attention}")


# ---- Ray ------------------------------------------------------------------------------------------------------------


def inspect_ray(config: Any) -> list[Finding]:
    """Start or join Ray as `verl.trainer.main_ppo` does, and inspect a worker process on every node.

    Args:
        config: the composed RL configuration; None asks for no GPUs.
    """
    import ray
    from omegaconf import OmegaConf
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    kwargs: dict[str, Any] = {}
    if config is not None:
        kwargs = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    runtime_env = {**get_ppo_ray_runtime_env(config), **kwargs.pop("runtime_env", {})}
    findings = []
    with _quiet():
        try:
            ray.init(
                **{"address": os.environ.get("RAY_ADDRESS", "local"), "include_dashboard": False, **kwargs},
                runtime_env=runtime_env,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            advice = "see ray_kwargs.ray_init in the configuration, and RAY_ADDRESS"
            return [Finding("Ray", "start", False, f"{type(error).__name__}: {error}", advice)]
        try:
            if config is not None:
                findings.append(_gpus(config, ray.cluster_resources().get("GPU", 0)))
            for node in (node for node in ray.nodes() if node["Alive"]):
                where = f"Ray worker on {node['NodeManagerHostname']}"
                strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                remote = ray.remote(inspect_process).options(scheduling_strategy=strategy, num_cpus=0)
                try:
                    findings += ray.get(remote.remote(where), timeout=300)
                except Exception as error:
                    advice = "install cinema-verl there, in the Python that Ray starts workers with"
                    findings.append(Finding(where, "worker", False, f"{type(error).__name__}: {error}", advice))
        finally:
            ray.shutdown()
    return findings


def _gpus(config: Any, have: float) -> Finding:
    want = config.trainer.n_gpus_per_node * config.trainer.nnodes
    detail = f"{have:g} in Ray, {want:g} wanted (trainer.n_gpus_per_node × trainer.nnodes)"
    advice = "set trainer.n_gpus_per_node and trainer.nnodes to what there is, or RAY_ADDRESS to the cluster"
    return Finding("Ray", "GPUs", have >= want, detail, advice)


# ---- the report -----------------------------------------------------------------------------------------------------


def examine(recipe: str | None = None, overrides: Sequence[str] = (), with_ray: bool = True) -> list[Finding]:
    """Every finding about this machine and one recipe; the first questions come first."""
    findings = inspect_process("driver")
    if "verl" not in sys.modules:
        return findings
    with _quiet():
        recipe = recipe or default_recipe()
        config, composed = compose(recipe, overrides)
        rl = config is not None and _program(recipe) == RL_TRAINER
        findings += composed
        if rl:
            try:
                findings += inspect_selection(config)
            except Exception as error:  # a broken registry is reported above; the doctor must not die of it
                findings.append(Finding("recipe", "selection", False, f"{type(error).__name__}: {error}", REPORT))
    if with_ray:
        findings += inspect_ray(config if rl else None)
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl doctor`; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="cinema-verl doctor",
        description="Check that plugin, recipe, versions and Ray workers fit together, before a run does.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", help="the recipe to compose (default: the one that suits this machine)")
    parser.add_argument("--no-ray", action="store_true", help="do not start or join Ray")
    parser.add_argument("--json", action="store_true", help="a JSON array of findings instead of lines")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides of the run to come")
    parsed = parser.parse_args(arguments)

    findings = examine(parsed.recipe, parsed.overrides, with_ray=not parsed.no_ray)
    if parsed.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    else:
        _print(findings)
    return int(any(finding.ok is False for finding in findings))


def _print(findings: Sequence[Finding]) -> None:
    where = None
    for finding in findings:
        if finding.where != where:
            where = finding.where
            print(f"\n{where}")
        print(f"  {finding}".replace("\n", "\n  "))
    wrong = sum(finding.ok is False for finding in findings)
    print(f"\n{'All is well.' if not wrong else f'{wrong} of {len(findings)} checks failed.'}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str | None) -> str | None:
    """Without the local part: 2.13.0+cpu is 2.13.0."""
    return version.partition("+")[0] if version else None


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep the chatter of imports (verl warns of every engine that is not installed) out of the report."""
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        yield said


if __name__ == "__main__":
    sys.exit(main())
