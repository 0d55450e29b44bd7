"""Which answer most samples give, where two answers are one when the verifier says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cinema_verl.verify import verify

ANY: Final = "any"
"""The same text, or the same number: the rules of `text` and `number`."""


@dataclass(frozen=True)
class Vote:
    """The outcome of a vote.

    Attributes:
        answer: as the first sample that gave it wrote it; None when no sample has an answer.
        votes: how many samples gave it.
        groups: every answer and how many gave it, the most first; of equally many, the one that came first.
        tie: whether another has as many votes; then the one that came first is taken.
    """

    answer: str | None
    votes: int
    groups: tuple[tuple[str, int], ...]

    @property
    def tie(self) -> bool:
        return len(self.groups) > 1 and self.groups[0][1] == self.groups[1][1]


def count(answers: Sequence[str | None], answer_type: str = ANY, options: Sequence[str] = ()) -> Vote:
    """The vote of the samples' answers, in their order.

    An answer joins the first group whose first answer it equals. A sample without exactly one answer has no vote.

    Args:
        answer_type: one of `cinema_verl.verify.answer_types`, or ``any``.
        options: the choices, for ``mcq`` and ``mcq_multi``.

    Raises:
        ValueError: an unknown answer type.
    """
    groups: list[tuple[str, int]] = []
    for answer in answers:
        if answer is None:
            continue
        for i, (first, votes) in enumerate(groups):
            if same(answer, first, answer_type, options):
                groups[i] = (first, votes + 1)
                break
        else:
            groups.append((answer, 1))
    groups.sort(key=lambda group: -group[1])  # stable: of equally many, the first stays first
    if not groups:
        return Vote(None, 0, ())
    return Vote(groups[0][0], groups[0][1], tuple(groups))


def same(answer: str, other: str, answer_type: str = ANY, options: Sequence[str] = ()) -> bool:
    """Whether two answers are one: equal texts, or correct against the other as a gold."""
    if answer == other:
        return True
    kinds = ("text", "number") if answer_type == ANY else (answer_type,)
    return any(verify(answer, other, kind, options=options) is True for kind in kinds)
