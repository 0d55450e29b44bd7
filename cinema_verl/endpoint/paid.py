"""Paid calls: from the ledger where they are known, within the budget, and never made twice.

A call goes ledger, budget, limits, HTTP, ledger: a finished call is not made again, a request is noted before it is
sent with the most that it can cost, and a reply is kept before anybody sees it. `client.Client` does the HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cinema_verl.endpoint.client import Client
from cinema_verl.endpoint.images import DataURLs, ImageLimits, ImageProblem, StoredImage
from cinema_verl.endpoint.ledger import Call, Ledger
from cinema_verl.endpoint.outcomes import Again, Outcome, Reply, redact
from cinema_verl.endpoint.rate_limits import Sent
from cinema_verl.endpoint.settings import Endpoint, EndpointError, StopRun
from cinema_verl.endpoint.token_costs import prompt_tokens

log = logging.getLogger(__name__)

SETTLING: Final = 0.05
"""Seconds between looks at whether calls in flight have left room under the budget. Our choice: less than they take."""
PROBE: Final = "probe"
"""Purpose of a trial request."""
DIGEST: Final = 64
"""Length of a SHA-256 in hex."""


class BudgetReached(StopRun):
    """The next call could exceed the budget. A run with a larger one continues from here."""


class PaidClient:
    """``async with PaidClient(endpoint, ledger, budget) as client: reply = await client.complete(call, images)``.

    Outside of ``async with``, only `estimate` can be used. Several clients may share a ledger, and then its budget.

    Args:
        budget: The most that the ledger may come to: what is spent, and what may have been paid. None for no limit.
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
        self._client = Client(endpoint, clock=clock, sleep=sleep, rng=rng)
        self._urls = DataURLs(ImageLimits(endpoint.max_image_pixels, endpoint.max_image_bytes))
        self._mark = secrets.token_hex(16)  # stands for an image in a text that cannot hold it
        self._asking: dict[str, asyncio.Future[Reply]] = {}
        self._compared = False

    async def __aenter__(self) -> PaidClient:
        """Raises: EndpointError: There is no key, or it cannot be one."""
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._asking.values():  # only when somebody who waited was cancelled
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await self._client.__aexit__(*error)

    async def check(self) -> None:
        """Know before the run is paid whether the model is served: from the list of models, and where that does not say
        so, from one trial request, which is in the ledger like every other.

        Raises:
            EndpointError: The key is refused, nobody answers, or the trial request fails.
        """
        doubt = await self._client.check()
        if not doubt:
            return
        log.warning("%s: %s; the model is asked once", self.endpoint.base_url, doubt)
        number = self.ledger.spent(PROBE).calls  # a trial of an earlier run says nothing of today
        trial = Call(PROBE, self.endpoint.model, [{"role": "user", "content": "Say yes."}], {"max_tokens": 64}, number)
        try:
            reply = await self.complete(trial)
        except EndpointError as error:
            raise EndpointError(f"{error}; as to the model, {doubt}") from error
        if not reply.outcome.ledgered:
            raise self._client.error(f"a trial request failed: {reply.text}; as to the model, {doubt}")

    def stop(self, error: StopRun) -> None:
        """Let every call that follows and is not in the ledger fail with this error."""
        self._client.stop(error)

    def estimate(self, call: Call, images: Sequence[StoredImage] = (), completion_tokens: int | None = None) -> float:
        """The cost of a call whose reply has so many tokens; without a number, the most that it can cost."""
        expected, most = self._prompt_tokens(call, images)
        if completion_tokens is None:
            return self._cost(most, call.sampling["max_tokens"])
        return self._cost(expected, completion_tokens)

    async def complete(self, call: Call, images: Sequence[StoredImage] = ()) -> Reply:
        """The call's reply, from the ledger or from the endpoint.

        Equal calls at the same time are one request. A caller that is cancelled does not cancel the request, which is
        being paid for.

        Returns:
            A reply whose `outcome` says how the call ended.

        Raises:
            StopRun: No call can succeed. From then on, only what is in the ledger is returned.
            LedgerError: The reply cannot be kept.
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
            task.exception()  # raised for those who wait; if nobody does, asyncio need not report it

    async def _ask(self, call: Call, images: Sequence[StoredImage]) -> Reply:
        async with self._client.slots:
            self._client.go_on()
            try:
                body = await self._body(call, images)
            except ImageProblem as problem:
                return Reply(redact(str(problem), self._client.key), "", problem.outcome)
            if len(body) > self.endpoint.max_request_bytes:
                size = f"the request has {len(body):,} bytes, over the limit of {self.endpoint.max_request_bytes:,}"
                return Reply(size, "", Outcome.IMAGE_TOO_LARGE if images else Outcome.BAD_REQUEST)
            reply = await self._persist(call, images, body)
        self._client.count(reply)
        return reply

    async def _persist(self, call: Call, images: Sequence[StoredImage], body: bytes) -> Reply:
        read_most, written_most = self._prompt_tokens(call, images)[1], call.sampling["max_tokens"]
        most = self._cost(read_most, written_most)
        attempts = 0

        async def attempt() -> Reply | Again:
            nonlocal attempts
            attempts += 1
            return await self._attempt(call, body, read_most + written_most, most)

        ended = await self._client.persist(attempt)
        if isinstance(ended, Reply):
            return ended
        return Reply(f"{attempts} attempts failed, the last one by {ended.why}", "", Outcome.UNAVAILABLE)

    async def _attempt(self, call: Call, body: bytes, tokens: int, most: float) -> Reply | Again:
        """One request: in the ledger before it is sent, and its reply before it is used."""
        sent = await self._turn(tokens, most)
        number = self.ledger.begin(call, most)
        try:
            read = await self._client.post(body, call.key)
            if isinstance(read, Reply) and read.outcome.ledgered:
                if read.prompt_tokens + read.completion_tokens > 0:  # else nobody has counted
                    self._client.limiter.correct(sent, read.prompt_tokens + read.completion_tokens)
                self._compare(read.prompt_tokens, tokens - call.sampling["max_tokens"])
                read = self._priced(read, most)
                self.ledger.put(call, read, number)
            elif not (isinstance(read, Again) and read.maybe_paid):
                self.ledger.strike(number)
        except StopRun:  # the endpoint has turned it down
            self.ledger.strike(number)
            raise
        finally:
            self.ledger.leave(number)
        return read

    async def _turn(self, tokens: int, most: float) -> Sent | None:
        """Wait for room under the budget and under the rate limits at once."""
        while True:
            while not self._affordable(most):
                if not self.ledger.in_flight:
                    self._client.stop(
                        BudgetReached(
                            f"the budget of {self.budget:,.4f} is reached: {self.ledger.committed:,.4f} are spent or "
                            f"may have been, and the next call can cost {most:,.4f}; run again with a larger budget"
                        )
                    )
                    self._client.go_on()
                await asyncio.sleep(SETTLING)  # those in flight seldom cost the most that they can
            sent = await self._client.limiter.turn(tokens)
            self._client.go_on()
            if self._affordable(most):
                return sent
            self._client.limiter.correct(sent, 0.0)

    def _affordable(self, most: float) -> bool:
        return self.budget is None or self.ledger.committed + most <= self.budget

    def _prompt_tokens(self, call: Call, images: Sequence[StoredImage]) -> tuple[int, int]:
        return prompt_tokens(call.messages, [(each.width, each.height) for each in images], self.endpoint.vision)

    def _cost(self, read: int, written: int) -> float:
        return (read * self.endpoint.prompt_price + written * self.endpoint.completion_price) / 1e6

    def _priced(self, reply: Reply, most: float) -> Reply:
        read, written = reply.prompt_tokens, reply.completion_tokens
        cost = most if min(read, written) < 0 else self._cost(read, written)  # the most where nobody counts
        return replace(reply, prompt_tokens=max(read, 0), completion_tokens=max(written, 0), cost=cost)

    def _compare(self, counted: int, most: int) -> None:
        """Warn once if prompts have more tokens than the rule for images allows for."""
        if counted > most and not self._compared:
            self._compared = True
            log.warning(
                "%s: a prompt counts %d tokens where the rule %r for images gives %d at most: the estimate is too low, "
                "and calls in flight can exceed the budget (logged once)",
                self.endpoint.base_url, counted, self.endpoint.vision, most,
            )  # fmt: skip

    async def _body(self, call: Call, images: Sequence[StoredImage]) -> bytes:
        """The request's JSON. Images are inserted as the bytes that are kept of them; only the rest is made as JSON.

        Raises:
            ImageProblem: An image cannot be sent.
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
