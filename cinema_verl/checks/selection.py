"""What a configuration selects, looked up where verl will look it up, and judged as verl will judge it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import OmegaConf

from cinema_verl.checks.compose import WHERE
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.process import engine_finding, importable, version_of
from cinema_verl.checks.quiet import quiet
from cinema_verl.checks.vllm_versions import inspect_vllm
from cinema_verl.training.registered import choices
from cinema_verl.training.verdict import planned


def inspect_selection(config: Any) -> list[Finding]:
    """What an RL configuration selects: names in verl's registries, verl's own validation, optional packages."""
    findings = [_named(config, *choice) for choice in choices()]
    return [*findings, *_stages(config), _validated(config), *_engines(config)]


def _stages(config: Any) -> Iterator[Finding]:
    """What the run does, step by step; verl's own trainers know no stages, wrong ones are the verdict's to tell."""
    stages = planned(config)
    for stage, first, last in stages.spans() if stages else ():
        yield Finding(WHERE, "stage", None, f"steps {first} to {last}, {stage}")


def _named(config: Any, what: str, key: str, cinemas: Collection[str], known: Collection[str]) -> Finding:
    name = OmegaConf.select(config, key)
    if name not in known:
        advice = f"set {key} to one of {', '.join(sorted(map(str, known)))}"
        return Finding(WHERE, what, False, f"{key}={name} is not registered with verl", advice)
    if cinemas and name not in cinemas:
        return Finding(WHERE, what, None, f"{name}: a baseline; CINEMA's is {next(iter(cinemas))}")
    return Finding(WHERE, what, True, str(name))


def _validated(config: Any) -> Finding:
    """verl's own validation (`verl.utils.config.validate_config`), which the driver runs before anything starts."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    with quiet():
        try:
            auto_set_device(config)
            validate_config(config, need_reference_policy(config), need_critic(config))
        except Exception as error:
            return Finding(WHERE, "validation", False, f"verl refuses it: {error}", "correct the value it names")
    return Finding(WHERE, "validation", True, "verl accepts the configuration")


def _engines(config: Any) -> Iterator[Finding]:
    """The optional packages: wrong only when this run selects one that does not import."""
    selected = config.actor_rollout_ref.rollout.name
    if selected == "vllm":
        yield engine_finding(WHERE, selected)
        yield inspect_vllm(version_of("vllm"), asynchronous="async" in str(config.trainer.v1.trainer_mode))
    else:
        yield Finding(WHERE, "vllm", None, f"{version_of('vllm') or 'not installed'}; this run does not use it")
    # verl's default where the recipe says nothing (`verl.workers.config.model.HFModelConfig`).
    attention = config.actor_rollout_ref.model.override_config.get("attn_implementation", "flash_attention_2")
    if attention == "flash_attention_2":
        advice = (
            "pip install --no-build-isolation 'cinema-verl[flash-attn]', "
            "or +actor_rollout_ref.model.override_config.attn_implementation=sdpa"
        )
        yield importable(WHERE, "flash_attn", "the selected attention", advice)
    else:
        installed = version_of("flash-attn") or "not installed"
        yield Finding(WHERE, "flash-attn", None, f"{installed}; this run uses {attention}")
