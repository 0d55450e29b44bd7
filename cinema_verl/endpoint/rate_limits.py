"""Limits of requests and tokens per minute that hold in every window of a minute, not only on average.

Everything sent is remembered for a minute with its size. A size that is not known yet counts at its most and is
corrected later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MINUTE: Final = 60.0


class Sent:
    """Something sent: its time, and how much it counts for."""

    __slots__ = ("amount", "at")

    def __init__(self, at: float, amount: float) -> None:
        self.at, self.amount = at, amount


class MinuteWindow:
    """At most `limit` within any `seconds`, both ends included. The caller gives the time, which never decreases.

    Each operation takes amortised constant time.

    Raises:
        ValueError: The limit is not positive.
    """

    def __init__(self, limit: float, seconds: float = MINUTE) -> None:
        if not limit > 0:
            raise ValueError(f"a limit must be positive, not {limit}")
        self.limit, self.seconds = limit, seconds
        self._sent: deque[Sent] = deque()
        self._sum = 0.0

    def wait(self, now: float, amount: float) -> float:
        """Seconds until there may be room for `amount`; 0 if there is room now.

        An amount over the limit has room if nothing else was sent within the window; the endpoint decides about it.
        """
        while self._sent and self._sent[0].at + self.seconds < now:
            self._sum -= self._sent.popleft().amount
        if not self._sent:
            self._sum = 0.0  # drops what rounding has left
        if not self._sent or self._sum + amount <= self.limit:
            return 0.0
        # Just after the oldest has left; there may then be more to wait for.
        return max(self._sent[0].at + self.seconds - now, 0.0) + 1e-3

    def send(self, now: float, amount: float) -> Sent:
        """Count `amount` as sent."""
        sent = Sent(now, amount)
        self._sent.append(sent)
        self._sum += amount
        return sent

    def correct(self, sent: Sent, amount: float) -> None:
        """Count `sent` as `amount` from now on. If that is more than before, the limit may have been exceeded."""
        if self._sent and sent.at >= self._sent[0].at:  # it still counts
            self._sum += amount - sent.amount
        sent.amount = amount


class Limiter:
    """Admits requests in the order of asking: `await turn(tokens)`, then send, then `correct` what `turn` returned.

    Args:
        requests, tokens: Most per minute; 0 for no limit.
        clock, sleep: For tests.
    """

    def __init__(
        self,
        requests: float = 0.0,
        tokens: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = asyncio.sleep,
    ) -> None:
        self._requests = MinuteWindow(requests) if requests else None
        self._tokens = MinuteWindow(tokens) if tokens else None
        self._not_before = 0.0
        self._turn = asyncio.Lock()  # wakes its waiters in order
        self._clock, self._sleep = clock, sleep

    async def turn(self, tokens: float) -> Sent | None:
        """Wait until a request of so many tokens may be sent, and count it."""
        async with self._turn:
            while wait := self._wait(tokens):
                # Not longer than a second: a correction may make room earlier.
                await self._sleep(min(wait, 1.0))  # type: ignore[misc]
            now = self._clock()
            if self._requests:
                self._requests.send(now, 1.0)
            return self._tokens.send(now, tokens) if self._tokens else None

    def _wait(self, tokens: float) -> float:
        now = self._clock()
        waits = [self._not_before - now]
        if self._requests:
            waits.append(self._requests.wait(now, 1.0))
        if self._tokens:
            waits.append(self._tokens.wait(now, tokens))
        return max(0.0, *waits)

    def correct(self, sent: Sent | None, tokens: float) -> None:
        """Count a request by the tokens that it had in fact."""
        if self._tokens and sent:
            self._tokens.correct(sent, tokens)

    def pause(self, seconds: float) -> None:
        """Admit nothing for so many seconds, as the endpoint has asked."""
        self._not_before = max(self._not_before, self._clock() + seconds)
