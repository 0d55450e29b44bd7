"""One question, several samples: from a model folder here, or from an OpenAI-compatible endpoint."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinema_verl.ask.show import Stream
from cinema_verl.endpoint.client import Client
from cinema_verl.endpoint.outcomes import Again
from cinema_verl.endpoint.settings import Endpoint
from cinema_verl.export.manner import STOP, Manner
from cinema_verl.meta_action import ANSWER, TAGS, Trajectory, parse
from cinema_verl.rollout.generation import Completion, generate
from cinema_verl.rollout.openai_server import BadRequest, Model
from cinema_verl.utils.native_reasoning import VIOLATION, is_refused, trajectory_begins
from cinema_verl.utils.quiet_logger import errors_only


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
        n: how many.
        temperature: 0 is greedy.
        seed: of the first sample; the next one's is one more. None draws fresh ones.
        max_tokens: most that a sample may have.
    """

    n: int = 1
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int = 1024


@dataclass(frozen=True)
class Sample:
    """What was written, and how it ended ("stop" or "length").

    Attributes:
        reasoning: the model's own, where an endpoint gives it in a field of its own; it is not in `text`.
    """

    text: str
    finish_reason: str
    seed: int | None = None
    reasoning: str = ""

    def read(self, native_reasoning: str) -> "Reading":
        """The trajectory in it, found as the reward finds it.

        Args:
            native_reasoning: what is declared of the policy, one of `utils.native_reasoning.NATIVE_REASONING`.
        """
        begins = trajectory_begins(self.text, native_reasoning)
        refused = native_reasoning == "refuse" and bool(self.reasoning)
        refused = refused or is_refused(self.text, native_reasoning)
        return Reading(self.reasoning + self.text[:begins], parse(self.text[begins:]), refused)


@dataclass(frozen=True)
class Reading:
    """What a sample says.

    Attributes:
        stripped: reasoning of the model's own, which is no part of the trajectory; "" for none.
        refused: whether there is some although the policy was declared to have none.
    """

    stripped: str
    trajectory: Trajectory
    refused: bool

    def violations_for(self, num_images: int) -> tuple[str, ...]:
        """Codes of what breaks the format rule for a question with this many images."""
        return (*self.trajectory.violations_for(num_images), *((VIOLATION,) if self.refused else ()))


class NoSample(RuntimeError):
    """No answer could be had; the message says why."""


def chat_of(manner: Manner, question: str, urls: Sequence[str]) -> list[dict[str, Any]]:
    """The messages of a chat completion: a question over pictures, which are data URLs.

    Raises:
        ValueError: the question places another number of images.
    """
    left = iter(urls)
    messages = manner.messages(question, len(urls))
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [
                {"type": "image_url", "image_url": {"url": next(left)}} if part["type"] == "image" else part
                for part in message["content"]
            ]
    return messages


def _bodies(chat: Sequence[Mapping[str, Any]], model: str, sampling: Sampling, limit: str) -> list[dict[str, Any]]:
    body = {"model": model, "messages": list(chat), "temperature": sampling.temperature, "stop": [STOP]}
    body[limit] = sampling.max_tokens
    seeds = [sampling.seed + i for i in range(sampling.n)] if sampling.seed is not None else [None] * sampling.n
    return [body | ({"seed": seed} if seed is not None else {}) for seed in seeds]


def from_folder(folder: Path, chat: Sequence[Mapping[str, Any]], sampling: Sampling, stream: Stream) -> list[Sample]:
    """Samples of a model folder, by transformers, in one batch.

    Raises:
        NoSample: it is no model, or the question does not fit into it.
    """
    bodies = _bodies(chat, folder.name, sampling, "max_tokens")
    try:
        _without_progress_bars()
        with errors_only("transformers"):  # its remarks would stand in the trajectory
            model = Model(folder)
        requests = [model.request(body) for body in bodies]
    except BadRequest as error:
        raise NoSample(f"{folder} cannot be asked this: {error}") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise NoSample(f"{folder} is no model that transformers reads: {error}") from error
    decode = model.policy.decode

    def watch(number: int, completion: Completion) -> None:
        text = decode(completion.token_ids)
        if not text.endswith("\ufffd"):  # half a character
            stream.grow(number, text)

    completions = generate(model.policy, requests, watch)
    samples = [
        Sample(decode(completion.token_ids), completion.stop_reason, body.get("seed"))
        for completion, body in zip(completions, bodies, strict=True)
    ]
    for number, sample in enumerate(samples):
        stream.finish(number, sample.text)
    return samples


def from_endpoint(
    endpoint: Endpoint, chat: Sequence[Mapping[str, Any]], sampling: Sampling, stream: Stream
) -> list[Sample]:
    """Samples of a model behind an OpenAI-compatible endpoint; each is shown when it is whole.

    Raises:
        NoSample: a call failed.
        EndpointError: no call can succeed.
    """
    return asyncio.run(_asked(endpoint, chat, sampling, stream))


async def _asked(
    endpoint: Endpoint, chat: Sequence[Mapping[str, Any]], sampling: Sampling, stream: Stream
) -> list[Sample]:
    async with Client(endpoint) as client:
        await client.check()

        async def one(number: int, body: Mapping[str, Any]) -> Sample:
            sample = await asked(client, body)
            stream.finish(number, sample.text)
            return sample

        bodies = _bodies(chat, endpoint.model, sampling, endpoint.max_tokens_field)
        return list(await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies))))


async def asked(client: Client, body: Mapping[str, Any]) -> Sample:
    """One chat completion, its stop text put back.

    Raises:
        NoSample: the call failed.
        EndpointError: no call can succeed.
    """
    content, url = json.dumps(body).encode(), client.endpoint.base_url
    async with client.slots:
        reply = await client.persist(lambda: client.post(content))
    if isinstance(reply, Again):
        raise NoSample(f"{url} does not answer: {reply.why}")
    if not reply.outcome.ledgered:
        raise NoSample(f"{url}: {reply.outcome}: {reply.text}")
    return Sample(_with_stop(reply.text, reply.finish_reason), reply.finish_reason, body.get("seed"), reply.reasoning)


def _with_stop(text: str, finish_reason: str) -> str:
    """The text with the stop text that ended it: OpenAI and vLLM leave it out unless told otherwise.

    They do not say whether it was the stop text or the end of the turn that ended a reply; an answer that is open at
    its very end is closed.
    """
    opened, closed = text.rfind(TAGS[ANSWER].open), text.rfind(STOP)
    return text + STOP if finish_reason == "stop" and opened > closed else text


def _without_progress_bars() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
