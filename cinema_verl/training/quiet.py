"""Warnings of dependencies that every process of a run repeats, and that nobody can do anything about.

They are filtered by Python's own variable, which Ray hands to the processes of the run: `CINEMA_SHOW_WARNINGS=1` shows
them. What verl prints of its own accord (the whole configuration, at the start) has no switch.
"""

import os
from typing import Final

from omegaconf import DictConfig, OmegaConf, open_dict

SHOW: Final = "CINEMA_SHOW_WARNINGS"
PYTHONS: Final = "PYTHONWARNINGS"
FILTERS: Final = (
    *(
        f"ignore:{engine} engine is not available:UserWarning"  # verl: optional engines that are not installed
        for engine in ("torchtitan", "veomni", "automodel", "mindspeed", "megatron")
    ),
    "ignore:Pydantic serializer warnings:UserWarning:pydantic.main",  # verl gives pydantic a tensor for a float
    "ignore:'set_vital' is deprecated:UserWarning",  # torchdata calls it in PyTorch
    "ignore:Warning:FutureWarning:verl.trainer.ppo.v1.trainer_base",  # verl calls its own deprecated function
)
"""`action:start of the message:category:module`; see the command line option -W of Python."""


def filter_warnings(config: DictConfig) -> None:
    """Filter them in the processes of a run, after what the user filters.

    Args:
        config: what the program gets from Hydra; it is changed.
    """
    if os.environ.get(SHOW) == "1" or OmegaConf.select(config, "ray_kwargs") is None:
        return
    given = [os.environ[PYTHONS]] if os.environ.get(PYTHONS) else []
    with open_dict(config):
        key = f"ray_kwargs.ray_init.runtime_env.env_vars.{PYTHONS}"
        if OmegaConf.select(config, key) is None:  # later filters win in this variable
            OmegaConf.update(config, key, ",".join([*FILTERS, *given]), force_add=True)
