"""Requests that arrive together are decoded as one batch: the one queue of the rollout engine and the local server."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from cinema_verl.rollout.generation import Completion, Request

WINDOW: Final = 0.02
"""Seconds without a new request after which a batch starts. Our choice: below one decoding step of a batch and above
the gap between two requests of one agent-loop worker."""


class Batcher:
    """Collects requests into batches and decodes one batch at a time, in a thread.

    A batch is everything that arrives until no request has come for a window. Its loop starts with the first request,
    in the event loop of that request.

    Args:
        decode: a batch of requests -> their completions, in the same order.
        largest: most requests in a batch.
        window: seconds; see `WINDOW`.
    """

    def __init__(
        self, decode: Callable[[Sequence[Request]], Sequence[Completion]], largest: int, window: float = WINDOW
    ):
        self.decode, self.largest, self.window = decode, largest, window
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[Completion]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Completion:
        """Wait for the request's completion.

        Raises:
            Exception: what `decode` raised for the batch that the request was in. Later batches are decoded.
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
        try:
            completions = await asyncio.to_thread(self.decode, [request for request, _ in batch])
        except Exception as error:  # every caller of the batch gets it; the loop goes on
            for _, done in batch:
                if not done.cancelled():
                    done.set_exception(error)
            return
        for (_, done), completion in zip(batch, completions, strict=True):
            if not done.cancelled():
                done.set_result(completion)

    async def _next_batch(self) -> list[tuple[Request, asyncio.Future[Completion]]]:
        batch = [await self._queue.get()]
        while len(batch) < self.largest:
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), self.window))
            except asyncio.TimeoutError:
                break
        return batch
