"""A run's identity and its workers' shares."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.cold_start.plan import SamplingPlan, share
from cinema_verl.cold_start.requests import SamplingSettings
from cinema_verl.endpoint.settings import Endpoint

ENDPOINT = Endpoint("http://localhost/v1", "m", requests_per_minute=100, tokens_per_minute=9000, concurrency=10)


@pytest.fixture
def plan(write_questions, tmp_path) -> SamplingPlan:
    return SamplingPlan(write_questions(6), tmp_path / "out", ENDPOINT, ENDPOINT, SamplingSettings())


def test_results_depend_on_what_is_asked_and_of_whom_and_on_nothing_else(plan, write_questions, tmp_path):
    same = [
        replace(plan, budget=3.0),
        replace(plan, limit=2),
        replace(plan, output=tmp_path / "other"),
        replace(plan, work=tmp_path / "work"),
        replace(plan, workers=3),
        replace(plan, teacher=replace(ENDPOINT, base_url="http://elsewhere/v1", concurrency=2, timeout=5)),
    ]
    other = [
        replace(plan, settings=SamplingSettings(similarity="actions")),
        replace(plan, settings=SamplingSettings(drafts=5)),
        replace(plan, settings=SamplingSettings(mode="compact")),
        replace(plan, teacher=replace(ENDPOINT, model="n")),
        replace(plan, encoder="packaged"),
        replace(plan, questions=write_questions(7, "seven.jsonl")),
    ]
    assert {each.fingerprint for each in same} == {plan.fingerprint}
    assert len({each.fingerprint for each in other} | {plan.fingerprint}) == 7


@given(st.lists(st.text(max_size=8), unique=True, max_size=30), st.integers(1, 5))
def test_every_question_has_one_owner(uids, workers):
    plan = SamplingPlan(Path("q"), Path("o"), ENDPOINT, ENDPOINT, SamplingSettings(), workers=workers)
    assert all(0 <= plan.owner(uid) < workers for uid in uids)
    assert [plan.owner(uid) for uid in uids] == [plan.owner(uid) for uid in uids]


def test_questions_are_spread_evenly(plan):
    owners = [replace(plan, workers=4).owner(f"q/{number}") for number in range(4000)]
    assert all(900 < owners.count(worker) < 1100 for worker in range(4))


def test_workers_share_limits_and_budget(plan):
    part = share(replace(plan, workers=4, budget=10.0))
    assert part.budget == 2.5
    assert (part.teacher.requests_per_minute, part.teacher.tokens_per_minute, part.student.concurrency) == (25, 2250, 2)
    assert share(replace(plan, workers=64)).student.concurrency == 1
    assert share(plan) == plan


def test_the_number_of_workers_is_settled_by_the_first_run(plan):
    replace(plan, workers=2).settle_workers()
    replace(plan, workers=2).settle_workers()
    with pytest.raises(ValueError, match="--workers 2"):
        plan.settle_workers()
    replace(plan, work=plan.output / "elsewhere").settle_workers()
