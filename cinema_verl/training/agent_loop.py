"""The meta-action rollout: one question, one trajectory that ends at `</answer>`.

An agent loop for verl's registry (`agent_name` column or `rollout.agent.default_agent_loop`), chosen as "cinema". It is
verl's single-turn loop with these additions: generation stops at `</answer>` and keeps it, vision placeholder tokens
never reach the trainer, the sample carries how it ended, the sessions of a question share its images
(`cinema_verl.training.shared_vision`), and a response that an evaluation has already is not generated again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.utils import get_vision_placeholder_token_ids

from cinema_verl.meta_action import ANSWER, TAGS
from cinema_verl.runs.stop_reason import StopReason
from cinema_verl.training.continuing import ContinuingClient
from cinema_verl.training.routing import GroupClient, group_of
from cinema_verl.training.shared_vision import SharedImages, SharedPrompt
from cinema_verl.utils.stable_random import stable_hash

NAME = "cinema"
STOP = TAGS[ANSWER].close

# Engines that understand the OpenAI-style `stop` of sampling params. Others go on generating; `cut` trims what follows.
ENGINES_WITH_STOP = ("vllm", "transformers")
# Engines that draw each trajectory from its own `seed`. With `rollout.full_determinism` verl gives vLLM one for all.
ENGINES_WITH_SEED = ("vllm", "transformers")


def first_stop(ids: Sequence[int], decode: Callable[[Sequence[int]], str], stop: str = STOP) -> int | None:
    """Length of the shortest prefix of `ids` whose text contains `stop`, or None: O(log n) decodes."""
    if stop not in decode(ids):
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        if stop in decode(ids[:middle]):
            high = middle
        else:
            low = middle + 1
    return low


def cut(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], placeholders: Collection[int], eos: Collection[int]
) -> tuple[int, StopReason]:
    """Where a response must end, and why.

    Args:
        ids: response token ids.
        decode: token ids -> text, special tokens skipped.
        placeholders: vision token ids that must not be in a response: they would stand for images that do not exist
            ("Image features and image tokens do not match").
        eos: ids that end a turn.

    Returns:
        The kept length, and `ANSWER`, `PLACEHOLDER`, `EOS` or `LENGTH`.
    """
    legal = next((i for i, token in enumerate(ids) if token in placeholders), len(ids))
    length = first_stop(ids[:legal], decode)
    if length is not None:
        return length, StopReason.ANSWER
    if legal < len(ids):
        return legal, StopReason.PLACEHOLDER
    return len(ids), StopReason.EOS if ids and ids[-1] in eos else StopReason.LENGTH


def trajectory_seed(*parts: Any) -> int:
    """A 63-bit seed from anything printable: the same in every process and run, unlike `hash`."""
    return stable_hash(*parts) >> 1


class _KnownResponse:
    """Stands in for verl's `LLMServerClient` where the response is known: returns it instead of generating."""

    def __init__(self, response: np.ndarray):
        self.response = response

    async def generate(self, **_: Any) -> TokenOutput:
        return TokenOutput(token_ids=self.response.tolist())


@register(NAME)
class MetaActionAgentLoop(SingleTurnAgentLoop):
    """Roll out one meta-action trajectory.

    Adds to `AgentLoopOutput.extra_fields`: `stop_reason`, the word of a `StopReason`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.placeholders = frozenset(get_vision_placeholder_token_ids(self.processor))
        self.shared = SharedPrompt()
        self.eos = frozenset({self.tokenizer.eos_token_id, self.tokenizer.pad_token_id} - {None})

    async def process_multi_modal_info(self, messages: list[dict]) -> dict:
        async with self.shared.lock:
            if self.shared.media is None:
                media = await super().process_multi_modal_info(messages)
                if media.get("images"):
                    media["images"] = SharedImages(media["images"])
                self.shared.media = media
        return dict(self.shared.media)

    async def ct_build_initial_tokens(self, messages: list[dict], *args: Any, **kwargs: Any) -> list[int]:
        if kwargs.get("videos") or kwargs.get("audios"):  # verl wants their features back, too
            return await super().ct_build_initial_tokens(messages, *args, **kwargs)
        async with self.shared.lock:
            if self.shared.prompt_ids is None:
                self.shared.prompt_ids = await super().ct_build_initial_tokens(messages, *args, **kwargs)
        return list(self.shared.prompt_ids)

    def _continues_unseen(self) -> bool:
        """Whether a request may be cut off and asked for anew as if it were another: it would draw the same again."""
        client = self.server_manager
        return isinstance(client, FullyAsyncLLMServerClient) and not isinstance(client, ContinuingClient)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    async def run(
        self,
        sampling_params: dict[str, Any],
        answers: Mapping[int, tuple[np.ndarray, str]] | None = None,
        **kwargs: Any,
    ) -> AgentLoopOutput:
        """verl's `SingleTurnAgentLoop.run`.

        Args:
            answers: by session, response ids (int32) and stop reason where they are known already: nothing is
                generated then (`cinema_verl.evaluate.unfinished`).
        """
        answer = (answers or {}).get(kwargs.get("session_id", 0))
        params = dict(sampling_params)
        engine = self.rollout_config.name
        if engine in ENGINES_WITH_STOP:
            params |= {"stop": [STOP], "include_stop_str_in_output": True}
        if engine in ENGINES_WITH_SEED and not self._continues_unseen():
            # What identifies a trajectory from one run to the next; verl's own ids are random.
            row = kwargs.get("extra_info") or {}
            params["seed"] = trajectory_seed(
                self.rollout_config.seed,
                kwargs.get("global_steps"),
                row.get("uid"),
                row.get("index"),
                kwargs.get("session_id"),
            )
        client: Any = self.server_manager
        self.server_manager: Any = (
            _KnownResponse(answer[0])
            if answer is not None
            else GroupClient(client, group_of(kwargs), kwargs.get("session_id", 0))
        )
        self.shared = SharedPrompt.of(kwargs.get("uid"))
        output = await super().run(params, **kwargs)

        length, reason = cut(output.response_ids, self._decode, self.placeholders, self.eos)
        if answer is not None:
            reason = StopReason.of(answer[1])  # the token that a response was cut before is not in it any more
        output.response_ids = output.response_ids[:length]
        output.response_mask = output.response_mask[:length]
        if output.response_logprobs is not None:
            output.response_logprobs = output.response_logprobs[:length]
        if not output.response_ids:
            # verl scores the last response token, so there must be one; masked out, it trains nothing.
            output.response_ids = [self.tokenizer.eos_token_id]
            output.response_mask = [0]
            if output.response_logprobs is not None:
                output.response_logprobs = [0.0]
        output.extra_fields["stop_reason"] = reason.value
        return output
