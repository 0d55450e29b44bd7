"""A scripted OpenAI-compatible server on loopback that can fail in every way that a client must handle.

It writes HTTP to sockets itself, because no web framework can make the faults: a reset in the middle of a body, a body
that is shorter than announced, silence. Which request fails, and how, depends on the seed, the call and its number of
attempts, not on the order of arrival, so a run with faults can be repeated.

    python -m cinema_verl.demo.stub_server --port 8000 --fault 429=0.1 --fault reset=0.02
    curl http://127.0.0.1:8000/v1/models
    curl http://127.0.0.1:8000/stats
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib
import inspect
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

Responder = Callable[[Mapping[str, Any], random.Random], "str | Mapping[str, Any] | Awaitable[str | Mapping[str, Any]]"]
"""Makes the model's text, or a message with more fields than ``content``, from the request's JSON and a generator that
is seeded by the server's seed and the call."""

FAULTS: Final[dict[str, str]] = {
    "429": "turned down, with Retry-After",
    "burst": "turned down, and so are the requests after it, `burst` in all",
    "quota": "turned down for good: 429 insufficient_quota",
    "500": "server error",
    "503": "overloaded, with Retry-After",
    "401": "the key is refused, and the error repeats the Authorization header",
    "echo": "server error that repeats the Authorization header",
    "hang": "the request is read and nothing is said",
    "reset": "the connection is reset before the model is asked",
    "reset_late": "the model has answered, and the connection is reset in the middle of the reply",
    "half_json": "half the reply, as if it were whole",
    "html": "a page instead of JSON",
    "no_choices": "a completion without choices",
    "refusal": "the model declines",
    "length": "half the text, finish_reason length",
    "content_filter": "the request is filtered: 400 content_filter",
    "filtered": "the reply is filtered: finish_reason content_filter",
    "no_usage": "a reply without token counts",
    "413": "the request is too large",
    "400": "the request is not understood",
}
"""Name -> what happens."""


def echo(request: Mapping[str, Any], rng: random.Random) -> str:
    """The default responder: a well-formed trajectory with an answer drawn from four letters."""
    return f"<think>One of four.</think>\n<answer>{rng.choice('ABCD')}</answer>"


class StubServer:
    """`with StubServer(responder, faults={"429": 0.1}) as server: … server.url`; it runs in a thread.

    Args:
        responder: Makes the model's text. A plain function blocks other requests while it runs; a coroutine does not.
        model: Name of its one model; other names get 404.
        latency: Seconds before each answer of the model.
        faults: Fault -> share of requests. All others succeed.
        script: Faults of the first requests in order of arrival, None for none; afterwards `faults` decides.
        seed: Seed of faults and responder.
        burst: Number of requests that a "burst" turns down.
        retry_after: The header's value with 429 and 503.
        api_key: If given, requests with other keys get 401.
        max_request_bytes: Larger requests get 413.
        listed: Names in its list of models, by default its one model; None for a server without a list.
        port: 0 for a free one.

    Attributes:
        url: Base URL, with ``/v1``.
        requests: Number of requests for each call, by its ``Idempotency-Key`` (without one, by the hash of its body).
        paid: Number of answers of the model to each call, which a provider would charge.
        faults_made: Number of times that each fault occurred.
    """

    def __init__(
        self,
        responder: Responder = echo,
        *,
        model: str = "stub",
        latency: float = 0.0,
        faults: Mapping[str, float] | None = None,
        script: Sequence[str | None] = (),
        seed: int = 0,
        burst: int = 20,
        retry_after: str = "0",
        api_key: str | None = None,
        max_request_bytes: int = 50 << 20,
        listed: Sequence[str] | None = ("",),
        port: int = 0,
    ) -> None:
        if unknown := (set(faults or ()) | {fault for fault in script if fault}) - set(FAULTS):
            raise ValueError(f"no fault is called {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
        self.responder, self.model, self.latency, self.seed = responder, model, latency, seed
        self.faults, self.script = dict(faults or {}), deque(script)
        self.burst, self.retry_after = burst, retry_after
        self.api_key, self.max_request_bytes, self.port = api_key, max_request_bytes, port
        self.listed = None if listed is None else [name or model for name in listed]
        self.requests: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.faults_made: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self._turned_down = 0  # requests that the present burst still turns down
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """Totals: requests, paid, distinct calls among the paid, faults by name."""
        return {
            "requests": self.requests.total(),
            "paid": self.paid.total(),
            "distinct": len(self.paid),
            "faults": dict(self.faults_made),
            "most_at_once": self.most_at_once,
        }

    # The server's life

    def __enter__(self) -> StubServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; on the same port if it was started before. Counts are kept."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stub-server", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result()

    def stop(self) -> None:
        """Stop as if killed: every connection is reset."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def listen(self) -> None:
        """Listen in the running loop."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        self._server.close()
        for writer in list(self._open):
            _reset(writer)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # One connection, one request

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is done."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        length = int(headers.get("content-length", 0))
        if length > self.max_request_bytes:
            await self._send(writer, 413, _error("request_too_large", "the request is too large"), close=True)
            return False
        body = await reader.readexactly(length)
        if (method, path) == ("GET", "/stats"):
            return await self._send(writer, 200, self.stats())
        if (method, path) == ("GET", "/calls"):
            return await self._send(writer, 200, {"requests": self.requests, "paid": self.paid})
        given = headers.get("authorization", "")
        if self.api_key is not None and given != f"Bearer {self.api_key}":
            return await self._send(writer, 401, _error("invalid_api_key", f"incorrect API key provided: {given}"))
        if (method, path) == ("GET", "/v1/models") and self.listed is not None:
            models = [{"id": name, "object": "model"} for name in self.listed]
            return await self._send(writer, 200, {"object": "list", "data": models})
        if (method, path) != ("POST", "/v1/chat/completions"):
            return await self._send(writer, 404, _error("unknown_url", f"unknown request URL: {method} {path}"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._complete(writer, headers, body)
        finally:
            self.at_once -= 1

    async def _complete(self, writer: asyncio.StreamWriter, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            request = json.loads(body)
            model, messages = request["model"], request["messages"]
        except (ValueError, LookupError, TypeError) as error:
            return await self._send(writer, 400, _error("invalid_request_error", f"not a chat completion: {error!r}"))
        if model != self.model:
            return await self._send(writer, 404, _error("model_not_found", f"the model {model!r} does not exist"))
        key = headers.get("idempotency-key") or hashlib.sha256(body).hexdigest()
        self.requests[key] += 1
        fault = self._fault(key)
        if fault:
            self.faults_made[fault] += 1
        retry = {"Retry-After": self.retry_after}
        authorization = headers.get("authorization", "")
        if fault in ("429", "burst"):
            return await self._send(writer, 429, _error("rate_limit_exceeded", "too many requests"), retry)
        if fault == "quota":
            return await self._send(writer, 429, _error("insufficient_quota", "you exceeded your current quota"))
        if fault == "401":
            return await self._send(writer, 401, _error("invalid_api_key", f"incorrect key: {authorization}"))
        if fault in ("500", "echo"):
            detail = f"failed on headers: {authorization}" if fault == "echo" else "internal error"
            return await self._send(writer, 500, _error("server_error", detail))
        if fault == "503":
            return await self._send(writer, 503, _error("overloaded", "try again later"), retry)
        if fault == "413":
            return await self._send(writer, 413, _error("request_too_large", "the image is too large"))
        if fault == "400":
            return await self._send(writer, 400, _error("invalid_request_error", "no such parameter"))
        if fault == "content_filter":
            return await self._send(writer, 400, _error("content_filter", "the prompt was filtered"))
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            return _reset(writer)
        return await self._answer(writer, request, messages, key, fault)

    async def _answer(
        self, writer: asyncio.StreamWriter, request: Mapping[str, Any], messages: Any, key: str, fault: str | None
    ) -> bool:
        if self.latency:
            await asyncio.sleep(self.latency)
        said = self.responder(request, random.Random(f"{self.seed}|{key}"))
        said = await said if inspect.isawaitable(said) else said
        self.paid[key] += 1
        more = {"content": said} if isinstance(said, str) else said
        message: dict[str, Any] = {"role": "assistant", "refusal": None, **more}
        text = message["content"]
        reason = "stop"
        if fault == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        elif fault == "length":
            message["content"], reason = text[: len(text) // 2], "length"
        elif fault == "filtered":
            message["content"], reason = "", "content_filter"
        prompt, completion = _count(messages), _count(text)
        payload = {
            "id": f"stub-{key[:12]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": []
            if fault == "no_choices"
            else [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
        }
        if fault == "no_usage":
            del payload["usage"]
        if fault == "html":
            return await self._send(writer, 200, b"<!doctype html><title>Welcome</title>")
        body = json.dumps(payload).encode()
        if fault == "half_json":
            return await self._send(writer, 200, body[: len(body) // 2])
        if fault == "reset_late":
            writer.write(_head(200, len(body), {}) + body[: len(body) // 2])
            await writer.drain()
            return _reset(writer)
        return await self._send(writer, 200, body)

    def _fault(self, key: str) -> str | None:
        if self.script:
            fault = self.script.popleft()
        elif self._turned_down > 0:
            self._turned_down -= 1
            return "429"
        else:
            draw = random.Random(f"{self.seed}|{key}|{self.requests[key]}").random()
            fault = None
            for name, share in self.faults.items():
                draw -= share
                if draw < 0:
                    fault = name
                    break
        if fault == "burst":
            self._turned_down = self.burst - 1
        return fault

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        payload: Any,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> bool:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        writer.write(_head(status, len(body), {**(headers or {}), **({"Connection": "close"} if close else {})}) + body)
        await writer.drain()
        return not close


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}", f"Content-Length: {length}"]
    lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close with RST: the peer sees "connection reset", not an orderly end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _count(content: Any) -> int:
    """Tokens by a rough rule: four bytes of text each, 100 for an image."""
    if isinstance(content, str):
        return len(content.encode()) // 4 + 1
    if isinstance(content, Mapping):
        if content.get("type") == "image_url":
            return 100
        return sum(_count(content[name]) for name in ("content", "text") if name in content)
    return sum(map(_count, content or ()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cinema_verl.demo.stub_server",
        description=__doc__,
        epilog="faults: " + "; ".join(f"{name} = {meaning}" for name, meaning in FAULTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="Port on 127.0.0.1; 0 for a free one. The first line printed is the base URL. (default: 0)",
    )
    parser.add_argument("--model", default="stub", help="Name of its model. (default: stub)")
    parser.add_argument("--latency", type=float, default=0.0, help="Seconds before each answer. (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="Seed of faults and responder. (default: 0)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=SHARE",
        help="Share of requests with this fault. May be repeated.",
    )
    parser.add_argument("--retry-after", default="0", help="Value of the header with 429 and 503. (default: 0)")
    parser.add_argument(
        "--responder", metavar="MODULE:FUNCTION", help="(request, rng) -> text. (default: one of four letters)"
    )
    parser.add_argument("--api-key-env", metavar="NAME", help="Environment variable with the only accepted key.")
    options = parser.parse_args(arguments)
    try:
        faults = {name: float(share) for name, share in (fault.split("=") for fault in options.fault)}
        responder = echo
        if options.responder:
            module, _, function = options.responder.partition(":")
            responder = getattr(importlib.import_module(module), function)
        server = StubServer(
            responder,
            model=options.model,
            latency=options.latency,
            faults=faults,
            seed=options.seed,
            retry_after=options.retry_after,
            api_key=os.environ[options.api_key_env] if options.api_key_env else None,
            port=options.port,
        )
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        parser.error(str(error))

    async def serve() -> None:
        await server.listen()
        print(server.url, flush=True)
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
