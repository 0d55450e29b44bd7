"""Intervals hold the truth as often as they say, and pass@k is what counting every draw gives."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.evaluate.statistics import Estimate, difference, mean, pass_at_k, rate, student_t

SIMULATIONS = 2000  # the share of hits is then known to +-0.01 (two standard deviations)


def shares(rng: np.random.Generator, p: float, questions: int, rollouts: int, alike: float) -> np.ndarray:
    """(SIMULATIONS, questions) shares of correct rollouts; questions differ, more so the smaller `alike`."""
    if rollouts == 1:
        return rng.binomial(1, p, (SIMULATIONS, questions)).astype(float)
    difficulty = rng.beta(p * alike, (1 - p) * alike, (SIMULATIONS, questions))
    return rng.binomial(rollouts, difficulty) / rollouts


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]))


@pytest.mark.parametrize(
    ("questions", "rollouts", "p", "alike"),
    [
        (100, 1, 0.3, 1),
        (400, 1, 0.9, 1),
        (100, 4, 0.65, 1.0),
        (100, 16, 0.5, 1.0),
        (200, 16, 0.2, 5.0),
        (300, 16, 0.95, 0.5),
    ],
)
def test_intervals_of_rates_hold_the_truth_95_times_in_100(questions, rollouts, p, alike):
    rng = np.random.default_rng(questions * rollouts)
    found = [rate(sample, rollouts) for sample in shares(rng, p, questions, rollouts, alike)]
    assert 0.93 <= coverage(found, p) <= 0.97


@pytest.mark.parametrize("p", [0.05, 0.97])
@pytest.mark.parametrize("rollouts", [4, 16])
@pytest.mark.parametrize("questions", [10, 30])
def test_few_questions_leave_more_doubt_rather_than_less(questions, rollouts, p):
    rng = np.random.default_rng(questions * rollouts)
    found = [rate(sample, rollouts) for sample in shares(rng, p, questions, rollouts, 1.0)]
    assert coverage(found, p) >= 0.92  # 0.93, as found with more simulations, less what so few may be off


@pytest.mark.slow
@pytest.mark.parametrize("questions", [10, 30, 100, 300])
@pytest.mark.parametrize("rollouts", [1, 4, 16])
@pytest.mark.parametrize("alike", [1e-3, 1 / 9, 1.0, 4.0, 19.0, 1e3])  # correlated by 1 / (1 + alike) within a question
def test_intervals_of_rates_hold_the_truth_whatever_the_questions(questions, rollouts, alike):
    rng = np.random.default_rng(questions * rollouts)
    for p in (0.05, 0.2, 0.5, 0.9, 0.97):
        found = [rate(sample, rollouts) for sample in shares(rng, p, questions, rollouts, alike)]
        assert 0.92 <= coverage(found, p) <= (0.99 if questions >= 100 else 1), p


@pytest.mark.parametrize(
    ("questions", "rollouts", "p", "other"),
    [(64, 1, 0.7, 0.6), (100, 1, 0.9, 0.3), (100, 4, 0.7, 0.5), (400, 1, 0.5, 0.5)],
)
def test_intervals_of_differences_hold_the_truth_95_times_in_100(questions, rollouts, p, other):
    rng = np.random.default_rng(questions * rollouts)
    pairs = shares(rng, p, questions, rollouts, 2.0) - shares(rng, other, questions, rollouts, 2.0)
    assert 0.93 <= coverage([difference(sample) for sample in pairs], p - other) <= 0.97


def test_intervals_of_means_hold_the_truth_95_times_in_100():
    samples = np.random.default_rng(0).normal(2.0, 3.0, (SIMULATIONS, 12))
    assert 0.93 <= coverage([mean(sample) for sample in samples], 2.0) <= 0.97


def test_passes_of_many_rollouts_hold_the_truth_too():
    """pass@4 of questions whose difficulty is uniform: 1 - E[(1 - p)^4] = 0.8."""
    rng = np.random.default_rng(4)
    correct = rng.binomial(16, rng.uniform(size=(SIMULATIONS // 2, 200)))
    passes = np.array([pass_at_k(c, 16, 4) for c in range(17)])[correct]
    assert 0.93 <= coverage([rate(sample, 16) for sample in passes], 0.8) <= 0.97


@pytest.mark.parametrize("questions", [1, 2, 5, 100])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_correct_and_all_incorrect_leave_a_doubt_that_shrinks(questions, value):
    found, more = rate([value] * questions), rate([value] * 10 * questions)
    assert found.mean == value
    assert 0 <= found.low <= value <= found.high <= 1
    assert 0 < more.high - more.low < found.high - found.low
    if questions == 1:
        assert found.high - found.low > 0.9  # one question says next to nothing
    same = difference([value] * questions)
    assert same.mean == value
    assert -1 <= same.low <= value <= same.high <= 1
    assert same.low < same.high


def test_known_intervals():
    # By hand: as many tries as questions, t(99) = 1.984, and at 0.5 Wilson's half is t / (2 sqrt(100 + t^2)) = 0.0973.
    assert str(rate([0.0, 1.0] * 50)) == "0.500 [0.403, 0.597]"
    # By hand: 100^2 / 4 / (100 / 16 + 1 / 12) = 394.7 tries, t / (2 sqrt(394.7 + t^2)) = 0.0497.
    assert str(rate([0.25, 0.75] * 50, rollouts=4)) == "0.500 [0.450, 0.550]"
    # By hand, for 7 differences of 0: centre 0, variance (0 + 1) / 9, half = t(6) * sqrt(1 / 81) = 2.447 / 9.
    assert difference([0.0] * 7).high == pytest.approx(2.447 / 9, abs=1e-3)
    # By hand: mean 2, standard deviation 1, half = t(2) / sqrt(3) = 4.303 / 1.732.
    assert mean([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.303 / 1.732, rel=0.01)
    assert mean([5.0]).to_json() == {"mean": 5.0, "low": None, "high": None}
    assert mean([5.0]).holds_zero  # nobody knows


@pytest.mark.parametrize(
    ("degrees", "table"), [(2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)]
)
def test_the_t_distribution_is_that_of_the_tables(degrees, table):
    assert student_t(degrees) == pytest.approx(table, rel=0.01)


def test_rollouts_of_one_question_are_not_independent_tries():
    alike = rate([0.5] * 100, rollouts=16)  # every question half correct: the rollouts are what varies
    apart = rate([0.0, 1.0] * 50, rollouts=16)  # each question always correct or always incorrect: the questions are
    assert alike.high - alike.low < apart.high - apart.low
    assert apart == rate([0.0, 1.0] * 50, rollouts=1)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=40), st.sampled_from([1, 4, 16]))
def test_a_rate_lies_in_its_interval_and_the_interval_in_0_to_1(values, rollouts):
    found = rate(values, rollouts)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    mirrored = rate([1 - value for value in values], rollouts)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_a_difference_lies_in_its_interval_and_turns_with_its_sign(values):
    found, turned = difference(values), difference([-value for value in values])
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@given(st.data())
def test_pass_at_k_is_what_counting_every_draw_gives(data):
    rollouts = data.draw(st.integers(1, 9))
    correct, k = data.draw(st.integers(0, rollouts)), data.draw(st.integers(1, rollouts))
    outcomes = [True] * correct + [False] * (rollouts - correct)
    draws = list(itertools.combinations(outcomes, k))
    assert pass_at_k(correct, rollouts, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_is_unbiased():
    p, n, k = 0.3, 8, 4
    expected = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(c, n, k) for c in range(n + 1))
    assert expected == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("arguments", [(3, 2, 1), (-1, 2, 1), (1, 2, 3), (1, 2, 0)])
def test_pass_at_k_of_the_impossible_is_refused(arguments):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(*arguments)


@pytest.mark.parametrize("statistic", [rate, difference, mean])
def test_no_questions_have_no_mean(statistic):
    with pytest.raises(ValueError, match="no questions"):
        statistic([])


@pytest.mark.parametrize(("statistic", "value"), [(rate, 1.1), (rate, -0.1), (difference, 1.5), (difference, -2)])
def test_values_outside_their_range_are_refused(statistic, value):
    with pytest.raises(ValueError, match="outside"):
        statistic([0.5, value])
