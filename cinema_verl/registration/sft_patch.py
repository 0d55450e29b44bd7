"""The one patch of this project: `verl.trainer.sft_trainer` runs our SFT trainer, for the recipes that ask for it.

The RL trainer is chosen by a key (`trainer.v1.trainer_mode`) from a registry. verl 0.9.1's SFT program names its
class in the code (`run_sft` in `verl/trainer/sft_trainer.py`), and its loop has no callbacks: a run that is resumed at
the end of an epoch trains nothing and exits 0, a small validation set gives NaN, and on a CPU it does not start. So one
name of the running program, `run_sft`, is replaced, by a callback that the recipe configures and Hydra calls once the
program is loaded and before it trains (`hydra.experimental.callback.Callback.on_job_start`). No module of verl is
changed, and without such a recipe nothing happens.

When verl lets a configuration choose the SFT trainer, this file goes; a test says when.
"""

import importlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from cinema_verl.registration.command_line import SFT_TRAINER
from cinema_verl.registration.hooks import ALLOW_UNTESTED

VERIFIED_WITH = "0.9.1"  # the verl whose SFT trainer ours inherits from and was compared with
_TRAINER = "cinema_verl.training.sft.trainer"


class CinemaSFT(Callback):
    """`hydra.callbacks.cinema_sft._target_` of the recipes `cinema_cold_start*`."""

    def on_job_start(self, config: Any, *, task_function: Any = None, **_: Any) -> None:
        """Replace `run_sft`.

        Raises:
            SystemExit: this is not verl's SFT program, or not the version that was looked at. Hydra makes a warning of
                an `Exception`, and the run would go on without our trainer.
        """
        program = getattr(task_function, "__globals__", {})
        source = Path(getattr(getattr(task_function, "__code__", None), "co_filename", ""))
        if not source.match("verl/trainer/sft_trainer.py") or not callable(program.get("run_sft")):
            raise SystemExit(f"cinema-verl: this recipe is for `torchrun … -m {SFT_TRAINER}`, and this is {source}")
        installed = metadata.version("verl")
        if installed != VERIFIED_WITH and os.environ.get(ALLOW_UNTESTED) != "1":
            raise SystemExit(
                f"cinema-verl: its SFT trainer is made for verl {VERIFIED_WITH}, and this is {installed}. Install verl "
                f"{VERIFIED_WITH} or a newer cinema-verl; {ALLOW_UNTESTED}=1 goes ahead regardless; "
                "'~hydra.callbacks.cinema_sft' trains with verl's own, on a GPU."
            )
        try:
            program["run_sft"] = importlib.import_module(_TRAINER).run_sft
        except Exception as error:
            raise SystemExit(f"cinema-verl: {_TRAINER} could not be loaded: {type(error).__name__}: {error}") from error
