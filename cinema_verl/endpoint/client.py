"""One endpoint, asked as often as its limits and the budget allow, and never twice for the same thing.

A call goes ledger, budget, limits, HTTP, ledger: what is there is not asked, what is asked is noted before it is sent
with the most that it can cost, and what comes back is kept before anybody sees it. The HTTP is the `openai` package's,
without its retries; how answers are read is in `outcomes`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import openai

from cinema_verl.data.canonical import ImageRef
from cinema_verl.endpoint import outcomes
from cinema_verl.endpoint.images import DataURLs, ImageLimits, ImageProblem
from cinema_verl.endpoint.ledger import LEDGERED, Call, Ledger, Reply
from cinema_verl.endpoint.outcomes import Again, Stop, redact
from cinema_verl.endpoint.rate_limits import Limiter, Sent
from cinema_verl.endpoint.token_costs import VISION, prompt_tokens

log = logging.getLogger(__name__)

FIRST_WAIT: Final = 1.0
"""Seconds: the most before the first retry; doubled for each further one. Our choice."""
LONGEST_WAIT: Final = 60.0
"""Seconds: the most that the doubling comes to. Our choice: limits are per minute."""
LONGEST_RETRY_AFTER: Final = 300.0
"""Seconds: the most that an endpoint's Retry-After is followed. Our choice: one that asks for more is down, and the run
should come to say so."""
CONNECT: Final = 10.0
"""Seconds to connect. Our choice: three tries of TCP (at 0, 1 and 3 s) and time for TLS."""
KEEPALIVE: Final = 4.0
"""Seconds that an idle connection is kept: less than uvicorn's (and vLLM's) 5, or requests would meet its closing."""
DOUBTFUL: Final = 4
"""Attempts of a call that may each have been paid for, after which it is left to another run. Our choice: broken
connections come seldom in a row; replies that take longer than the time-out come every time, and are charged."""
CHECKS: Final = 4
"""Times that the list of models is asked for. Our choice: some seconds, for a server that is just starting."""
GIVE_UP: Final = 16
"""Calls in a row without an answer, after which the endpoint is gone. Our choice: each has had all its retries."""
TURNED_DOWN: Final = 256
"""Calls in a row that the endpoint will not take (requests, or their images), after which it is the run's fault and not
the questions'. Our choice: several times the usual concurrency, for these come back faster than answers."""
SETTLING: Final = 0.05
"""Seconds between looks at whether calls in flight have left room under the budget. Our choice: less than they take."""
DIGEST: Final = 64
"""Length of a SHA-256 in hex."""
UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""What fails before a request leaves."""
Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""
HEADERS: Final = frozenset(
    (b"accept", b"accept-encoding", b"authorization", b"connection", b"content-length", b"content-type", b"host")
) | {b"idempotency-key", b"user-agent"}
"""What is sent. The openai package would add headers from its environment variables (organization, custom ones), for
whatever endpoint."""


class StopRun(RuntimeError):
    """Something that concerns the whole run; it says what and what to do. What is done is in the ledger."""


class BudgetReached(StopRun):
    """The next call could exceed the budget. Run again with a larger one: nothing is lost."""


class EndpointError(StopRun):
    """No key, a wrong key, an unknown model, not an OpenAI endpoint, an account without credit, or unreachable."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to ask, and what it bears.

    Attributes:
        base_url: What comes before ``/chat/completions``: it usually ends in ``/v1``.
        model: Name of the model there.
        api_key_env: Environment variable with the key; "" for an endpoint that wants none. Capitals, digits and _ only:
            the name is repeated in errors, and what is no such name may be the key itself.
        prompt_price, completion_price: Of a million tokens.
        requests_per_minute, tokens_per_minute: 0 for no limit. A token that may be written counts until it is known
            that it was not.
        concurrency: Requests at a time.
        timeout: Seconds for a request and its whole answer.
        max_retries: Attempts after the first, where another may help.
        vision: How the model counts an image's tokens: one of `prices.VISION`.
        max_image_pixels: Larger images are shrunk; 0 for no limit.
        max_image_bytes: Larger image files are shrunk; 0 for no limit. OpenAI's and vLLM's limits are 20 MB or more.
        max_request_bytes: Larger requests are not sent. OpenAI's limit is 50 MB.
        max_tokens_field: What the endpoint calls the most tokens to write. OpenAI's reasoning models accept
            ``max_completion_tokens`` only; vLLM and others know ``max_tokens``.
        proxy: URL of an HTTP proxy. Those of the environment are not used: a student on localhost would be asked
            through them, and the images of a run would go where nobody has said.

    Raises:
        ValueError: a value that cannot be; never with the URL's credentials in its text.
    """

    base_url: str
    model: str
    api_key_env: str = ""
    prompt_price: float = 0.0
    completion_price: float = 0.0
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrency: int = 64
    timeout: float = 120.0
    max_retries: int = 8
    vision: str = "qwen2.5"
    max_image_pixels: int = 0
    max_image_bytes: int = 20 << 20
    max_request_bytes: int = 50 << 20
    max_tokens_field: str = "max_tokens"
    proxy: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if set(self.base_url) & set("@?#"):  # not repeated: this is where people put keys
            raise ValueError(
                f"the base URL for model {self.model!r} holds credentials, a query or a fragment; give it without, and "
                "the key by an environment variable"
            )
        if not _is_http(self.base_url):
            raise ValueError(f"not the base URL of an endpoint: {self.base_url!r}; one is https://api.openai.com/v1")
        if not re.fullmatch(r"([A-Z_][A-Z0-9_]*)?", self.api_key_env):  # not repeated: it may be the key itself
            raise ValueError(
                f"what is given for the key of model {self.model!r} is no name of an environment variable, such as "
                "OPENAI_API_KEY (capitals, digits and _); the key itself belongs into that variable"
            )
        if self.proxy and not _is_http(self.proxy):  # not repeated: it may hold credentials
            raise ValueError("what is given for the proxy is no URL of one, such as http://proxy.example:3128")
        if self.vision not in VISION:
            raise ValueError(f"unknown rule for image tokens {self.vision!r}; known: {', '.join(VISION)}")
        if self.concurrency < 1 or not 0 < self.timeout < math.inf or self.max_retries < 0:
            raise ValueError("an endpoint needs concurrency of at least 1, a positive timeout, no negative retries")
        prices_and_rates = (
            self.prompt_price, self.completion_price, self.requests_per_minute, self.tokens_per_minute
        )  # fmt: skip
        if not all(0 <= each < math.inf for each in prices_and_rates):  # NaN is refused by this, too
            raise ValueError("prices and limits a minute are numbers from 0 upwards")
        if min(self.max_image_pixels, self.max_image_bytes) < 0 or self.max_request_bytes < 1:
            raise ValueError("limits of images cannot be negative, and a request has at least one byte")


class Client:
    """`async with Client(endpoint, ledger, budget) as client: reply = await client.complete(call, images)`

    Without entering it, only `estimate` can be asked. Several clients may share a ledger, and then its budget.

    Args:
        budget: The most that the ledger may come to, what is finished and what may have been paid; None for no limit.
        clock, sleep, rng: For tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        budget: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.endpoint, self.ledger, self.budget = endpoint, ledger, budget
        self._sleep, self._rng = sleep, rng or random.Random()
        self._limiter = Limiter(endpoint.requests_per_minute, endpoint.tokens_per_minute, clock, sleep)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._urls = DataURLs(ImageLimits(endpoint.max_image_pixels, endpoint.max_image_bytes))
        self._mark = secrets.token_hex(16)  # stands for an image in a text that cannot hold it
        self._asking: dict[str, asyncio.Future[Reply]] = {}
        self._stop: StopRun | None = None
        self._in_a_row: Counter[str] = Counter()  # outcomes since the last answer
        self._noticed: set[str] = set()

    async def __aenter__(self) -> Client:
        """Raises: EndpointError: no key."""
        endpoint = self.endpoint
        self._key = _key(endpoint.api_key_env)
        self._http = httpx.AsyncClient(
            transport=Lanes(endpoint.proxy),
            timeout=httpx.Timeout(endpoint.timeout, connect=min(CONNECT, endpoint.timeout)),
            follow_redirects=False,  # the key is for this address
            trust_env=False,
        )
        self._openai = openai.AsyncOpenAI(
            api_key=self._key or "none",  # the package insists on one
            base_url=endpoint.base_url,
            default_headers={"Authorization": f"Bearer {self._key or 'none'}"},  # over OPENAI_CUSTOM_HEADERS
            max_retries=0,
            http_client=self._http,  # type: ignore[arg-type]  # httpx in all versions of the package, httpx2 in the latest
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._asking.values():  # only when somebody who waited was cancelled
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await self._openai.close()

    # --- Before anything is paid --------------------------------------------------------------------------

    async def check(self) -> None:
        """Ask for the list of models, which costs nothing.

        Raises:
            EndpointError: the key is refused, the model is not there, this is no OpenAI endpoint, or nobody answers.
        """
        found: list[str] | Again | Stop = Again("")
        for attempt in range(CHECKS):
            if isinstance(found, Again) and attempt:
                await self._sleep(self._pause(found, attempt))
            answer = await self._request("/models")
            found = answer if isinstance(answer, Again) else outcomes.models(*answer, self._key)
            if not isinstance(found, Again):
                break
        if isinstance(found, Again):
            raise self._error(f"nobody answers ({found.why}): is it up, and is this its address?")
        if isinstance(found, Stop):
            raise self._error(found.why)
        if self.endpoint.model not in found:
            raise self._error(
                f"there is no model {self.endpoint.model!r}; there are: {', '.join(found[:10]) or 'none'}"
            )

    def estimate(self, call: Call, images: Sequence[ImageRef] = (), completion_tokens: int | None = None) -> float:
        """What a call costs when the model writes so many tokens; without them, the most that it can cost."""
        expected, most = self._prompt_tokens(call, images)
        if completion_tokens is None:
            return self._cost(most, call.sampling["max_tokens"])
        return self._cost(expected, completion_tokens)

    def _prompt_tokens(self, call: Call, images: Sequence[ImageRef]) -> tuple[int, int]:
        return prompt_tokens(call.messages, [(each.width, each.height) for each in images], self.endpoint.vision)

    def _cost(self, read: int, written: int) -> float:
        return (read * self.endpoint.prompt_price + written * self.endpoint.completion_price) / 1e6

    # --- A call -------------------------------------------------------------------------------------------

    async def complete(self, call: Call, images: Sequence[ImageRef] = ()) -> Reply:
        """What the call brings: from the ledger, or from the endpoint by way of the ledger. Equal calls at the same
        time are one request. Whoever stops waiting does not stop the request: it is being paid for.

        Returns:
            A reply whose `outcome` says how it ended. One outside `ledger.LEDGERED` is asked for again next time.

        Raises:
            StopRun: no call can go on; from then on only what is in the ledger is answered.
            LedgerError: what came back cannot be kept.
        """
        if reply := self.ledger.get(call):
            return reply
        task = self._asking.get(call.key)
        if task is None:
            task = self._asking[call.key] = asyncio.ensure_future(self._ask(call, images))
            task.add_done_callback(lambda done: self._asked(call.key, done))
        return await asyncio.shield(task)

    def _asked(self, key: str, task: asyncio.Future[Reply]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # those who wait raise it; if nobody waits any more, it is no news

    async def _ask(self, call: Call, images: Sequence[ImageRef]) -> Reply:
        async with self._slots:
            self._go_on()
            try:
                body = await self._body(call, images)
            except ImageProblem as problem:
                return Reply(redact(str(problem), self._key), "", problem.outcome)
            if len(body) > self.endpoint.max_request_bytes:
                size = f"the request has {len(body):,} bytes, over the limit of {self.endpoint.max_request_bytes:,}"
                return Reply(size, "", "image_too_large" if images else "bad_request")
            reply = await self._attempts(call, images, body)
        self._count(reply)
        return reply

    async def _attempts(self, call: Call, images: Sequence[ImageRef], body: bytes) -> Reply:
        """Ask until there is an answer, or often enough."""
        read_most, written_most = self._prompt_tokens(call, images)[1], call.sampling["max_tokens"]
        most = self._cost(read_most, written_most)
        again, doubtful = Again(""), 0
        for attempt in range(self.endpoint.max_retries + 1):
            if attempt:
                await self._sleep(self._pause(again, attempt - 1))
                self._go_on()
            read = await self._attempt(call, body, read_most + written_most, most)
            if isinstance(read, Reply):
                return read
            again = read
            self._notice(again.why)
            if again.wait:
                self._limiter.pause(min(again.wait, LONGEST_RETRY_AFTER))
            doubtful += again.maybe_paid
            if doubtful == DOUBTFUL:
                break
        return Reply(f"{attempt + 1} attempts failed, the last one by {again.why}", "", "unavailable")

    async def _attempt(self, call: Call, body: bytes, tokens: int, most: float) -> Reply | Again:
        """One request: in the ledger before it is sent, and what comes back before it is used."""
        sent = await self._turn(tokens, most)
        number = self.ledger.begin(call, most)
        try:
            answer = await self._request("/chat/completions", body, call.key)
            read = answer if isinstance(answer, Again) else outcomes.read(*answer, self._key)
            if isinstance(read, Reply) and read.outcome in LEDGERED:
                if read.prompt_tokens + read.completion_tokens > 0:  # else nobody has counted
                    self._limiter.correct(sent, read.prompt_tokens + read.completion_tokens)
                self._compare(read.prompt_tokens, tokens - call.sampling["max_tokens"])
                read = self._priced(read, most)
                self.ledger.put(call, read, number)
            elif not (isinstance(read, Again) and read.maybe_paid):
                self.ledger.strike(number)
        finally:
            self.ledger.leave(number)
        if isinstance(read, Stop):
            self._stop = self._error(read.why)
            raise self._stop
        return read

    async def _turn(self, tokens: int, most: float) -> Sent | None:
        """Wait for room under the budget and under the limits at once."""
        while True:
            while not self._affordable(most):
                if not self.ledger.in_flight:
                    self._stop = BudgetReached(
                        f"the budget of {self.budget:,.4f} is reached: {self.ledger.committed:,.4f} are spent or may "
                        f"have been, and the next call can cost {most:,.4f}; a larger budget goes on from here"
                    )
                    self._go_on()
                await asyncio.sleep(SETTLING)  # those in flight seldom cost the most that they can
            sent = await self._limiter.turn(tokens)
            self._go_on()
            if self._affordable(most):
                return sent
            self._limiter.correct(sent, 0.0)

    def _affordable(self, most: float) -> bool:
        return self.budget is None or self.ledger.committed + most <= self.budget

    def _priced(self, reply: Reply, most: float) -> Reply:
        read, written = reply.prompt_tokens, reply.completion_tokens
        cost = most if min(read, written) < 0 else self._cost(read, written)  # at its most where nobody counts
        return replace(reply, prompt_tokens=max(read, 0), completion_tokens=max(written, 0), cost=cost)

    def _pause(self, again: Again, attempt: int) -> float:
        """Seconds before the next attempt: exponential, with full jitter, after what the endpoint asks for."""
        return min(again.wait or 0.0, LONGEST_RETRY_AFTER) + self._rng.uniform(
            0.0, min(FIRST_WAIT * 2.0**attempt, LONGEST_WAIT)
        )

    # --- What concerns all calls --------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self._stop:
            raise type(self._stop)(*self._stop.args)  # a new one: a traceback belongs to one call

    def _count(self, reply: Reply) -> None:
        """Notice when no call gets through any more."""
        if reply.outcome in LEDGERED:
            self._in_a_row.clear()
            return
        self._in_a_row[reply.outcome] += 1
        if reply.outcome != "unavailable" and reply.outcome not in self._noticed:  # tries that failed have been said
            self._noticed.add(reply.outcome)
            log.warning("%s: %s: %s; saying so once", self.endpoint.base_url, reply.outcome, reply.text)
        if self._in_a_row["unavailable"] >= GIVE_UP:
            self._stop = self._error(f"{GIVE_UP} calls in a row were not answered; {reply.text}")
        if self._in_a_row.total() - self._in_a_row["unavailable"] >= TURNED_DOWN:
            self._stop = self._error(f"{TURNED_DOWN} requests in a row were turned down: {reply.text}")

    def _notice(self, trouble: str) -> None:
        """Say each kind of trouble once; how often it came is the ledger's and the summary's."""
        if trouble not in self._noticed:
            self._noticed.add(trouble)
            log.warning("%s: %s; trying again, and saying so once", self.endpoint.base_url, trouble)

    def _compare(self, counted: int, most: int) -> None:
        """Say once that prompts are longer than was reckoned with."""
        if counted > most and self.endpoint.vision not in self._noticed:
            self._noticed.add(self.endpoint.vision)
            log.warning(
                "%s: a prompt counts %d tokens where the rule %r for images gives %d at most: the estimate is too low, "
                "and what is in flight can pass the budget; saying so once",
                self.endpoint.base_url, counted, self.endpoint.vision, most,
            )  # fmt: skip

    def _error(self, why: str) -> EndpointError:
        name = self.endpoint.api_key_env
        return EndpointError(
            f"{self.endpoint.base_url}: {why} ({f'its key is that of ${name}' if name else 'no key is sent'})"
        )

    # --- HTTP ---------------------------------------------------------------------------------------------

    async def _body(self, call: Call, images: Sequence[ImageRef]) -> bytes:
        """The request's JSON. Images are put in as the bytes that are kept of them: JSON is made of the rest only.

        Raises:
            ImageProblem: an image cannot be sent.
        """

        def part(value: Mapping[str, Any]) -> Mapping[str, Any]:
            if value["type"] != "image":
                return value
            return {"type": "image_url", "image_url": {"url": f"{self._mark}{value['sha256']}"}}

        messages = [
            message if isinstance(message["content"], str) else {**message, "content": [*map(part, message["content"])]}
            for message in call.messages
        ]
        sampling = dict(call.sampling)
        sampling[self.endpoint.max_tokens_field] = sampling.pop("max_tokens")
        pieces = json.dumps({"model": call.model, "messages": messages, **sampling}).split(self._mark)
        known = {image.sha256: image for image in images}
        chunks = [pieces[0].encode()]
        for piece in pieces[1:]:
            chunks += await self._urls.get(known[piece[:DIGEST]]), piece[DIGEST:].encode()
        return b"".join(chunks)

    async def _request(self, path: str, body: bytes = b"", key: str = "") -> Answer | Again:
        """GET without a body, POST with one; whatever a server does, it becomes an answer or a reason to try again."""
        # A list is no work.
        timeout = self.endpoint.timeout if body else min(CONNECT, self.endpoint.timeout)
        try:
            if body:
                headers = {"Content-Type": "application/json", "Idempotency-Key": key}
                asking = self._openai.post(path, cast_to=httpx.Response, content=body, options={"headers": headers})
            else:
                asking = self._openai.get(path, cast_to=httpx.Response)
            # Of httpx's time-outs, each is for one wait: a server that sends a byte a second would hold us for hours.
            response = await asyncio.wait_for(asking, timeout)
        except openai.APIStatusError as error:
            response = error.response  # type: ignore[assignment]
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, UNSENT):
                return Again("no connection")
            if not isinstance(error, openai.APITimeoutError):
                return Again("a broken connection", maybe_paid=True)
            return Again(f"no whole answer within {timeout:g} s", maybe_paid=True)
        except asyncio.TimeoutError:
            return Again(f"no whole answer within {timeout:g} s", maybe_paid=True)
        return response.status_code, response.headers, response.content


class Lanes(httpx.AsyncBaseTransport):
    """As many connections as there are requests at a time, each with a pool of its own: httpcore's pool looks at all of
    its connections several times for each request, which at 64 takes more time than the request itself."""

    def __init__(self, proxy: str = "") -> None:
        self._context = httpx.create_ssl_context()  # made once; certificates of SSL_CERT_FILE count, too
        self._proxy = proxy or None
        self._free: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=KEEPALIVE)
        lane = (
            self._free.pop()  # the latest used: the others may close
            if self._free
            else httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, limits=limits, proxy=self._proxy)
        )
        request.headers = httpx.Headers([pair for pair in request.headers.raw if pair[0].lower() in HEADERS])
        try:
            response = await lane.handle_async_request(request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            body = b"".join([chunk async for chunk in response.stream])
            await response.aclose()
        finally:
            self._free.append(lane)
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    async def aclose(self) -> None:
        for lane in self._free:
            await lane.aclose()


def _is_http(url: str) -> bool:
    """Whether it is the URL of something that speaks HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not match
        return False


def _key(variable: str) -> str:
    """The key, or "" where none is wanted.

    Raises:
        EndpointError: the variable is not set, or what it holds cannot be a key.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(f"no key: the environment variable {variable} is not set; export {variable}=…")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"what the environment variable {variable} holds is no key: it has spaces or odd characters"
        )
    return key
