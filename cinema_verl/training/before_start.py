"""The check in the driver: Hydra has composed the configuration, and nothing has been started.

The recipes name this class under `hydra.callbacks`, Hydra's public place for it. verl's `main` runs after it, so a
configuration that cannot train what it says ends with its reasons instead of minutes of Ray. Sweeps (`--multirun`) pass
here job by job.
"""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cinema_verl.training.model_folder import folder_refusals
from cinema_verl.training.verdict import refusals


class RefuseBeforeStart(Callback):
    """Ends the process where the verdict on the configuration, or on its model's folder, has a reason to."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra with the whole configuration, its own node included.

        Raises:
            SystemExit: With every reason. Hydra turns an exception of a callback into a warning, but not this one.
        """
        found = refusals(config) or folder_refusals(config)
        if found:
            reasons = "\n".join(f"  {refusal}" for refusal in found)
            raise SystemExit(
                f"\ncinema-verl: this run would not train what its configuration says, and nothing was started.\n"
                f"{reasons}\n\n  the same verdict, and more: cinema-verl preflight with the same arguments"
            )
