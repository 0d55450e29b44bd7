"""What a kill takes from a run's history, and how the next start gives it back.

verl saves a step, validates, and logs the two together: a kill in between leaves a checkpoint whose step is not in the
history, and whose validation nobody would make. The checkpoint has its step's metrics for that (`progress.json`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cinema_verl.runs.metrics import number, records

TRAINED = "cinema/stage"
"""A metric that every step of ours has, and no validation."""
_VALIDATED = "val-"  # with which verl's names of a validation's metrics begin


class Logged(NamedTuple):
    """What the history has of one step."""

    trained: bool
    validated: bool


def logged(history: Path, step: int) -> Logged:
    """Look for a step in a run's metrics; there may be several records of it, and there may be no file.

    Raises:
        OSError: the file cannot be read.
    """
    names = {name for at, data in records(history) if at == step for name in data}
    return Logged(TRAINED in names, any(name.startswith(_VALIDATED) for name in names))


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among a step's metrics, numpy's as well, as JSON has them."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in metrics.items()}
    return {name: value for name, one in plain.items() if (value := number(one)) is not None}


def is_due(frequency: int, step: int, last: int) -> bool:
    """Whether verl validates after a step: `trainer.test_freq`; not at all where that is 0 or less."""
    return frequency > 0 and (step % frequency == 0 or step == last)
