"""The check in the driver: Hydra has composed the configuration, and nothing has been started.

The recipes name this class under `hydra.callbacks`, Hydra's public place for it. verl's `main` runs after it, so a
configuration that cannot train what it says ends with its reasons instead of minutes of Ray, and so does a run whose
folder is another one's. Sweeps (`--multirun`) pass here job by job.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cinema_verl.runs.locate import CONFIG
from cinema_verl.training import cluster
from cinema_verl.training.checkpoint import saves_nothing, saves_too_little
from cinema_verl.training.data_files import file_refusals
from cinema_verl.training.model_folder import folder_refusals, hub_refusals
from cinema_verl.training.next_steps import next_steps
from cinema_verl.training.quiet import configuration_to_file, filter_warnings
from cinema_verl.training.registered import unregistered
from cinema_verl.training.resume import resume_refusals
from cinema_verl.training.run_folder import Taken, claimed, refuse_validations_of_a_training, use_absolute_paths
from cinema_verl.training.stop_signal import EXIT_CODE, StopRequest
from cinema_verl.training.values import misspelt, unread
from cinema_verl.training.verdict import TRAINERS, refusals
from cinema_verl.utils.extensions import ExtensionError


class RefuseBeforeStart(Callback):
    """Ends the process where the configuration, its model's folder or its own folder gives a reason to.

    Hydra turns an exception of a callback into a warning, and the run would go on: every failure here is a SystemExit.
    """

    def __init__(self) -> None:
        self._held = ExitStack()  # the folder of the run, and its console
        self._stop: StopRequest | None = None  # in it; None where this process answers for no training

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra before it copies the configuration for the program: what is changed here, verl gets."""
        with _ending():
            use_absolute_paths(config)
            cluster.prepare(config)
            filter_warnings(config)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra with the whole configuration, its own node included.

        Raises:
            SystemExit: With every reason, or with what kept them from being found.
        """
        with _ending():
            overrides = OmegaConf.select(config, "hydra.overrides.task") or ()
            found = [*misspelt(config, overrides), *unread(config, overrides), *refusals(config)]
            found = [*found, *file_refusals(config), *([] if found else folder_refusals(config))]
            found = found or unregistered(config) or hub_refusals(config) or resume_refusals(config)
        if found:
            reasons = "\n".join(f"  {refusal}" for refusal in found)
            raise SystemExit(
                f"\ncinema-verl: this run would not train what its configuration says, and nothing was started.\n"
                f"{reasons}\n\n  the same verdict, and more: cinema-verl preflight with the same arguments"
            )
        if OmegaConf.select(config, "trainer.val_only"):
            with _ending():
                refuse_validations_of_a_training(config)
        elif os.environ.get("RANK", "0") == "0":  # this process answers for a training
            with _ending():
                self._stop = StopRequest(self._held.enter_context(claimed(config)))
                self._stop.clear()
                if saves_too_little(config):
                    print(
                        "cinema-verl: checkpoint.save_contents is without some of model, optimizer, extra: the run "
                        "cannot be resumed",
                        file=sys.stderr,
                    )
                if OmegaConf.select(config, "trainer.v1.trainer_mode") in TRAINERS:
                    _once_ray_runs(self._listen)
                    if saves_nothing(config):
                        print(
                            f"cinema-verl: trainer.save_freq={config.trainer.save_freq}: no checkpoint is written: "
                            "the run cannot be resumed, nor its policy used",
                            file=sys.stderr,
                        )
                    self._held.enter_context(configuration_to_file(Path(config.trainer.default_local_dir) / CONFIG))

    def on_job_end(self, config: DictConfig, *, job_return: JobReturn, **_: Any) -> None:
        """Called by Hydra when the program is through, whether it failed or not.

        Raises:
            SystemExit: With code 143 when SIGTERM ended the run before its last step.
        """
        if self._stop is None:
            return
        stopped, completed = self._stop.answered, job_return.status is JobStatus.COMPLETED
        self._stop.clear()
        self._held.close()
        self._stop = None
        if completed and stopped is not None:
            print(f"cinema-verl: stopped by SIGTERM after step {stopped}; the same command goes on", file=sys.stderr)
            raise SystemExit(EXIT_CODE)
        if completed:
            print(f"cinema-verl: the run is finished\n{next_steps(config)}")

    def _listen(self) -> None:
        if self._stop is not None:
            self._stop.listen()


def _once_ray_runs(function: Callable[[], None]) -> None:
    """Call a function in this process after `ray.init`, which puts a handler of its own in the place of any other."""
    import ray

    if ray.is_initialized():
        function()
    else:
        ray._private.worker._post_init_hooks.append(function)  # as ray.tune does: there is no public place


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except (Taken, ExtensionError) as error:
        raise SystemExit(f"\ncinema-verl: nothing was started: {error}") from None
    except Exception as error:
        raise SystemExit(f"\ncinema-verl: nothing was started: {type(error).__name__}: {error}") from error
