"""What an answer means, whatever it is."""

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.endpoint.ledger import Call, Ledger
from cinema_verl.endpoint.outcomes import Again, Outcome, Reply, Stop, Unlisted, models, read, retry_after

KEY = "sk-proj-0123456789abcdefghij"


def completion(content="hello", reason="stop", **message) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return json.dumps(
        {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    ).encode()


def error(message="no", code=None, kind=None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()


@pytest.mark.parametrize(
    ("body", "outcome", "text"),
    [
        (completion(), "ok", "hello"),
        (completion([{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]), "ok", "hello"),
        (completion(reason="length"), "truncated", "hello"),
        (completion(None, reason="length"), "truncated", ""),  # a model that thought until the end
        (completion(None, refusal="I cannot."), "refused", "I cannot."),
        (completion("", reason="content_filter"), "filtered", ""),
        (completion(None), "empty", ""),
        (completion(" \n"), "empty", " \n"),
        (completion("hello", reason=None), "ok", "hello"),
    ],
)
def test_completions(body, outcome, text):
    reply = read(200, {}, body)
    assert isinstance(reply, Reply)
    assert (reply.outcome, reply.text, reply.prompt_tokens, reply.completion_tokens) == (outcome, text, 7, 2)


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, error(code="content_filter"), "filtered"),
        (403, error(kind="moderation_flagged"), "filtered"),
        (400, error("too long", "context_length_exceeded"), "bad_request"),
        (422, b'{"detail": [{"loc": ["seed"]}]}', "bad_request"),
        (413, b"<html>413 Request Entity Too Large</html>", "image_too_large"),
        (400, error(code="image_too_large"), "image_too_large"),
        (400, error(code="invalid_image_format"), "bad_image"),
    ],
)
def test_errors_that_are_the_call_s(status, body, outcome):
    assert read(status, {}, body).outcome == outcome


@pytest.mark.parametrize(
    ("status", "body", "maybe_paid"),
    [
        (408, b"", True), (409, b"", False), (425, b"", False), (429, error(code="rate_limit_exceeded"), False),
        (500, b"", False), (502, b"<html>", True), (503, b"", False), (504, b"", True), (524, b"", True),
        (529, b"", False),
        (200, error("upstream", 502), True),  # a gateway's
        (200, error("slow down", 429), False),
        (200, b"", True), (200, b"[]", True), (200, b'{"choices": []}', True), (200, b'{"choices": [{}]}', True),
        (200, completion()[:-20], True), (200, completion(reason="error"), True), (200, completion(17), True),
        (200, b"[" * 100_000, True),
    ],
)  # fmt: skip
def test_errors_that_may_pass(status, body, maybe_paid):
    again = read(status, {}, body)
    assert isinstance(again, Again)
    assert again.maybe_paid == maybe_paid


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, error("bad key"), "key is refused"),
        (403, error("not yours"), "no access"),
        (404, error("no such model", "model_not_found"), "no such model"),
        (400, error("no such model", "model_not_found"), "no such model"),
        (405, b"", "no endpoint at this address"),
        (429, error("quota", "insufficient_quota"), "cannot pay"),
        (402, b"", "cannot pay"),
        (307, b"", "redirects to https://elsewhere/"),
    ],
)
def test_errors_that_stop_the_run(status, body, said):
    stop = read(status, {"location": "https://elsewhere/"}, body)
    assert isinstance(stop, Stop)
    assert said in stop.why


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "refusal", "usage", "prompt_tokens", "error", "code",
                         "finish_reason", "model", "data", "id", "text"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(st.integers(200, 599), st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_read_and_can_be_kept(status, body):
    result = read(status, {}, body, KEY)
    assert isinstance(result, Reply | Again | Stop)
    assert isinstance(models(status, {}, body, KEY), list | Again | Stop | Unlisted)
    if isinstance(result, Reply):
        with Ledger(":memory:") as ledger:
            ledger.put(Call("draft", "m", []), Reply(result.text, result.finish_reason, Outcome.OK, model=result.model))


def test_halves_of_characters_can_be_kept():
    reply = read(200, {}, rb'{"choices": [{"message": {"content": "a\ud83d b"}, "finish_reason": "stop\udc00"}]}')
    assert (reply.text, reply.finish_reason) == ("a? b", "stop?")


@pytest.mark.parametrize("tokens", [-1, 1.5, "7", None, 10**30, [3]])
def test_token_counts_that_are_none(tokens):
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": tokens}}).encode()
    assert (read(200, {}, body).prompt_tokens, read(200, {}, body).completion_tokens) == (-1, -1)


@given(st.integers(0, 2000), st.sampled_from("x "), st.booleans())
def test_no_part_of_a_key_is_left(before, filling, as_json):
    said = f"{filling * before} Bearer {KEY} was refused"
    stop = read(401, {}, error(said) if as_json else said.encode(), KEY)
    assert not any(KEY[:length] in stop.why for length in range(8, len(KEY) + 1))
    assert len(stop.why) < 400


def test_a_short_key_is_blotted_out_of_errors_and_not_out_of_trajectories():
    assert read(200, {}, completion("an EMPTY box"), "EMPTY").text == "an EMPTY box"
    assert read(200, {}, completion(f"the key {KEY}"), KEY).text == "the key [key]"
    assert "EMPTY" not in read(401, {}, error("wrong key EMPTY"), "EMPTY").why


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "0.5"}, 0.5), ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25), ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None), ({"retry-after": "inf"}, None), ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2.0), ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
    ],
)  # fmt: skip
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    assert 50 < retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) <= 100


def test_lists_of_models():
    assert models(200, {}, b'{"data": [{"id": "a"}, {"id": "b"}]}') == ["a", "b"]
    for status, body in ((200, b'{"data": []}'), (404, b""), (200, b"<html>")):
        assert isinstance(models(status, {}, body), Unlisted)
    assert isinstance(models(503, {}, b""), Again)
    assert "key is refused" in models(401, {}, error()).why
