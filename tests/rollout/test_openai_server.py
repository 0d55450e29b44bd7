"""The local server: a real model over HTTP, asked as an OpenAI endpoint is asked, and in the wrong ways."""

import base64
import io
import json

import httpx
import pytest
from PIL import Image

from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.rollout.openai_server import Model, application


@pytest.fixture(scope="module")
def model():
    return Model(digits_cold_start())


@pytest.fixture
def ask(model):
    """`ask({…})`: (status, JSON) of a chat completion; `ask(a, b)`: of several at once."""
    import asyncio

    async def all_of(bodies):
        app = application(model, "tiny")
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://local", timeout=60) as client,
        ):
            calls = [
                client.post("/v1/chat/completions", content=body)
                if isinstance(body, bytes)
                else client.post("/v1/chat/completions", json=body)
                for body in bodies
            ]
            return [(reply.status_code, reply.json()) for reply in await asyncio.gather(*calls)]

    def ask(*bodies):
        replies = asyncio.run(all_of(bodies))
        return replies if len(replies) > 1 else replies[0]

    return ask


def url(side: int = 28) -> str:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 255).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def body(**changes):
    content = [
        {"type": "text", "text": "Image A: "},
        {"type": "image_url", "image_url": {"url": url()}},
        {"type": "text", "text": "\nWhich digit is shown?"},
    ]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 24} | changes


def test_a_completion_is_what_openai_s_is(ask):
    status, reply = ask(body(temperature=0))
    assert status == 200
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].endswith("</answer>")
    assert choice["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 24


def test_a_reply_that_is_cut_off_says_so(ask):
    status, reply = ask(body(max_tokens=2))
    assert (status, reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == (200, "length", 2)


def test_a_seed_gives_the_same_words_alone_and_in_company(ask):
    alone = ask(body(seed=7))[1]["choices"][0]["message"]["content"]
    together = ask(*(body(seed=seed) for seed in (3, 7, 11, 13)))
    texts = [reply["choices"][0]["message"]["content"] for _, reply in together]
    assert texts[1] == alone
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": 2}, "one choice"),
        ({"logprobs": True}, "not supported: logprobs"),
        ({"messages": "hello"}, "chat completion"),
        ({"max_tokens": -3}, "max_tokens=-3"),
        ({"top_p": 2.0}, "top_p"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "has room for"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "'audio'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]}]},
         "data:image"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}, "cannot be decoded"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_400_that_says_why(ask, change, says):
    status, reply = ask(body(**change))
    assert status == 400
    assert says in reply["error"]["message"]


def test_half_a_json_and_another_model(ask):
    assert ask(b'{"model": "tiny", "mess')[0] == 400
    assert ask(b"[]")[0] == 400
    status, reply = ask(body(model="gpt-9"))
    assert (status, reply["error"]["code"]) == (404, "model_not_found")


def test_the_list_of_models_names_it(model):
    from fastapi.testclient import TestClient

    with TestClient(application(model, "tiny")) as client:
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny"]


def test_a_batch_that_fails_is_a_server_error_and_the_next_one_is_served(ask, monkeypatch):
    from cinema_verl.rollout import openai_server

    whole, failed = openai_server.generate, []

    def fails_once(policy, requests, watch):
        if not failed:
            failed.append(1)
            raise RuntimeError("out of memory")
        return whole(policy, requests, watch)

    monkeypatch.setattr(openai_server, "generate", fails_once)
    status, reply = ask(body())
    assert (status, reply["error"]["code"]) == (500, "server_error")
    assert ask(body())[0] == 200
    assert json.dumps(reply)
