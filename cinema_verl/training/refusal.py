"""One reason not to start a run, what may be known beside its configuration, and how its values are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class Refusal(NamedTuple):
    """One reason why the run would not train what the configuration says.

    Attributes:
        key: Of the configuration, the one that is most likely meant otherwise.
        what: What is wrong.
        advice: What to do.
    """

    key: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}\n    → {self.advice}"


class Facts(NamedTuple):
    """What is known beside the configuration.

    Attributes:
        processes: That torchrun has started; None where it has not yet.
        cpus: Of the machine, where the run starts its own Ray; None where it joins a cluster, or is not to be judged.
        rows: Split -> rows in its files; None where they are to be read from the files' footers.
    """

    processes: int | None = None
    cpus: int | None = None
    rows: Mapping[str, int] | None = None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Facts:
        """Of this process and machine."""
        processes = int(environment.get("WORLD_SIZE") or 0) or None
        return cls(processes, None if environment.get("RAY_ADDRESS") else os.cpu_count())


VERLS_OWN: Final = frozenset(
    {
        *("~/data/gsm8k/train.parquet", "~/data/rlhf/gsm8k/train.parquet", "~/data/rlhf/gsm8k/test.parquet"),
        "~/models/deepseek-llm-7b-chat",
    }
)
"""Paths that verl's configurations have where nobody names one."""


def fine_tunes(config: DictConfig) -> bool:
    """Whether a configuration is composed for supervised fine-tuning; any other is for reinforcement learning."""
    return OmegaConf.select(config, "actor_rollout_ref.rollout") is None


def value_of(config: DictConfig, key: str, default: Any = None) -> Any:
    """A value, the default where it is absent, null, or made of others that are."""
    try:
        found = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return default
    return default if found is None else found


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def gpus_of(config: DictConfig) -> int:
    """GPUs that the configuration asks for, on all nodes."""
    each, nodes = value_of(config, "trainer.n_gpus_per_node"), value_of(config, "trainer.nnodes")
    return int((each if is_whole(each) else 1) * (nodes if is_whole(nodes) else 1))  # else said by the verdict
