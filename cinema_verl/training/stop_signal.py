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

import os
import signal
from pathlib import Path
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


class StopRequest:
    """The same where the process that gets the signal is not the one that trains: a file in the run's folder.

    In reinforcement learning verl trains in an actor of Ray's, and the process that a user starts, and that Slurm
    sends SIGTERM to, waits for it. That process asks; the trainer looks after each step, and answers when it has ended.

    Args:
        folder: `trainer.default_local_dir`, which both see.
    """

    def __init__(self, folder: Path):
        self._path = folder / ".stop"

    def clear(self) -> None:
        """Forget what an earlier run was asked; who asks does this when it starts."""
        self._path.unlink(missing_ok=True)

    def ask(self) -> None:
        """Ask, as often as you like. It needs no room on a disk that is full."""
        self._path.touch()

    @property
    def asked(self) -> bool:
        """Whether the run has been asked to end."""
        return self._path.exists()

    def answer(self, step: int) -> None:
        """Say that the run was ended after a step, before its last one."""
        self._path.write_text(str(step))

    @property
    def answered(self) -> int | None:
        """The step after which the run was ended; None where it was not asked, or was through before it looked."""
        text = self._path.read_text() if self._path.exists() else ""
        return int(text) if text else None

    def listen(self, *_: object) -> None:
        """Make SIGTERM ask, from now on, in this process."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.ask()
        os.write(2, b"\ncinema-verl: SIGTERM: the run ends after the step that is under way\n")  # print may be in use
