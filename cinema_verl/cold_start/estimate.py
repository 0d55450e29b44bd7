"""What a run will ask and cost, before anything is asked."""

from dataclasses import dataclass
from typing import Final

from cinema_verl.cold_start.plan import SamplingPlan
from cinema_verl.endpoint.ledger import Ledger
from cinema_verl.endpoint.paid import PaidClient

TYPICAL_TOKENS: Final = 300
"""Of a trajectory, where the least cost is wanted. Our choice: a paragraph for each of three actions."""


@dataclass(frozen=True)
class CostEstimate:
    """Bounds for a run from nothing.

    Attributes:
        questions: To be asked.
        student_calls: Drafts; the same in any case.
        teacher_calls: (least, most): every first refinement follows its path and no path is explored; or none does.
        cost: (least, most): the least calls with `TYPICAL_TOKENS` each; the most with replies as long as is allowed.
    """

    questions: int
    student_calls: int
    teacher_calls: tuple[int, int]
    cost: tuple[float, float]

    def __str__(self) -> str:
        least, most = self.cost
        return (
            f"{self.questions:,} questions: {self.student_calls:,} drafts, {self.teacher_calls[0]:,} to "
            f"{self.teacher_calls[1]:,} teacher calls; from nothing, {least:,.2f} (replies of {TYPICAL_TOKENS} tokens) "
            f"to at most {most:,.2f}, by the prices given"
        )


def estimate(plan: SamplingPlan) -> CostEstimate:
    """Read all questions once and add up.

    Raises:
        ValueError: there is no question; or two share a uid, by which results are kept.
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
            path = ("think", "answer")  # any: a path is a few tokens
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
