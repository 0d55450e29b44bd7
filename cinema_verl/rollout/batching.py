"""Requests that arrive together are decoded as one batch: the one queue of the rollout engine and the local server.

Each is answered when its own completion has ended, so that what is done with it next does not wait for the longest one
of the batch.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from cinema_verl.rollout.generation import Completion, Request

Decode = Callable[[Sequence[Request], Callable[[int, Completion], object]], Sequence[Completion]]
"""A batch of requests -> their completions, in the same order; what it is given is told of each completion on the way,
by its place (`cinema_verl.rollout.generation.generate`)."""

WINDOW: Final = 0.02
"""Seconds without a new request after which a batch starts. Our choice: below one decoding step of a batch and above
the gap between two requests of one agent-loop worker."""


class Batcher:
    """Collects requests into batches and decodes one batch at a time, in a thread.

    A batch is everything that arrives until no request has come for a window. Its loop starts with the first request,
    in the event loop of that request.

    Args:
        decode: see `Decode`.
        largest: most requests in a batch.
        window: seconds; see `WINDOW`.
    """

    def __init__(self, decode: Decode, largest: int, window: float = WINDOW):
        self.decode, self.largest, self.window = decode, largest, window
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[Completion]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Completion:
        """Wait for the request's completion.

        Raises:
            Exception: what `decode` raised for the batch that the request was in, before the request had its
                completion. Later batches are decoded.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        await self._queue.put((request, done))
        return await done

    async def drain(self) -> None:
        """Wait until everything that has come so far is answered, and nothing of it is being decoded."""
        await self._queue.join()

    def close(self) -> None:
        """Stop the loop; requests that wait are never answered."""
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        while True:
            batch = await self._next_batch()
            try:
                # Requests whose callers have gone away while they waited are left out.
                await self._answer([(request, done) for request, done in batch if not done.cancelled()])
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _answer(self, batch: Sequence[tuple[Request, asyncio.Future[Completion]]]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        futures = [done for _, done in batch]

        def watch(place: int, completion: Completion) -> None:  # in the thread
            if completion.stop_reason:
                loop.call_soon_threadsafe(_settle, futures[place], completion)

        try:
            completions = await asyncio.to_thread(self.decode, [request for request, _ in batch], watch)
        except Exception as error:  # everyone of the batch who has no answer gets it; the loop goes on
            for done in futures:
                if not done.done():
                    done.set_exception(error)
            return
        for done, completion in zip(futures, completions, strict=True):
            _settle(done, completion)

    async def _next_batch(self) -> list[tuple[Request, asyncio.Future[Completion]]]:
        batch = [await self._queue.get()]
        while len(batch) < self.largest:
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), self.window))
            except asyncio.TimeoutError:
                break
        return batch


def _settle(done: asyncio.Future[Completion], completion: Completion) -> None:
    if not done.done():  # answered before, or its caller has gone away
        done.set_result(completion)
