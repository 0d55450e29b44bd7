"""The one queue: what arrives together is one batch, and one bad batch takes nothing else with it."""

import asyncio
import threading

import pytest

from cinema_verl.rollout.batching import Batcher
from cinema_verl.rollout.generation import Completion


class Decoder:
    """Answers each request with itself doubled, and remembers the batches."""

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, requests, watch):
        self.batches.append(list(requests))
        assert self.go_on.wait(10)
        if "bad" in requests:
            raise RuntimeError("out of memory")
        return [request * 2 for request in requests]


@pytest.fixture
def decoder():
    return Decoder()


def serve(scenario, decoder, largest=64, window=0.02):
    async def run():
        batcher = Batcher(decoder, largest, window)
        try:
            return await scenario(batcher)
        finally:
            batcher.close()

    return asyncio.run(run())


def together(*requests):
    async def scenario(batcher):
        return await asyncio.gather(*map(batcher, requests), return_exceptions=True)

    return scenario


def test_what_arrives_together_is_one_batch_and_everybody_gets_their_own(decoder):
    assert serve(together(*range(20)), decoder) == [2 * i for i in range(20)]
    assert decoder.batches == [list(range(20))]


def test_a_batch_is_never_larger_than_the_largest(decoder):
    assert serve(together(*range(20)), decoder, largest=8) == [2 * i for i in range(20)]
    assert [len(batch) for batch in decoder.batches] == [8, 8, 4]


def test_what_comes_during_a_batch_is_the_next(decoder):
    async def scenario(batcher):
        decoder.go_on.clear()
        first = asyncio.create_task(batcher(1))
        while not decoder.batches:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batcher(i)) for i in (2, 3)]
        await asyncio.sleep(0)
        decoder.go_on.set()
        return await asyncio.gather(first, *rest)

    assert serve(scenario, decoder) == [2, 4, 6]
    assert decoder.batches == [[1], [2, 3]]


def test_a_failing_batch_reaches_all_its_callers_and_the_next_is_served(decoder):
    async def scenario(batcher):
        failed = await together(1, "bad")(batcher)
        return failed, await batcher(3)

    failed, next_one = serve(scenario, decoder)
    assert [str(error) for error in failed] == ["out of memory"] * 2
    assert next_one == 6


def test_those_who_went_away_are_not_worked_for(decoder):
    async def scenario(batcher):
        gone, stays = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert serve(scenario, decoder) == 4
    assert decoder.batches == [[2]]


def test_one_that_goes_away_during_its_batch_does_not_disturb_the_others(decoder):
    async def scenario(batcher):
        decoder.go_on.clear()
        gone, stays = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
        while not decoder.batches:
            await asyncio.sleep(0.001)
        gone.cancel()
        decoder.go_on.set()
        return await stays, await batcher(3)

    assert serve(scenario, decoder) == (4, 6)


def test_who_has_ended_is_answered_while_the_others_are_still_being_decoded():
    short, long = Completion([1], [0.0], ""), Completion([1, 2], [0.0, 0.0], "")
    go_on = threading.Event()

    def decode(requests, watch):
        watch(0, short)  # it goes on
        short.stop_reason = "stop"
        watch(0, short)
        assert go_on.wait(10)
        long.stop_reason = "length"
        return [short, long]

    async def scenario(batcher):
        first, second = asyncio.create_task(batcher("a")), asyncio.create_task(batcher("b"))
        assert await asyncio.wait_for(first, 5) is short
        assert not second.done()
        go_on.set()
        return await second

    assert serve(scenario, decode) is long


def test_a_batch_that_fails_later_takes_no_answer_back():
    def decode(requests, watch):
        watch(0, Completion([1], [0.0], "stop"))
        raise RuntimeError("out of memory")

    answered, failed = serve(together("a", "b"), decode)
    assert answered.stop_reason == "stop"
    assert str(failed) == "out of memory"
