"""The check in the driver: Hydra has composed the configuration, and nothing has been started.

The recipes name this class under `hydra.callbacks`, Hydra's public place for it. verl's `main` runs after it, so a
configuration that cannot train what it says ends with its reasons instead of minutes of Ray, and so does a run whose
folder is another one's. Sweeps (`--multirun`) pass here job by job.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.model_folder import folder_refusals
from cinema_verl.training.run_folder import Taken, claimed, use_absolute_paths
from cinema_verl.training.verdict import refusals


class RefuseBeforeStart(Callback):
    """Ends the process where the configuration, its model's folder or its own folder gives a reason to.

    Hydra turns an exception of a callback into a warning, and the run would go on: every failure here is a SystemExit.
    """

    def __init__(self) -> None:
        self._held = ExitStack()  # the folder of the run

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra before it copies the configuration for the program: what is changed here, verl gets."""
        with _ending():
            use_absolute_paths(config)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra with the whole configuration, its own node included.

        Raises:
            SystemExit: With every reason.
        """
        found = refusals(config) or folder_refusals(config)
        if found:
            reasons = "\n".join(f"  {refusal}" for refusal in found)
            raise SystemExit(
                f"\ncinema-verl: this run would not train what its configuration says, and nothing was started.\n"
                f"{reasons}\n\n  the same verdict, and more: cinema-verl preflight with the same arguments"
            )
        if _writes_a_run(config):
            with _ending():
                self._held.enter_context(claimed(config))

    def on_job_end(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra when the program is through, whether it failed or not."""
        self._held.close()


def _writes_a_run(config: DictConfig) -> bool:
    """Whether this process answers for a training; an evaluation locks `trainer.validation_data_dir` itself."""
    return os.environ.get("RANK", "0") == "0" and not OmegaConf.select(config, "trainer.val_only")


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except Taken as error:
        raise SystemExit(f"\ncinema-verl: nothing was started: {error}") from None
    except Exception as error:
        raise SystemExit(f"\ncinema-verl: nothing was started: {type(error).__name__}: {error}") from error
