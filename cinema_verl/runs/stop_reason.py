"""How a rollout ended, in one word, which training writes to dumps and metrics and which report and evaluation read."""

from enum import Enum


class StopReason(str, Enum):
    """Each member is its lower-case word: equal to it, hashed as it, written as it by `json` and in format strings."""

    ANSWER = "answer"  # the response ends with `</answer>`
    PLACEHOLDER = "placeholder"  # cut before a vision placeholder token, which a response may not hold
    EOS = "eos"  # the policy ended its turn without an answer
    LENGTH = "length"  # the response limit was reached
    FAILED = "failed"  # there is no response: the engine or the reward failed
    UNKNOWN = "unknown"  # the record does not say, or uses a word of another agent loop

    __str__ = str.__str__  # Python 3.10 and 3.11 differ in what an f-string shows of a member otherwise

    @classmethod
    def of(cls, word: object) -> "StopReason":
        """The member for a word in a file; `UNKNOWN` for anything else."""
        try:
            return cls(word)
        except ValueError:
            return cls.UNKNOWN

    @property
    def metric(self) -> str:
        """The name under which training logs the share of rollouts that ended so."""
        return f"cinema/stop/{self.value}"
