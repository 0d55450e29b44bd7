"""The reasoning of a model that thinks on its own, before its answer.

It stands in ``<think>…</think>``, the tags of the Think action. Which of the two a leading block is, the text does not
say: it is decided by what is declared of the model. A chat template may open the block in the prompt; then a response
begins inside it, and its ``</think>`` is one that nothing in the response opened.
"""

from typing import Final

OPEN: Final = "<think>"
CLOSE: Final = "</think>"

KEY: Final = "reward.custom_reward_function.reward_kwargs.native_reasoning"
"""Where verl's configuration declares it of a policy."""
NATIVE_REASONING: Final = {
    "none": "a leading <think> is the Think action",
    "strip": "the model reasons in a leading <think> block of its own, which is taken off",
    "refuse": "a reply that shows reasoning of the model's own is not used; of a policy, it breaks the format rule",
}
"""What can be declared of a model -> what follows from it."""
VIOLATION: Final = "native_reasoning"
"""The code of a response that breaks the format rule because it shows reasoning under "refuse"."""


def trajectory_begins(text: str, declared: str) -> int:
    """Where a policy's trajectory begins in its response, behind reasoning of its own; 0 unless declared "strip"."""
    return (unopened_end(text) or leading_end(text)) if declared == "strip" else 0


def is_refused(text: str, declared: str) -> bool:
    """Whether a policy's response shows reasoning of its own that was declared not to be there."""
    return declared == "refuse" and unopened_end(text) > 0


def unopened_end(text: str) -> int:
    """Where the first ``</think>`` that no ``<think>`` opened ends; 0 if there is none. Linear in the text."""
    at = 0
    while (close := text.find(CLOSE, at)) >= 0:
        if text.find(OPEN, at, close) < 0:
            return close + len(CLOSE)
        at = close + len(CLOSE)
    return 0


def leading_end(text: str) -> int:
    """Where a ``<think>`` block ends that the text begins with, after white space; 0 if there is none."""
    begins = text.lstrip().startswith(OPEN)
    return text.index(CLOSE) + len(CLOSE) if begins and CLOSE in text else 0
