"""What a run will ask and cost, before anything is asked."""

from dataclasses import dataclass
from typing import Final

from cinema_verl.cold_start.plan import SamplingPlan
from cinema_verl.endpoint.ledger import Ledger
from cinema_verl.endpoint.paid import PaidClient

TYPICAL_TOKENS: Final = 300
"""Tokens of a trajectory, for the least cost. Our choice: a paragraph for each of three actions."""


@dataclass(frozen=True)
class CostEstimate:
    """Bounds for a run with an empty ledger.

    Attributes:
        questions: Number of questions.
        student_calls: Number of drafts.
        teacher_calls: (least, most). Least: every first refinement follows its path, and no path is explored. Most: no
            refinement follows its path.
        cost: (least, most). Least: the least calls with `TYPICAL_TOKENS` each. Most: the most calls with the longest
            replies allowed.
    """

    questions: int
    student_calls: int
    teacher_calls: tuple[int, int]
    cost: tuple[float, float]

    def __str__(self) -> str:
        least, most = self.cost
        return (
            f"{self.questions:,} questions: {self.student_calls:,} drafts, {self.teacher_calls[0]:,} to "
            f"{self.teacher_calls[1]:,} teacher calls; cost with an empty ledger: {least:,.2f} (replies of "
            f"{TYPICAL_TOKENS} tokens) to at most {most:,.2f}, by the prices given"
        )


def estimate(plan: SamplingPlan) -> CostEstimate:
    """Estimate the calls and the cost of a run by reading all of its questions.

    Raises:
        ValueError: There is no question, or two have the same uid.
    """
    settings, calls = plan.settings, plan.calls
    drafts = 0 if settings.is_cot else settings.drafts
    explorations = settings.explorations if settings.wanted > 1 else 0
    tries = settings.refinements + explorations
    uids: set[str] = set()
    least = most = 0.0
    with Ledger(":memory:") as ledger:
        student, teacher = PaidClient(plan.student, ledger), PaidClient(plan.teacher, ledger)
        for question in plan.read():
            if question.uid in uids:
                raise ValueError(f"{plan.questions}: two questions are called {question.uid!r}; make their uids differ")
            uids.add(question.uid)
            path = ("think", "answer")  # any will do: a path is a few tokens
            refine, images = calls.refine(question, path, 0), question.images
            least += teacher.estimate(refine, images, TYPICAL_TOKENS)
            most += tries * teacher.estimate(refine, images)
            if drafts:
                draft = calls.draft(question, 0)
                least += drafts * student.estimate(draft, images, TYPICAL_TOKENS)
                most += drafts * student.estimate(draft, images)
    if not (count := len(uids)):
        raise ValueError(f"{plan.questions} has no questions")
    return CostEstimate(count, drafts * count, (count, tries * count), (least, most))
