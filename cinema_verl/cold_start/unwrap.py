"""What a reply has around its trajectory: the model's own reasoning, and a code fence around the whole.

`<think>` is the Think action of a trajectory, and the reasoning block of models that think before they answer. Which of
the two a leading block is, the text does not say: it is decided by what is declared of the endpoint. A `</think>` that
nothing opened, and a fence around the whole, are never part of a trajectory. What is taken off is kept beside the text.
"""

from dataclasses import dataclass
from typing import Final

from cinema_verl.utils.native_reasoning import leading_end, unopened_end

FENCE: Final = "```"

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
        native_reasoning: What is declared of the model, one of `utils.native_reasoning.NATIVE_REASONING`.
        separate: The reasoning that the endpoint gave in a field of its own. Then a leading ``<think>`` in the text is
            an action whatever is declared: the model's own reasoning is elsewhere.
    """
    taken = {SEPARATE: separate} if separate else {}
    text = _without_fence(text.strip(), taken)
    if end := unopened_end(text):
        taken[BARE_CLOSING], text = text[:end], text[end:].strip()
    elif native_reasoning == "strip" and not separate and (end := leading_end(text)):
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
