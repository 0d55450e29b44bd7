"""The one client of OpenAI-compatible endpoints: connections, time-outs, retries, and the reading of answers.

What is asked, and what an answer is worth, is the caller's concern: `paid.PaidClient` adds a ledger, a budget, rate
limits and images for the cold start; the judge (`cinema_verl.verify.judge`) asks it directly.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import httpx

from cinema_verl.endpoint import outcomes
from cinema_verl.endpoint.outcomes import Again, Outcome, Reply, Stop, Unlisted
from cinema_verl.endpoint.rate_limits import Limiter
from cinema_verl.endpoint.settings import Endpoint, EndpointError, StopRun, read_key

log = logging.getLogger(__name__)

FIRST_WAIT: Final = 1.0
"""Most seconds before the first retry; doubled for each further one. Our choice."""
LONGEST_WAIT: Final = 60.0
"""Most seconds that the doubling comes to. Our choice: rate limits are per minute."""
LONGEST_RETRY_AFTER: Final = 300.0
"""Most seconds for which an endpoint's Retry-After is followed. Our choice: an endpoint that asks for more is down, and
the run should say so."""
CONNECT: Final = 10.0
"""Seconds to connect. Our choice: three attempts of TCP (at 0, 1 and 3 s) and time for TLS."""
KEEPALIVE: Final = 4.0
"""Seconds for which an idle connection is kept. Servers close theirs after 5 (uvicorn, vLLM); a request sent at that
moment would be lost."""
DOUBTFUL: Final = 4
"""Most attempts of a call that may each have been paid. Our choice: broken connections seldom come in a row; answers
that take longer than the time-out come every time, and are charged."""
CHECKS: Final = 4
"""Most requests for the list of models. Our choice: some seconds, for a server that is just starting."""
GIVE_UP: Final = 16
"""Unavailable calls in a row after which the endpoint counts as gone. Our choice: each has had all its retries."""
TURNED_DOWN: Final = 256
"""Calls in a row that the endpoint does not take, after which the run is at fault and not its questions. Our choice:
several times the usual concurrency, because such calls end faster than answers."""
UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Errors from before a request leaves."""

Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""
T = TypeVar("T")


class Client:
    """One endpoint: ``async with Client(endpoint) as client: reply = await client.persist(lambda: client.post(body))``.

    Args:
        clock, sleep, rng: For tests.

    Attributes:
        slots: Held by a caller for as long as its call lasts, retries included: at most `Endpoint.concurrency` calls.
        limiter: The endpoint's rate limits.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.key = ""
        self.slots = asyncio.Semaphore(endpoint.concurrency)
        self.limiter = Limiter(endpoint.requests_per_minute, endpoint.tokens_per_minute, clock, sleep)
        self._sleep, self._rng = sleep, rng or random.Random()
        self._idle: list[httpx.AsyncClient] = []
        self._stop: StopRun | None = None
        self._in_a_row: Counter[Outcome] = Counter()  # outcomes since the last answer
        self._said: set[str] = set()

    async def __aenter__(self) -> Client:
        """Read the key.

        Raises:
            EndpointError: There is no key, or it cannot be one.
        """
        self.key = read_key(self.endpoint.api_key_env)
        self._tls = httpx.create_ssl_context()  # made once; the certificates of SSL_CERT_FILE count
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            await connection.aclose()

    async def check(self) -> str:
        """Ask for the list of models, which costs nothing.

        Returns:
            "" if the model is listed. Otherwise what there is instead, and whether the model is served is not known:
            gateways keep no list, and Azure lists models where requests name deployments.

        Raises:
            EndpointError: The key is refused, or nobody answers.
        """

        async def attempt() -> list[str] | Again | Unlisted:
            answer = await self._request("GET", "/models")
            read = answer if isinstance(answer, Again) else outcomes.models(*answer, self.key)
            if isinstance(read, Stop):
                raise self._stopped(read)
            return read

        found: list[str] | Again | Unlisted = await self.persist(attempt, CHECKS)
        if isinstance(found, Again):
            raise self.error(f"nobody answers ({found.why}): is it running, and is this its address?")
        if isinstance(found, Unlisted):
            return found.why
        if {self.endpoint.model, f"models/{self.endpoint.model}"} & {*found}:  # Gemini lists models/NAME, takes both
            return ""
        return f"there is no model {self.endpoint.model!r}; there are: {', '.join(found[:10])}"

    async def post(self, body: bytes, key: str = "") -> Reply | Again:
        """Send one request for a chat completion.

        Args:
            body: The request's JSON.
            key: Names the request, so that a server can recognise a second attempt.

        Raises:
            EndpointError: No call can succeed, this one and all later ones.
        """
        answer = await self._request("POST", "/chat/completions", body, key)
        read = answer if isinstance(answer, Again) else outcomes.read(*answer, self.key)
        if isinstance(read, Stop):
            raise self._stopped(read)
        return read

    async def persist(self, attempt: Callable[[], Awaitable[T | Again]], attempts: int | None = None) -> T | Again:
        """Repeat `attempt`, with pauses, until it gives something else than `Again` or has been made often enough.

        Args:
            attempts: Most attempts; by default the endpoint's `max_retries` and one.

        Returns:
            What the last attempt gave.

        Raises:
            StopRun: Another call has found that no call can succeed.
        """
        doubtful = number = 0
        while True:
            self.go_on()
            ended = await attempt()
            if not isinstance(ended, Again):
                return ended
            self._say(ended.why, f"{ended.why}; trying again")
            wait = min(ended.wait or 0.0, LONGEST_RETRY_AFTER)
            if wait:
                self.limiter.pause(wait)
            number += 1
            doubtful += ended.maybe_paid
            if number == (attempts or self.endpoint.max_retries + 1) or doubtful == DOUBTFUL:
                return ended
            # Exponential, with full jitter, after what the endpoint asks for.
            most = min(FIRST_WAIT * 2.0 ** (number - 1), LONGEST_WAIT)
            await self._sleep(wait + self._rng.uniform(0.0, most))

    def count(self, reply: Reply) -> None:
        """Notice when no call gets through any more, and stop the calls that follow."""
        outcome = reply.outcome
        if outcome.ledgered:
            self._in_a_row.clear()
            return
        self._in_a_row[outcome] += 1
        if outcome.turned_down:
            self._say(outcome.value, f"{outcome}: {reply.text}")
        if self._in_a_row[Outcome.UNAVAILABLE] >= GIVE_UP:
            self.stop(self.error(f"{GIVE_UP} calls in a row were not answered; {reply.text}"))
        if sum(number for each, number in self._in_a_row.items() if each.turned_down) >= TURNED_DOWN:
            self.stop(self.error(f"{TURNED_DOWN} requests in a row were turned down: {reply.text}"))

    def stop(self, error: StopRun) -> None:
        """Let every call that follows fail with this error."""
        self._stop = error

    def go_on(self) -> None:
        """Raises: StopRun: no call can succeed any more."""
        if self._stop:
            raise type(self._stop)(*self._stop.args)  # a new one: a traceback belongs to one call

    def error(self, why: str) -> EndpointError:
        """An error that names the endpoint and where its key comes from."""
        name = self.endpoint.api_key_env
        return EndpointError(
            f"{self.endpoint.base_url}: {why} ({f'its key is that of ${name}' if name else 'no key is sent'})"
        )

    def _say(self, kind: str, text: str) -> None:
        """Log each kind of trouble once."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning("%s: %s (logged once)", self.endpoint.base_url, text)

    def _stopped(self, read: Stop) -> StopRun:
        self._stop = self.error(read.why)
        return self._stop

    async def _request(self, method: str, path: str, body: bytes | None = None, key: str = "") -> Answer | Again:
        """One request over a connection of its own; every failure to get an answer is a reason to try again."""
        timeout = self.endpoint.timeout if body else min(CONNECT, self.endpoint.timeout)  # a list takes no work
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        if body:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Idempotency-Key"] = key
        url = self.endpoint.base_url.rstrip("/") + path
        connection = self._idle.pop() if self._idle else self._connection()  # the latest used: the others may close
        try:
            # Each of httpx's time-outs is for one wait: a server that sends a byte a second would hold us for hours.
            asking = connection.request(method, url, content=body, headers=headers)
            response = await asyncio.wait_for(asking, timeout)
        except UNSENT:
            return Again("no connection")
        except (httpx.TimeoutException, asyncio.TimeoutError):
            return Again(f"no whole answer within {timeout:g} s", maybe_paid=True)
        except httpx.HTTPError:
            return Again("a broken connection", maybe_paid=True)
        except httpx.InvalidURL as error:
            raise self.error(f"the base URL cannot be used: {error}") from error
        finally:
            self._idle.append(connection)
        return response.status_code, response.headers, response.content

    def _connection(self) -> httpx.AsyncClient:
        """An HTTP client of one connection. httpx's own pool looks at all of its connections several times a request,
        which at 64 takes several times as long as the request itself (benchmarks/cold_start_client.py)."""
        return httpx.AsyncClient(
            verify=self._tls,
            limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEPALIVE),
            timeout=httpx.Timeout(self.endpoint.timeout, connect=min(CONNECT, self.endpoint.timeout)),
            proxy=self.endpoint.proxy or None,
            follow_redirects=False,  # the key is for this address
            trust_env=False,
        )
