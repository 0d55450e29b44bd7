"""The client against a real server that fails in every way it knows; time is the tests' own."""

import asyncio
import base64
import hashlib
import logging
import math
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.data.canonical import ImageRef
from cinema_verl.demo.stub_server import FAULTS, StubServer
from cinema_verl.endpoint import client as client_module
from cinema_verl.endpoint.client import DOUBTFUL, GIVE_UP, LONGEST_RETRY_AFTER, LONGEST_WAIT
from cinema_verl.endpoint.ledger import Call, Ledger
from cinema_verl.endpoint.outcomes import Reply
from cinema_verl.endpoint.paid import BudgetReached, PaidClient
from cinema_verl.endpoint.settings import Endpoint, EndpointError, StopRun

KEY = "sk-proj-0123456789abcdefghij"


class Time:
    """A clock that nothing moves but sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0.001)  # others go on meanwhile


class Longest(random.Random):
    """Full jitter at its fullest."""

    def uniform(self, a: float, b: float) -> float:
        return b


def call(number: int = 0, **changes: Any) -> Call:
    values = {"purpose": "draft", "model": "stub", "messages": [{"role": "user", "content": f"Question {number}"}]}
    return Call(**(values | {"sampling": {"temperature": 1.0, "max_tokens": 64}} | changes))


def client(server: StubServer, ledger: Ledger, budget: float | None = None, **endpoint: Any) -> PaidClient:
    time = endpoint.pop("time", None) or Time()
    rng = endpoint.pop("rng", None) or random.Random(0)
    values = {"timeout": 30.0, "prompt_price": 2.5, "completion_price": 10.0} | endpoint
    return PaidClient(
        Endpoint(server.url, "stub", **values), ledger, budget, clock=time.clock, sleep=time.sleep, rng=rng
    )


def ask(server: StubServer, ledger: Ledger, *calls: Call, images: Any = (), **endpoint: Any) -> list[Reply]:
    async def run() -> list[Reply]:
        async with client(server, ledger, **endpoint) as asking:
            return await asyncio.gather(*(asking.complete(each, images) for each in calls))

    return asyncio.run(run())


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def picture(tmp_path):
    """`picture("red", 64, 28)`: a stored image."""

    def make(color: str, width: int = 56, height: int = 28) -> ImageRef:
        path = tmp_path / f"{color}.png"
        Image.new("RGB", (width, height), color).save(path)
        return ImageRef(str(path), width, height, hashlib.sha256(path.read_bytes()).hexdigest(), "0" * 16)

    return make


# --- What is sent, and what is kept -------------------------------------------------------------------------


def test_a_reply_is_paid_once_and_kept_with_its_cost(ledger):
    with StubServer(lambda request, rng: "x" * 39) as server:
        (first,) = ask(server, ledger, call())
        (second,) = ask(server, ledger, call())
    assert first == second == ledger.get(call())
    assert server.stats()["requests"] == 1
    # The stub counts a token for four bytes: "Question 0" has 3, the reply 10; 2.5 and 10 for a million.
    assert (first.prompt_tokens, first.completion_tokens, first.outcome, first.model) == (3, 10, "ok", "stub")
    assert first.cost == pytest.approx((3 * 2.5 + 10 * 10) / 1e6)
    assert ledger.spent().cost == first.cost
    assert ledger.spent().maybe_paid == 0


def test_other_draws_are_other_calls(ledger):
    with StubServer() as server:
        ask(server, ledger, *(call(draw=draw) for draw in range(3)), call(purpose="refine"), call(0))
    assert server.stats()["paid"] == server.stats()["distinct"] == 4


def test_images_are_sent_as_they_are_stored_between_the_texts(ledger, picture):
    red, blue = picture("red"), picture("blue")
    seen: list[Mapping[str, Any]] = []
    content = [
        {"type": "text", "text": 'A "quoted" é\n'},
        {"type": "image", "sha256": blue.sha256},
        {"type": "image", "sha256": red.sha256},
        {"type": "text", "text": f"and {red.sha256}?"},
        {"type": "image", "sha256": blue.sha256},
    ]
    messages = [{"role": "system", "content": "Look."}, {"role": "user", "content": content}]
    with StubServer(lambda request, rng: seen.append(request) or "seen") as server:
        ask(server, ledger, call(messages=messages), images=(red, blue))
    (request,) = seen

    def url(image: ImageRef) -> dict[str, Any]:
        data = base64.b64encode(Path(image.path).read_bytes()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    assert request == {
        "model": "stub",
        "messages": [
            messages[0],
            {"role": "user", "content": [content[0], url(blue), url(red), content[3], url(blue)]},
        ],
        "temperature": 1.0,
        "max_tokens": 64,
    }


def test_the_field_for_max_tokens_is_the_endpoint_s(ledger):
    seen: list[Mapping[str, Any]] = []
    with StubServer(lambda request, rng: seen.append(request) or "seen") as server:
        ask(server, ledger, call(), max_tokens_field="max_completion_tokens")
    assert seen[0]["max_completion_tokens"] == 64
    assert "max_tokens" not in seen[0]


def test_nothing_of_the_environment_is_sent(ledger, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-endpoint")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another-endpoint")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-another-endpoint")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Of: another-endpoint\nAuthorization: Bearer of-another-endpoint")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("TEACHER_KEY", f"{KEY}\n")  # as `$(cat file)` leaves it out and `read` does not
    heads: list[bytes] = []

    class Listening(StubServer):
        async def _complete(self, writer, headers, body):
            heads.append(repr(headers).encode())
            return await super()._complete(writer, headers, body)

    with Listening(api_key=KEY) as server:
        (reply,) = ask(server, ledger, call(), api_key_env="TEACHER_KEY")
    assert reply.outcome == "ok"
    assert b"another-endpoint" not in heads[0]
    assert heads[0].count(KEY.encode()) == 1


# --- Every fault --------------------------------------------------------------------------------------------

AGAIN = {  # fault: whether the request may have been paid for
    "429": False, "burst": False, "500": False, "503": False, "echo": False, "hang": True, "reset": True,
    "reset_late": True, "half_json": True, "html": True, "no_choices": True,
}  # fmt: skip
ANSWERS = {
    "refusal": "refused", "length": "truncated", "content_filter": "filtered", "filtered": "filtered",
    "no_usage": "ok", "413": "image_too_large", "400": "bad_request",
}  # fmt: skip
STOPS = {"401": "key is refused", "quota": "cannot pay for more"}


def test_every_fault_is_tested():
    assert sorted([*AGAIN, *ANSWERS, *STOPS]) == sorted(FAULTS)


@pytest.mark.parametrize("fault", AGAIN)
def test_what_may_pass_is_tried_again(ledger, fault, caplog):
    with StubServer(script=[fault], burst=3) as server:
        (reply,) = ask(server, ledger, call(), timeout=1.5 if fault == "hang" else 30.0)
    assert reply.outcome == "ok"
    assert server.stats()["requests"] == (4 if fault == "burst" else 2)
    assert ledger.spent().maybe_paid == AGAIN[fault]
    most = client(server, ledger).estimate(call())
    assert ledger.spent().maybe_cost == pytest.approx(most * AGAIN[fault])
    assert len(caplog.records) == 1  # said once


@pytest.mark.parametrize("fault", ANSWERS)
def test_an_answer_is_an_outcome(ledger, fault):
    with StubServer(script=[fault]) as server:
        (reply,) = ask(server, ledger, call())
        assert reply.outcome == ANSWERS[fault]
        assert ledger.spent().maybe_paid == 0
        assert ledger.get(call()) == (reply if reply.outcome.ledgered else None)
        (later,) = ask(server, ledger, call())
    assert later.outcome == (reply.outcome if reply.outcome.ledgered else "ok")


@pytest.mark.parametrize("fault", STOPS)
def test_what_concerns_all_calls_stops_the_run_and_is_not_paid(ledger, fault, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with StubServer(script=[None, fault]) as server:

        async def run() -> None:
            async with client(server, ledger, api_key_env="TEACHER_KEY") as asking:
                await asking.complete(call(0))
                with pytest.raises(EndpointError, match=STOPS[fault]) as first:
                    await asking.complete(call(1))
                with pytest.raises(EndpointError, match=STOPS[fault]):
                    await asking.complete(call(2))
                assert "$TEACHER_KEY" in str(first.value)
                assert KEY not in str(first.value)
                assert (await asking.complete(call(0))).outcome == "ok"  # what is paid for is to be had

        asyncio.run(run())
    assert server.stats()["requests"] == 2
    assert ledger.spent().maybe_paid == 0


def test_a_reply_of_blanks_is_empty(ledger):
    with StubServer(lambda request, rng: " \n") as server:
        assert ask(server, ledger, call())[0].outcome == "empty"


def test_without_token_counts_a_reply_costs_the_most(ledger):
    with StubServer(script=["no_usage"]) as server:
        (reply,) = ask(server, ledger, call())
        assert reply.cost == client(server, ledger).estimate(call())
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def test_all_faults_together_lose_nothing_and_make_no_finished_call_twice(ledger):
    shares = dict.fromkeys((fault for fault in AGAIN if fault != "hang"), 0.03)
    calls = [call(number) for number in range(80)]
    with StubServer(faults=shares, burst=5) as server:
        replies = ask(server, ledger, *calls, *calls, concurrency=16)
        assert {reply.outcome for reply in replies} == {"ok"}
        assert replies[:80] == replies[80:] == ask(server, ledger, *calls)
        # A call is paid twice only where its first answer was lost on the way, and then it is known that it may be.
        lost = sum(server.faults_made[fault] for fault in ("reset_late", "half_json", "html", "no_choices"))
        assert server.stats()["distinct"] == 80
        assert server.stats()["paid"] == 80 + lost
        assert ledger.spent().maybe_paid == lost + server.faults_made["reset"]


# --- Waiting ------------------------------------------------------------------------------------------------


def test_the_wait_doubles_up_to_a_minute_and_the_call_is_then_unavailable(ledger):
    time = Time()
    with StubServer(faults={"500": 1.0}) as server:
        (reply,) = ask(server, ledger, call(), time=time, rng=Longest(), max_retries=8)
    assert time.slept == [1, 2, 4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT]
    assert reply.outcome == "unavailable"
    assert "9 attempts" in reply.text
    assert "HTTP 500" in reply.text
    assert ledger.get(call()) is None
    assert server.stats()["requests"] == 9


def test_what_may_be_paid_each_time_is_not_tried_as_often(ledger):
    with StubServer(faults={"hang": 1.0}) as server:
        (reply,) = ask(server, ledger, call(), timeout=0.2)
    assert reply.outcome == "unavailable"
    assert "no whole answer within 0.2 s" in reply.text
    assert server.stats()["requests"] == ledger.spent().maybe_paid == DOUBTFUL


def test_jitter_is_full(ledger):
    time = Time()
    with StubServer(faults={"500": 1.0}) as server:
        ask(server, ledger, *(call(number) for number in range(12)), time=time, max_retries=1)
    assert len(set(time.slept)) == 12
    assert min(time.slept) < 0.3 < 0.7 < max(time.slept) < 1.0


@pytest.mark.parametrize("fault", ["429", "503"])
def test_retry_after_holds_everybody(ledger, fault):
    time = Time()
    arrived: list[float] = []
    with StubServer(lambda request, rng: arrived.append(time.now) or "x", script=[fault], retry_after="7") as server:

        async def run() -> None:
            async with client(server, ledger, time=time, concurrency=2) as asking:
                turned_down = asyncio.ensure_future(asking.complete(call(0)))
                while not server.faults_made:
                    await asyncio.sleep(0.001)
                while not time.slept:
                    await asyncio.sleep(0.001)
                await asyncio.gather(turned_down, asking.complete(call(1)))

        asyncio.run(run())
    assert len(arrived) == 2
    assert min(arrived) >= 7


def test_an_absurd_retry_after_is_cut(ledger):
    time = Time()
    with StubServer(script=["429"], retry_after="1e9") as server:
        assert ask(server, ledger, call(), time=time, rng=Longest())[0].outcome == "ok"
    assert max(time.slept) == LONGEST_RETRY_AFTER + 1


def test_concurrency_is_kept(ledger):
    with StubServer(latency=0.02) as server:
        ask(server, ledger, *(call(number) for number in range(40)), concurrency=5)
    assert server.stats()["most_at_once"] == 5


def test_requests_and_tokens_a_minute_are_kept(ledger):
    time, begin = Time(), ledger.begin
    sent: list[float] = []
    ledger.begin = lambda *arguments: sent.append(time.now) or begin(*arguments)
    with StubServer() as server:
        ask(server, ledger, *(call(number) for number in range(25)), time=time, requests_per_minute=10)
        assert max(sum(0 <= other - at <= 60 for other in sent) for at in sent) == 10
        # A prompt counts for 26 or 27 tokens and a reply for 64 until it is known that they were 3 and 12.
        sent.clear()
        calls = [call(number, purpose="refine") for number in range(40)]
        ask(server, ledger, *calls, time=time, tokens_per_minute=200, concurrency=8)
    within = max(sum(0 <= other - at <= 60 for other in sent) for at in sent)
    assert 2 < within <= 200 // 15


# --- When nothing gets through ------------------------------------------------------------------------------


def test_a_dead_endpoint_stops_the_run(ledger):
    with StubServer() as server:
        ask(server, ledger, call(0))

    async def run() -> list[Any]:
        async with client(server, ledger, concurrency=4) as asking:
            replies = await asyncio.gather(*(asking.complete(call(n)) for n in range(100)), return_exceptions=True)
            assert replies[0].outcome == "ok"
            return replies[1:]

    replies = asyncio.run(run())
    unavailable = [reply for reply in replies if isinstance(reply, Reply)]
    assert {reply.outcome for reply in unavailable} == {"unavailable"}
    assert GIVE_UP <= len(unavailable) < GIVE_UP + 4
    stopped = [reply for reply in replies if isinstance(reply, StopRun)]
    assert len(stopped) == len(replies) - len(unavailable)
    assert "no connection" in str(stopped[0])
    assert ledger.spent().maybe_paid == 0  # nothing was sent


def test_an_answer_now_and_then_keeps_it_going(ledger):
    with StubServer(script=(["500"] * (GIVE_UP - 1) + [None]) * 3) as server:
        calls = [call(number) for number in range(3 * GIVE_UP)]
        replies = ask(server, ledger, *calls, max_retries=0, concurrency=1)
    assert Counter(reply.outcome for reply in replies) == {"unavailable": 3 * (GIVE_UP - 1), "ok": 3}


@pytest.mark.parametrize(("fault", "says"), [("400", "no such parameter"), ("413", "too large")])
def test_requests_that_are_all_turned_down_stop_the_run(ledger, monkeypatch, fault, says):
    monkeypatch.setattr(client_module, "TURNED_DOWN", 5)
    with StubServer(faults={fault: 1.0}) as server, pytest.raises(EndpointError, match=says):
        ask(server, ledger, *(call(number) for number in range(20)), concurrency=1)
    assert server.stats()["requests"] == 5


def test_why_requests_are_turned_down_is_said_once(ledger, caplog):
    with StubServer(faults={"400": 1.0}) as server:
        ask(server, ledger, *(call(number) for number in range(5)))
    assert ["no such parameter" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("given", [KEY, "gsk_0123456789abcdef", "$OPENAI_API_KEY", "TWO WORDS"])
def test_a_key_in_place_of_its_variable_s_name_is_not_repeated(given):
    with pytest.raises(ValueError, match="name of an environment variable") as error:
        Endpoint("http://localhost/v1", "stub", api_key_env=given)
    assert given not in str(error.value)


def test_a_server_that_is_restarted_is_asked_on(ledger):
    server = StubServer(latency=0.02)
    server.start()

    time = Time()

    async def run() -> list[Reply]:
        async with client(server, ledger, time=time, concurrency=8, max_retries=1000) as asking:
            replies = [asyncio.ensure_future(asking.complete(call(number))) for number in range(40)]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(server.stop)
            while len(time.slept) < 20:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(server.start)
            return await asyncio.gather(*replies)

    replies = asyncio.run(run())
    assert {reply.outcome for reply in replies} == {"ok"}
    assert ledger.spent().calls == 40
    server.stop()


# --- At the same time ---------------------------------------------------------------------------------------


def test_equal_calls_are_one_request(ledger):
    with StubServer(latency=0.05) as server:
        replies = ask(server, ledger, *([call()] * 10))
    assert len({*replies}) == 1
    assert server.stats()["requests"] == 1


def test_who_stops_waiting_does_not_stop_the_request(ledger):
    with StubServer(latency=0.1) as server:

        async def run() -> None:
            async with client(server, ledger) as asking:
                impatient = asyncio.ensure_future(asking.complete(call()))
                patient = asyncio.ensure_future(asking.complete(call()))
                await asyncio.sleep(0.05)
                impatient.cancel()
                assert (await patient).outcome == "ok"

        asyncio.run(run())
    assert server.stats()["requests"] == 1


def test_a_request_that_is_given_up_may_have_been_paid(ledger):
    with StubServer(script=["hang"]) as server:

        async def run() -> None:
            async with client(server, ledger) as asking:
                waiting = asyncio.ensure_future(asking.complete(call()))
                while not server.faults_made:
                    await asyncio.sleep(0.001)
                waiting.cancel()

        asyncio.run(run())
        assert (ledger.spent().calls, ledger.spent().maybe_paid, ledger.in_flight) == (0, 1, 0)
        assert ledger.spent().maybe_cost == client(server, ledger).estimate(call())
        assert ask(server, ledger, call())[0].outcome == "ok"
    assert (ledger.spent().calls, ledger.spent().maybe_paid) == (1, 1)


# --- Budget -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cheap():
    """A server whose replies take 1 to 9 ms and cost between a little and nearly the most."""

    async def reply(request: Mapping[str, Any], rng: random.Random) -> str:
        await asyncio.sleep(rng.uniform(0.001, 0.009))
        return "x" * rng.randrange(4, 4 * request["max_tokens"])

    with StubServer(reply, faults={"500": 0.1, "reset": 0.05, "reset_late": 0.05}) as server:
        yield server


@settings(max_examples=8)
@given(
    prices=st.tuples(st.floats(0, 100), st.floats(0.01, 100)),
    share=st.floats(0, 1.5),
    concurrency=st.integers(1, 8),
    others=st.integers(0, 2),
    data=st.data(),
)
def test_the_budget_is_never_exceeded(cheap, prices, share, concurrency, others, data):
    # Several clients of one ledger, as student and teacher are.
    tag = data.draw(st.integers(0, 10**9))
    calls = [call(number, purpose=f"p{tag}") for number in range(10)]
    endpoint = {"prompt_price": prices[0], "completion_price": prices[1], "concurrency": concurrency}
    with Ledger(":memory:") as ledger:
        most = client(cheap, ledger, **endpoint).estimate(calls[0])
        budget = share * 10 * most
        begin = ledger.begin

        def checked(*arguments: Any) -> int:
            number = begin(*arguments)
            spent = ledger.spent()
            assert spent.cost + spent.maybe_cost <= budget * (1 + 1e-9)
            return number

        ledger.begin = checked  # type: ignore[method-assign]

        async def run(budget: float) -> list[Any]:
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(client(cheap, ledger, budget, **endpoint))
                    for _ in range(1 + others)
                ]
                asked = [clients[i % len(clients)].complete(each) for i, each in enumerate(calls)]
                return await asyncio.gather(*asked, return_exceptions=True)

        ends = asyncio.run(run(budget))
        assert {type(end) for end in ends} <= {Reply, BudgetReached}
        spent = ledger.spent()
        assert spent.cost + spent.maybe_cost <= budget * (1 + 1e-9)
        assert spent.cost + spent.maybe_cost == pytest.approx(ledger.committed, abs=1e-12)
        done = [end for end in ends if isinstance(end, Reply) and end.outcome == "ok"]
        if any(isinstance(end, BudgetReached) for end in ends):
            assert spent.cost + spent.maybe_cost + most > budget  # it did not stop early
        # Resumed: what was done is not done again.
        ledger.begin = begin  # type: ignore[method-assign]
        before = dict(cheap.paid)
        again = asyncio.run(run(10**9))
        assert {end.outcome for end in again} == {"ok"}
        for each, end in zip(calls, ends, strict=True):
            if end in done:
                assert cheap.paid[each.key] == before[each.key]


def test_a_budget_smaller_than_the_reserve_of_all_connections_is_still_spent(ledger):
    # Each call reserves 1.0 and costs about a tenth: with room for one and a half, one goes after the other.
    with StubServer(lambda request, rng: "x" * 4 * 6, latency=0.001) as server:
        endpoint = {"prompt_price": 0.0, "completion_price": 1e6 / 64, "concurrency": 16}
        assert client(server, ledger, **endpoint).estimate(call()) == pytest.approx(1.0)

        async def run() -> list[Any]:
            async with client(server, ledger, 1.5, **endpoint) as asking:
                return await asyncio.gather(*(asking.complete(call(n)) for n in range(16)), return_exceptions=True)

        ends = asyncio.run(run())
    ok = [end for end in ends if isinstance(end, Reply)]
    # 7 tokens of 64 each: after the n-th, 0.109 n are spent, and another fits while that is at most 0.5.
    assert len(ok) == 5
    assert "budget of 1.5" in str(next(end for end in ends if isinstance(end, BudgetReached)))


def test_a_budget_counts_what_earlier_runs_may_have_paid(ledger):
    ledger.leave(ledger.begin(call(9), 5.0))
    with StubServer() as server, pytest.raises(BudgetReached, match="larger budget"):
        ask(server, ledger, call(), budget=5.0)
    assert server.stats()["requests"] == 0


def test_an_estimate_by_hand(ledger, picture):
    asking = PaidClient(Endpoint("http://localhost:1/v1", "stub", "", 2.0, 10.0), ledger)
    # 10 bytes: 3 tokens expected, 10 at most; 16 for the template; 56 x 28 pixels are 2 patches, at least 4 tokens.
    assert asking.estimate(call(), (), 20) == pytest.approx(((3 + 16) * 2 + 20 * 10) / 1e6)
    assert asking.estimate(call(), ()) == pytest.approx(((10 + 16) * 2 + 64 * 10) / 1e6)
    assert asking.estimate(call(), (picture("red"),), 0) == pytest.approx((3 + 16 + 4) * 2 / 1e6)


def test_a_rule_that_counts_too_little_of_an_image_is_said_once(ledger, picture, caplog):
    images = (picture("red"),)
    chat = [{"role": "user", "content": [{"type": "image", "sha256": images[0].sha256}]}]
    # The server counts 101 for the image. 16 for the template, and 4 by the one rule, 255 by the other.
    with StubServer() as server:
        ask(server, ledger, call(0, messages=chat), images=images, vision="tiles")
        assert not caplog.records
        ask(server, ledger, *(call(0, messages=chat, draw=draw) for draw in (1, 2)), images=images, vision="qwen2.5")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "'qwen2.5' for images gives 20 at most" in said


# --- Images that cannot be sent -----------------------------------------------------------------------------


def test_an_image_that_cannot_be_sent_is_its_question_s_affair(ledger, picture, tmp_path):
    whole, gone = picture("red"), replace(picture("blue"), path=str(tmp_path / "gone.png"))
    other = replace(picture("green"), sha256="0" * 64)

    def about(image: ImageRef) -> Call:
        return call(messages=[{"role": "user", "content": [{"type": "image", "sha256": image.sha256}]}])

    with StubServer() as server:
        replies = ask(server, ledger, *map(about, (whole, gone, other)), images=(whole, gone, other))
        assert [reply.outcome for reply in replies] == ["ok", "bad_image", "bad_image"]
        assert "gone.png" in replies[1].text
        assert "digest" in replies[2].text
        (large,) = ask(server, ledger, call(1, messages=about(whole).messages, draw=1), images=(whole,),
                       max_request_bytes=200)  # fmt: skip
        assert large.outcome == "image_too_large"
        (long,) = ask(server, ledger, call(2), max_request_bytes=20)
        assert long.outcome == "bad_request"
    assert server.stats()["requests"] == 1


def test_images_are_brought_under_the_endpoint_s_limits(ledger, picture):
    image = picture("red", 400, 300)
    sizes: list[tuple[int, int]] = []

    def look(request: Mapping[str, Any], rng: random.Random) -> str:
        import io

        data = request["messages"][0]["content"][0]["image_url"]["url"].partition("base64,")[2]
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
        return "seen"

    asked = call(messages=[{"role": "user", "content": [{"type": "image", "sha256": image.sha256}]}])
    with StubServer(look) as server:
        ask(server, ledger, asked, images=(image,), max_image_pixels=30_000)
    assert sizes == [(200, 150)]


# --- Before anything is paid --------------------------------------------------------------------------------


def check(url: str, ledger: Ledger, **endpoint: Any) -> None:
    time = Time()

    async def run() -> None:
        values = {"model": "stub", "timeout": 1.0} | endpoint
        async with PaidClient(Endpoint(url, **values), ledger, clock=time.clock, sleep=time.sleep) as asking:
            await asking.check()

    asyncio.run(run())


def test_a_check_is_silent_when_all_is_well_and_costs_nothing(ledger):
    with StubServer() as server:
        check(server.url, ledger)
        check(server.url + "/", ledger)
    assert server.stats()["paid"] == 0


def test_a_check_says_what_is_wrong(ledger, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setenv("ODD_KEY", f"{KEY} {KEY}")
    with StubServer(api_key="sk-another") as server:
        url = server.url
        for changes, said in (
            ({"api_key_env": "NO_KEY"}, "environment variable NO_KEY is not set"),
            ({"api_key_env": "ODD_KEY"}, "ODD_KEY is not a key"),
            ({"api_key_env": "TEACHER_KEY"}, r"key is refused.*\[key\].*its key is that of \$TEACHER_KEY"),
            ({}, "key is refused.*no key is sent"),
        ):
            with pytest.raises(EndpointError, match=said) as error:
                check(url, ledger, **changes)
            assert KEY not in str(error.value)
    with pytest.raises(EndpointError, match=r"nobody answers \(no connection\): is it running"):
        check(url, ledger)
    with StubServer() as server:
        with pytest.raises(EndpointError, match="there is no model 'gpt-5'; there are: stub"):
            check(server.url, ledger, model="gpt-5")
        with pytest.raises(
            EndpointError, match="not an OpenAI-compatible endpoint, or its base URL is a different one"
        ):
            check(server.url.removesuffix("/v1"), ledger)
    assert ledger.spent().maybe_paid == 0


@pytest.mark.parametrize("listed", [None, ("models/stub", "models/other"), ("gpt-4o",)])
def test_a_model_that_is_served_is_found_whatever_the_list_says(ledger, listed, caplog):
    with StubServer(lambda request, rng: "yes", listed=listed) as server:
        check(server.url, ledger)
        check(server.url, ledger)
    known = listed is not None and "models/stub" in listed
    assert server.stats()["paid"] == (0 if known else 2), "each run knows of its own day"
    assert ledger.spent("probe").calls == server.stats()["paid"]
    assert ("the model is asked once" in caplog.text) is not known


def test_a_trial_request_that_is_not_taken_says_why(ledger):
    with (
        StubServer(listed=None, script=["400"]) as server,
        pytest.raises(
            EndpointError, match=r"a trial request failed: HTTP 400: no such parameter; .* no list of models"
        ),
    ):
        check(server.url, ledger)


def test_a_budget_holds_for_a_trial_request(ledger):
    async def run() -> None:
        async with client(server, ledger, budget=1e-6) as asking:
            await asking.check()

    with StubServer(listed=None) as server, pytest.raises(BudgetReached):
        asyncio.run(run())
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_in_a_field_of_its_own_is_kept_and_is_not_text(ledger, name):
    with StubServer(lambda request, rng: {"content": "B", name: "Long thoughts."}) as server:
        (reply,) = ask(server, ledger, call())
    assert (reply.text, reply.reasoning) == ("B", "Long thoughts.")
    assert ledger.get(call()) == reply


def serving(answer: bytes, ledger: Ledger, *, by_proxy: bool = False) -> str:
    """What a check says of a server that gives this answer to everything, "" if it is content."""

    async def run() -> str:
        async def answered(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(answered, "127.0.0.1", 0)
        at = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoint = Endpoint("http://model.invalid/v1", "stub", proxy=at) if by_proxy else Endpoint(f"{at}/v1", "stub")
        time = Time()
        try:
            async with PaidClient(endpoint, ledger, clock=time.clock, sleep=time.sleep) as asking:
                await asking.check()
        except EndpointError as error:
            return str(error)
        finally:
            server.close()
        return ""

    return asyncio.run(run())


def test_a_proxy_is_used_when_it_is_named(ledger):
    body = b'{"data": [{"id": "stub"}]}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert serving(answer, ledger, by_proxy=True) == ""
    assert "user" not in repr(Endpoint("http://model.invalid/v1", "stub", proxy="http://user:password@proxy"))


def test_servers_that_are_no_endpoints(ledger):
    page = b"<!doctype html><title>Welcome</title>"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    assert "no list of models" in serving(head % len(page) + page, ledger)
    assert "no list of models" in serving(head % 2 + b"[]", ledger)
    assert "no list of models" in serving(head % 19 + b'{"data": ["a", "b"]', ledger)
    moved = b"HTTP/1.1 301 Moved\r\nLocation: https://example.org/v1/models\r\nContent-Length: 0\r\n\r\n"
    assert "redirects to https://example.org/v1/models" in serving(moved, ledger)
    assert "nobody answers" in serving(b"SSH-2.0-OpenSSH_9.6\r\n", ledger)
    assert "nobody answers (HTTP 502)" in serving(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", ledger)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://user:sk-secret@example.org/v1", "contains credentials"),
        ("sk-secret@example.org/v1", "contains credentials"),
        ("https://example.org/v1?key=sk-secret", "contains credentials, a query"),
        ("localhost:8000/v1", "not the base URL"),
        ("ftp://example.org/v1", "not the base URL"),
        ("http://[::1/v1", "not the base URL"),
        ("http://localhost:99999/v1", "not the base URL"),
        ("", "not the base URL"),
    ],
)
def test_urls_that_are_none(url, said):
    with pytest.raises(ValueError, match=said) as error:
        Endpoint(url, "stub")
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"concurrency": 0},
        {"timeout": 0.0},
        {"timeout": math.inf},
        {"max_retries": -1},
        {"vision": "eyes"},
        {"prompt_price": -1.0},
        {"completion_price": math.inf},
        {"requests_per_minute": math.nan},
        {"max_image_pixels": -1},
        {"max_image_bytes": -1},
        {"max_request_bytes": 0},
        {"proxy": "user:sk-secret@proxy"},
        {"proxy": "ftp://user:sk-secret@proxy:21"},
    ],
)
def test_values_that_cannot_be(changes):
    with pytest.raises(ValueError, match={"vision": "eyes"}.get(*changes, *changes)) as error:
        Endpoint("http://localhost:8000/v1", "stub", **changes)
    assert "sk-secret" not in str(error.value)


# --- Keys ---------------------------------------------------------------------------------------------------


def test_the_key_is_nowhere(tmp_path, monkeypatch, caplog):
    """Not even where a server repeats it in errors, in names and in the reply."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    script = ["echo", None, "400", "413", "content_filter", *["echo"] * 2, "401"]
    path = tmp_path / "ledger.sqlite"

    class Chatty(StubServer):
        async def _send(self, writer, status, payload, headers=None, close=False):
            if status in (400, 413):
                payload["error"] |= {"message": f"{'x' * 290} {KEY}", "code": f"{payload['error']['code']}"}
            return await super()._send(writer, status, payload, headers, close)

    with Ledger(path) as ledger, Chatty(lambda request, rng: f"My key is {KEY}.", script=script) as server:

        async def run() -> None:
            async with client(server, ledger, api_key_env="TEACHER_KEY", max_retries=1) as asking:
                for number in range(6):
                    try:
                        reply = await asking.complete(call(number))
                        said.append(f"{reply} {ledger.get(call(number))}")
                    except StopRun as error:
                        said.append(f"{error} {error!r} {error.__cause__!r}")
                said.append(f"{asking.endpoint} {asking!r}")

        asyncio.run(run())
        wal = path.with_name(path.name + "-wal").read_bytes()
    everything = "\n".join([*said, caplog.text]).encode() + path.read_bytes() + wal
    assert "My key is [key]." in said[0]
    assert "key is refused" in said[5]
    assert KEY.encode() not in everything
    assert KEY[:12].encode() not in everything  # nor half of it
