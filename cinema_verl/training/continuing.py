"""A response that is interrupted when weights change goes on as if it had not been.

verl's client of asynchronous training asks again for what an abort left unfinished, with the response so far at the end
of the prompt. To a server that is a new request: it would draw the same random numbers a second time, and miss a stop
text that the abort split. Here each attempt says how much of its prompt is response.
"""

import asyncio
from typing import Any, Final

from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from cinema_verl.rollout.engine import BEGUN, NAME
from cinema_verl.utils.stable_random import stable_hash

ABORTED: Final = ("aborted", "abort")
PAUSE: Final = 1.0
"""Seconds before a request that was turned away asks again (verl: the same)."""

_PROMPT: Final = "prompt_tokens"


class _EachAttempt(LLMServerClient):
    """Between verl's client that tries again and the one that asks a server."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **request: Any
    ) -> TokenOutput:
        params = dict(sampling_params)
        if begun := len(prompt_ids) - params.pop(_PROMPT, len(prompt_ids)):
            if self.config.actor_rollout_ref.rollout.name == NAME:
                params[BEGUN] = begun
            elif params.get("seed") is not None:
                params["seed"] = stable_hash(params["seed"], begun) >> 1  # a stream of its own
        while True:
            output = await super().generate(request_id, prompt_ids=prompt_ids, sampling_params=params, **request)
            if output.token_ids or output.stop_reason not in ABORTED:
                return output
            await asyncio.sleep(PAUSE)  # nothing was generated: those weights have no part in the response


class ContinuingClient(FullyAsyncLLMServerClient, _EachAttempt):
    """verl's client of asynchronous training, whose continuations say that they are one."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **request: Any
    ) -> TokenOutput:
        params = {**sampling_params, _PROMPT: len(prompt_ids)}
        return await super().generate(request_id, prompt_ids=prompt_ids, sampling_params=params, **request)
