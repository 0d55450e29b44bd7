"""SIGTERM as a request: end after the step that is under way, save, and exit.

Slurm, Kubernetes and preemptible machines send SIGTERM some time before they kill. A trainer holds a `StopSignal` while
it trains and looks at `requested` after each step:

    with StopSignal() as stop:
        for batch in batches:
            train(batch)
            if stop.requested:
                save()
                raise SystemExit(EXIT_CODE)
"""

import signal
from types import FrameType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
"""143, what a shell reports for a process that SIGTERM ended: the run is not finished, and whoever looks at exit codes
must not take it for one that is."""


class StopSignal:
    """While it is entered, SIGTERM sets a flag, however often it comes; before and after, it does what it did.

    Raises:
        ValueError: from entering it outside the main thread, where Python installs no handlers.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "StopSignal":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True


def ignore_stop_signal(*_: object) -> None:
    """For helper processes of a trainer, which end with it: `worker_init_fn` of a data loader.

    torchrun and Slurm send SIGTERM to the whole process group. A loader's process that dies of it makes the trainer
    fail in the middle of the step that it is about to finish.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
