"""What nobody reads, kept off the console of a run: warnings that every process repeats, and the whole configuration.

Warnings of dependencies are filtered by Python's own variable, which Ray hands to the processes of the run;
`CINEMA_SHOW_WARNINGS=1` shows them. verl prints the resolved configuration and has no switch for that: the run's folder
has it as `config.yaml`, and `CINEMA_SHOW_CONFIG=1` prints it as well.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final, TextIO, cast

import wrapt
from omegaconf import DictConfig, OmegaConf, open_dict

SHOW: Final = "CINEMA_SHOW_WARNINGS"
SHOW_CONFIG: Final = "CINEMA_SHOW_CONFIG"
PYTHONS: Final = "PYTHONWARNINGS"
FILTERS: Final = (
    *(
        f"ignore:{engine} engine is not available:UserWarning"  # verl: optional engines that are not installed
        for engine in ("torchtitan", "veomni", "automodel", "mindspeed", "megatron")
    ),
    "ignore:Pydantic serializer warnings:UserWarning:pydantic.main",  # verl gives pydantic a tensor for a float
    "ignore:'set_vital' is deprecated:UserWarning",  # torchdata calls it in PyTorch
    "ignore:FSDP2-wrapped module:UserWarning",  # PyTorch, of verl's fused forward: a view that nobody writes to
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


_COLOR = r"(?:\x1b\[[\d;]*m)*"
_SAID_BY = re.compile(rf"{_COLOR}\((?P<who>TaskRunner\w* pid=\d+[^)]*)\){_COLOR} (?P<what>.*)", re.DOTALL)


_THROUGH: Final = "."  # in the place of a name: it has been dropped


class _WithoutConfiguration(wrapt.ObjectProxy):  # type: ignore[misc]
    """A stream without the configuration that verl's TaskRunner pretty-prints: Ray prints its lines behind its name.

    The first line is known by its key, the others continue it with a space. Nothing else is dropped, and nothing twice.
    """

    def __init__(self, stream: TextIO, instead: str) -> None:
        super().__init__(stream)
        self._self_instead, self._self_who, self._self_dropped = instead, "", False

    def write(self, text: str) -> int:
        if self._self_dropped and text == "\n":  # of the line that was dropped
            self._self_dropped = False
            return 1
        said = _SAID_BY.match(text)
        if said is None or self._self_who == _THROUGH:
            return int(self.__wrapped__.write(text))
        if not self._self_who and said["what"].startswith("{'actor_rollout_ref': {"):
            self._self_who = said["who"]
            self.__wrapped__.write(f"{self._self_instead}\n")
        elif self._self_who != said["who"]:
            return int(self.__wrapped__.write(text))
        elif not said["what"].startswith(" "):
            self._self_who = _THROUGH
            return int(self.__wrapped__.write(text))
        self._self_dropped = not text.endswith("\n")
        return len(text)


@contextmanager
def configuration_to_file(file: Path) -> Iterator[None]:
    """Within it, what verl prints of a run's configuration is not on this process's console; `file` has it already."""
    if os.environ.get(SHOW_CONFIG) == "1":
        yield
        return
    instead = f"cinema-verl: the whole configuration is in {file}"
    with redirect_stdout(cast(TextIO, _WithoutConfiguration(sys.stdout, instead))):
        yield


@contextmanager
def without_configuration(config: Callable[[], Any], instead: str) -> Iterator[None]:
    """Within it, `print(config())` says something else. verl's SFT trainer prints its configuration as one text."""
    if os.environ.get(SHOW_CONFIG) == "1":
        yield
        return
    with redirect_stdout(cast(TextIO, _Instead(sys.stdout, config, instead))):
        yield


class _Instead(wrapt.ObjectProxy):  # type: ignore[misc]
    def __init__(self, stream: TextIO, config: Callable[[], Any], instead: str) -> None:
        super().__init__(stream)
        self._self_config, self._self_instead = config, instead

    def write(self, text: str) -> int:
        is_configuration = len(text) > 100 and text[0] == "{" and text == str(self._self_config())
        self.__wrapped__.write(self._self_instead if is_configuration else text)
        return len(text)
