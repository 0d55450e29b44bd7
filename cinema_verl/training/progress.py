"""A validation says that it has begun, and how far it is: it may take as long as many steps, and verl is silent."""

import time
from collections.abc import Callable
from typing import Final

EVERY: Final = 30.0
"""Seconds between two lines. Our choice: soon enough to be seen, and a dozen lines at most for most validations."""


def _print(line: str) -> None:
    print(line, flush=True)


class Progress:
    """The lines of one validation.

    Args:
        step: the global step.
        questions: how many are asked.
        rollouts: of each question.
        say: where the lines go.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        step: int,
        questions: int,
        rollouts: int,
        say: Callable[[str], None] = _print,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._questions = f"cinema-verl: validation at step {step}", questions
        self._say, self._clock = say, clock
        self._earlier = 0  # questions of batches that are through
        self._begun = self._said = clock()
        say(f"{self._name}: {questions} questions, {rollouts} rollouts each")

    def look(self, answered: int) -> None:
        """Called again and again while a batch is rolled out, with how many of its questions are answered."""
        now = self._clock()
        if now - self._said >= EVERY:
            self._said = now
            done = self._earlier + answered
            self._say(f"{self._name}: {done} of {self._questions} questions after {now - self._begun:.0f} s")

    def batch_ended(self, questions: int) -> None:
        """Called after each batch."""
        self._earlier += questions

    def end(self) -> None:
        """Called after the last one."""
        self._say(f"{self._name}: ended after {self._clock() - self._begun:.0f} s")
