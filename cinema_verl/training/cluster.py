"""What a run tells Ray of the cluster that it joins, and the cluster of the run; before Ray is asked for anything."""

import os
from collections.abc import Mapping
from typing import Final

from omegaconf import DictConfig, OmegaConf, open_dict

from cinema_verl.training.same_version import VARIABLE, installed

_INIT: Final = "ray_kwargs.ray_init"
_OF_ITS_OWN: Final = ("num_cpus", "num_gpus")
"""What `ray.init` takes for a Ray that it starts, and refuses where it joins one."""


def prepare(config: DictConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Fit the arguments of `ray.init` to the cluster that the run joins, and let its processes know what started them.

    A cluster that is there has the CPUs and GPUs that its nodes were started with (`ray start --num-cpus --num-gpus`).
    What a recipe declares for a Ray of its own, as recipe cinema_cpu does, does not count there, and Ray refuses it.

    Args:
        config: what the program gets from Hydra; it is changed. Fine-tuning, without Ray, is left alone.
    """
    if OmegaConf.select(config, "ray_kwargs") is None:
        return
    with open_dict(config):
        if environment.get("RAY_ADDRESS") or OmegaConf.select(config, f"{_INIT}.address"):
            for name in _OF_ITS_OWN:
                OmegaConf.update(config, f"{_INIT}.{name}", None, force_add=True)
        OmegaConf.update(config, f"{_INIT}.runtime_env.env_vars.{VARIABLE}", installed(), force_add=True)
