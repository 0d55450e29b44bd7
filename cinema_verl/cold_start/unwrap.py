"""What a reply has around its trajectory: the model's own reasoning, and a code fence around the whole.

`<think>` is the Think action of a trajectory, and the reasoning block of models that think before they answer. Which of
the two a leading block is, the text does not say: it is decided by what is declared of the endpoint. A `</think>` that
nothing opened, and a fence around the whole, are never part of a trajectory. What is taken off is kept beside the text.
"""

from dataclasses import dataclass
from typing import Final

from cinema_verl.meta_action import TAGS

THINK: Final = TAGS["think"]
FENCE: Final = "```"

NATIVE_REASONING: Final = {
    "none": "a leading <think> is the Think action",
    "strip": "the model reasons in a leading <think> block of its own, which is taken off",
    "refuse": "a reply that shows reasoning of the model's own is not used",
}
"""What can be declared of a model -> what follows from it."""

CODE_FENCE: Final = "code_fence"
BARE_CLOSING: Final = "bare_closing_think"
LEADING: Final = "leading_think"
SEPARATE: Final = "separate_reasoning"
TAKEN_OFF: Final = {
    CODE_FENCE: "a code fence around the whole reply",
    BARE_CLOSING: "a </think> that no <think> opened, and what is before it",
    LEADING: "a leading <think> block that is declared to be the model's own reasoning",
    SEPARATE: "reasoning that the endpoint gives in a field of its own",
}
"""What is taken off a reply: code -> meaning."""
REFUSED: Final = "native_reasoning"
"""The violation of a reply that shows reasoning of the model's own where it is declared that there may be none."""


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A reply's trajectory, and what was around it.

    Attributes:
        text: The trajectory, without surrounding white space.
        taken: Codes of `TAKEN_OFF`, each with the text that was taken off.
    """

    text: str
    taken: tuple[tuple[str, str], ...] = ()


def unwrap(text: str, native_reasoning: str = "none", separate: str = "") -> Unwrapped:
    """Take off what is around a trajectory. Linear in the text.

    Args:
        native_reasoning: One of `NATIVE_REASONING`, as declared of the model.
        separate: The reasoning that the endpoint gave in a field of its own. Then a leading ``<think>`` in the text is
            an action whatever is declared: the model's own reasoning is elsewhere.
    """
    taken = {SEPARATE: separate} if separate else {}
    text = _without_fence(text.strip(), taken)
    end = _bare_closing(text)
    if end:
        taken[BARE_CLOSING], text = text[:end], text[end:].strip()
    elif native_reasoning == "strip" and not separate and text.startswith(THINK.open) and THINK.close in text:
        end = text.index(THINK.close) + len(THINK.close)
        taken[LEADING], text = text[:end], text[end:].strip()
    return Unwrapped(_without_fence(text, taken), tuple(taken.items()))


def _without_fence(text: str, taken: dict[str, str]) -> str:
    """The text inside of a fence that is around all of it. Two fenced blocks are no such fence."""
    first, _, rest = text.partition("\n")
    if not first.startswith(FENCE) or FENCE in first[len(FENCE) :] or not rest.endswith(FENCE):
        return text
    body = rest.removesuffix(FENCE)
    if FENCE in body:
        return text
    taken[CODE_FENCE] = f"{first}…{FENCE}"
    return body.strip()


def _bare_closing(text: str) -> int:
    """Where the first ``</think>`` that no ``<think>`` opened ends; 0 if there is none."""
    at = 0
    while (close := text.find(THINK.close, at)) >= 0:
        if text.find(THINK.open, at, close) < 0:
            return close + len(THINK.close)
        at = close + len(THINK.close)
    return 0
