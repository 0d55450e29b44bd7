"""No minute, wherever it begins, has more than the limit in it; time is the tests' own."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cinema_verl.endpoint.rate_limits import MINUTE, Limiter, MinuteWindow

STEPS = st.lists(st.tuples(st.floats(0, 90), st.floats(0.1, 12), st.floats(0, 1)), max_size=60)
"""(seconds until it is asked, amount, share of the amount that it is in truth)"""


def fullest(sent: list[tuple[float, float]], seconds: float = MINUTE) -> float:
    """The most that any window has, both ends included; windows that begin with something sent are enough."""
    return max((sum(size for at, size in sent if start <= at <= start + seconds) for start, _ in sent), default=0.0)


@given(STEPS)
def test_no_window_has_more_than_the_limit(steps):
    window, now, sent = MinuteWindow(12.0), 0.0, []
    for pause, amount, _ in steps:
        now += pause
        while wait := window.wait(now, amount):
            assert wait > 0
            now += wait
        window.send(now, amount)
        sent.append((now, amount))
    assert fullest(sent) <= 12.0 + 1e-9


@example([(0.0, 1.0, 0.0), (0.0, 12.0, 0.0), (60.0, 1.0, 0.0)], 2)  # 60.001 + 60 is not exact in floating point
@given(STEPS, st.integers(0, 8))
def test_what_turned_out_smaller_makes_room_and_never_too_much(steps, delay):
    window, now, sent = MinuteWindow(12.0), 0.0, []
    uncorrected: list[tuple[int, object, float]] = []
    for number, (pause, amount, share) in enumerate(steps):
        now += pause
        while wait := window.wait(now, amount):
            now += wait
        sent.append([now, amount])
        uncorrected.append((number, window.send(now, amount), amount * share))
        if len(uncorrected) > delay:
            which, token, truth = uncorrected.pop(0)
            window.correct(token, truth)
            sent[which][1] = truth
        assert fullest([(at, size) for at, size in sent]) <= 12.0 + 1e-9


def test_by_hand():
    window = MinuteWindow(10.0)
    assert window.wait(0.0, 10.0) == 0
    early = window.send(0.0, 6.0)
    window.send(20.0, 4.0)
    assert window.wait(20.0, 1.0) == pytest.approx(40.001)
    window.correct(early, 3.0)
    assert window.wait(20.0, 3.0) == 0
    assert window.wait(20.0, 4.0) > 0
    assert window.wait(60.0, 7.0) > 0  # 60 s later it still counts: both ends do
    assert window.wait(60.001, 6.0) == 0
    window.correct(early, 100.0)  # too late to matter
    assert window.wait(60.001, 6.0) == 0


def test_more_than_the_limit_goes_alone():
    window = MinuteWindow(10.0)
    assert window.wait(0.0, 99.0) == 0
    window.send(0.0, 99.0)
    assert window.wait(30.0, 0.1) > 0
    assert window.wait(60.1, 99.0) == 0


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="must be positive"):
        MinuteWindow(limit)


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def turns(limiter: Limiter, time: Time, tokens: list[float]) -> list[tuple[int, float]]:
    """(who, when), in the order of sending, of those who ask at once."""
    went: list[tuple[int, float]] = []

    async def one(who: int) -> None:
        await limiter.turn(tokens[who])
        went.append((who, time.now))

    async def run() -> None:
        await asyncio.gather(*map(one, range(len(tokens))))

    asyncio.run(run())
    return went


def test_turns_come_in_order_under_both_limits():
    time = Time()
    went = turns(Limiter(3, 100, time.clock, time.sleep), time, [10, 80, 10, 10, 80, 1, 1, 1])
    assert [who for who, _ in went] == list(range(8))  # a small one does not overtake a large one
    assert [round(at) for _, at in went] == [0, 0, 0, 60, 60, 60, 120, 120]


def test_without_limits_nobody_waits():
    time = Time()
    assert turns(Limiter(0, 0, time.clock, time.sleep), time, [1e9] * 5) == [(who, 0.0) for who in range(5)]


def test_a_pause_holds_everybody_and_the_longest_counts():
    time = Time()
    limiter = Limiter(0, 0, time.clock, time.sleep)
    limiter.pause(7.0)
    limiter.pause(3.0)
    assert all(at == pytest.approx(7.0) for _, at in turns(limiter, time, [1, 1, 1]))


def test_a_correction_lets_a_waiter_go_within_a_second():
    time = Time()
    limiter = Limiter(0, 100, time.clock, time.sleep)

    async def run() -> float:
        sent = await limiter.turn(100)
        waiting = asyncio.ensure_future(limiter.turn(50))
        while time.now < 5:
            await asyncio.sleep(0)
        limiter.correct(sent, 20)
        await waiting
        return time.now

    assert 5 <= asyncio.run(run()) <= 6
