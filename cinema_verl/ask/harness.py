"""A server for evaluation harnesses: it asks a policy as it was trained, and replies with the answer alone.

A harness knows neither the system prompt nor the names of images that a policy was taught with, allows a handful of
tokens, and looks for a letter in whatever comes back. This stands between it and the endpoint that serves the policy:
each question is asked in the policy's own manner, with room for a trajectory, and of the reply the harness sees what
stands in `<answer>`, or nothing where there is not exactly one. The whole reply is in `reasoning_content`.
"""

import asyncio
import json
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from cinema_verl.ask import pictures
from cinema_verl.ask.samples import NoSample, asked, chat_of
from cinema_verl.endpoint.client import Client
from cinema_verl.endpoint.settings import Endpoint, StopRun
from cinema_verl.export.manner import STOP, Manner

_IMAGE: Final = "<image>"
_KEPT: Final = ("temperature", "top_p", "seed")


class BadQuestion(ValueError):
    """The harness's request cannot be asked; the message says why."""


def question_of(messages: Any) -> tuple[str, list[str]]:
    """The text and the images' URLs of the one question in a harness's chat.

    Images between texts stay where they are, by `<image>`; where all come first, the policy's manner names them.

    Raises:
        BadQuestion: it is not one question of a user over images.
    """
    try:
        turns = [message for message in messages if message["role"] != "system"]
        if [turn["role"] for turn in turns] != ["user"]:
            raise BadQuestion("ask one question, in one message of the user: examples before it are not supported")
        parts = turns[0]["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        if len(urls) + sum(part["type"] == "text" for part in parts) != len(parts):
            raise BadQuestion("the parts of a question are text and image_url")
        texts = [part["text"] if part["type"] == "text" else None for part in parts]
    except (LookupError, TypeError) as error:
        raise BadQuestion(f"not a chat completion request: {error!r}") from error
    if not urls:
        raise BadQuestion("the question has no image")
    before = [text for text in texts[: len(texts) - texts[::-1].index(None)] if text is not None]
    if not any(text.strip() for text in before):
        return "".join(text for text in texts if text is not None).strip(), urls
    return "".join(_IMAGE if text is None else text.replace(_IMAGE, "<picture>") for text in texts), urls


def as_trained(body: Mapping[str, Any], manner: Manner, endpoint: Endpoint, max_tokens: int) -> dict[str, Any]:
    """A harness's request as the policy is asked: its own prompt, stop and room; the harness's sampling.

    Raises:
        BadQuestion: it cannot be asked.
    """
    if body.get("n") not in (None, 1) or body.get("stream"):
        raise BadQuestion("one whole reply for each request: leave out n and stream")
    text, urls = question_of(body.get("messages"))
    try:
        chat = chat_of(manner, text, [pictures.as_trained(url, manner) for url in urls])
    except ValueError as error:
        raise BadQuestion(str(error)) from error
    sampling = {name: body[name] for name in _KEPT if body.get(name) is not None}
    return {
        "temperature": 0,
        **sampling,
        "model": endpoint.model,
        "messages": chat,
        "stop": [STOP],
        endpoint.max_tokens_field: max_tokens,
    }


def application(endpoint: Endpoint, manner: Manner, name: str, max_tokens: int) -> FastAPI:
    """``/v1/models`` and ``/v1/chat/completions``; the policy is called `name`."""
    client = Client(endpoint)
    counted = {"replies": 0, "without": 0}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            if unlisted := await client.check():
                print(f"cinema-verl ask: {unlisted}", file=sys.stderr)
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "local"}]}

    @app.post("/v1/chat/completions")
    async def complete(http: Request) -> JSONResponse:
        try:
            body = json.loads(await http.body())
            question = await asyncio.to_thread(as_trained, body, manner, endpoint, max_tokens)
        except (ValueError, AttributeError) as error:
            return _error(400, "invalid_request_error", str(error))
        try:
            sample = await asked(client, question)
        except (NoSample, StopRun) as error:
            return _error(502, "server_error", str(error))
        answer = sample.read(manner.native_reasoning).trajectory.answer
        counted["replies"] += 1
        if answer is None:
            counted["without"] += 1
            print(
                f"cinema-verl ask: {counted['without']} of {counted['replies']} replies had not exactly one <answer>; "
                f"the harness gets an empty one (this one ended by {sample.finish_reason or 'nothing known'})",
                file=sys.stderr,
            )
        return JSONResponse(_reply(name, answer or "", sample.reasoning + sample.text, sample.finish_reason))

    return app


def serve(app: FastAPI, port: int) -> int:
    """Serve until interrupted; the first line of standard output is the base URL."""
    listening = socket.create_server(("127.0.0.1", port))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listening])
    return 0 if server.started else 1


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": code, "param": None, "code": code}}, status)


def _reply(name: str, answer: str, trajectory: str, finish_reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer, "reasoning_content": trajectory, "refusal": None}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
    }
