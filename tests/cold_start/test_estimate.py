"""What a run will cost, by hand."""

from dataclasses import replace

import pytest

from cinema_verl.cold_start.estimate import estimate
from cinema_verl.cold_start.plan import SamplingPlan
from cinema_verl.cold_start.requests import SamplingSettings
from cinema_verl.endpoint.settings import Endpoint

ENDPOINT = Endpoint("http://localhost/v1", "m")


@pytest.fixture
def plan(write_questions, tmp_path) -> SamplingPlan:
    return SamplingPlan(write_questions(6), tmp_path / "out", ENDPOINT, ENDPOINT, SamplingSettings())


def test_an_estimate_by_hand(plan):
    # Six questions. Written tokens alone have a price: 10 a million for the teacher, 1 for the student.
    priced = replace(
        plan, student=replace(ENDPOINT, completion_price=1.0), teacher=replace(ENDPOINT, completion_price=10.0)
    )
    found = estimate(priced)
    assert (found.questions, found.student_calls, found.teacher_calls) == (6, 24, (6, 30))
    assert found.cost[0] == pytest.approx((6 * 300 * 10 + 24 * 300 * 1) / 1e6)
    assert found.cost[1] == pytest.approx((30 * 2048 * 10 + 24 * 1024 * 1) / 1e6)
    one = estimate(replace(priced, settings=SamplingSettings(trajectories=1)))
    assert one.teacher_calls == (6, 18)  # three refinements and no exploration
    cot = estimate(replace(priced, settings=SamplingSettings(mode="cot")))
    assert (cot.student_calls, cot.teacher_calls) == (0, (6, 18))
    assert estimate(replace(priced, limit=2)).questions == 2


def test_reading_costs_too_and_more_images_more(plan, write_questions, make_question):
    priced = replace(plan, teacher=replace(ENDPOINT, prompt_price=1e6, vision="qwen2.5"), student=ENDPOINT)
    one, two = (
        estimate(replace(priced, questions=write_questions([make_question(0, images=2)], "a.jsonl"))),
        estimate(replace(priced, questions=write_questions([make_question(0, images=4)], "b.jsonl"))),
    )
    assert two.cost[0] - one.cost[0] >= 2 * 4  # an image of 32 x 28 pixels counts four tokens at least
    assert one.cost[0] > 0
