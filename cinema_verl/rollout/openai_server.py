"""A Qwen-VL directory behind an OpenAI-compatible endpoint, by transformers alone, for machines without vLLM.

    python -m cinema_verl.rollout.openai_server MODEL_DIRECTORY --port 8000

Requests that arrive together are decoded as one batch. It listens on the loopback address, takes images as data URLs
only, fetches nothing, and stores nothing. On a GPU, `vllm serve` is the better choice.
"""

import argparse
import asyncio
import base64
import binascii
import io
import json
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import uvicorn
from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.responses import JSONResponse
from PIL import Image

from cinema_verl.rollout.batching import Batcher
from cinema_verl.rollout.generation import Completion, Policy, Request, generate
from cinema_verl.utils.pretrained import load_model, read_files
from cinema_verl.utils.torchvision import ensure_torchvision_importable

_SUPPORTED: Final = {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
}
_MAX_TOKENS: Final = 1024  # where a request names no limit; our choice
_LARGEST_BATCH: Final = 64  # our choice


class BadRequest(ValueError):
    """The request cannot be answered; the message says why."""


class Model:
    """A model directory, ready to answer chats.

    Raises:
        OSError, ValueError: it is not a vision-language model that transformers reads, or its weights are not whole.
    """

    def __init__(self, directory: str | Path) -> None:
        ensure_torchvision_importable()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.processor = read_files(AutoProcessor, directory)
        model = load_model(AutoModelForImageTextToText, directory, dtype=dtype).eval().to(device)
        tokenizer, config = self.processor.tokenizer, model.generation_config
        eos = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        self.room = int(model.config.get_text_config().max_position_embeddings)
        self.policy = Policy(
            model=model,
            processor=self.processor,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            eos=frozenset(eos if isinstance(eos, list) else [eos]),
            banned=_vision_tokens(model.config),
            pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            image_token=self.processor.image_token_id,
        )

    def request(self, body: Mapping[str, Any]) -> Request:
        """The body of ``POST /v1/chat/completions`` as a request to generate from.

        Raises:
            BadRequest: it asks for something that this server does not do.
        """
        if unknown := set(body) - _SUPPORTED:
            raise BadRequest(
                f"not supported: {', '.join(sorted(unknown))}; supported are {', '.join(sorted(_SUPPORTED))}"
            )
        if body.get("n", 1) != 1:
            raise BadRequest("one choice for each request: send n requests")
        try:
            images: list[Image.Image] = []
            chat = [
                {"role": str(each["role"]), "content": _parts(each["content"], images)} for each in body["messages"]
            ]
            text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            ids = self.processor(text=[text], images=images or None)["input_ids"][0]
            if len(ids) >= self.room:
                raise BadRequest(f"a prompt of {len(ids)} tokens, and the model has room for {self.room}")
            limit = body.get("max_completion_tokens") or body.get("max_tokens") or _MAX_TOKENS
            stop = body.get("stop") or ()
            return Request(
                prompt_ids=[int(token) for token in ids],
                images=images,
                max_tokens=min(int(limit), self.room - len(ids)),
                temperature=float(body.get("temperature", 1.0)),
                top_p=float(body.get("top_p", 1.0)),
                stop=(stop,) if isinstance(stop, str) else tuple(stop),
                seed=body.get("seed"),
            )
        except BadRequest:
            raise
        except (LookupError, TypeError, ValueError) as error:
            raise BadRequest(f"not a chat completion request: {error}") from error


def _vision_tokens(config: Any) -> tuple[int, ...]:
    """Ids that stand for pictures and their frames, by the names that the families' configs have for them."""
    names = (f"{of}{what}_token_id" for of in ("image", "video", "vision") for what in ("", "_start", "_end"))
    found = (getattr(config, name, None) for name in names)
    return tuple(sorted({token for token in found if token is not None}))


def _parts(content: Any, images: list[Image.Image]) -> list[dict[str, str]]:
    """A message's content as the chat template takes it; its images are appended to `images`."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = []
    for part in content:
        if part["type"] == "text":
            parts.append({"type": "text", "text": str(part["text"])})
        elif part["type"] == "image_url":
            images.append(_image(part["image_url"]["url"]))
            parts.append({"type": "image"})
        else:
            raise BadRequest(f"content of type {part['type']!r} is not supported: use text or image_url")
    return parts


def _image(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise BadRequest("images must be data:image/…;base64 URLs")
    try:
        return Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB")
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise BadRequest(f"an image cannot be decoded: {error}") from error


def application(model: Model, name: str) -> FastAPI:
    """``/v1/models`` and ``/v1/chat/completions``; the one model is called `name`."""
    batcher = Batcher(partial(generate, model.policy), _LARGEST_BATCH)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "local"}]}

    @app.post("/v1/chat/completions")
    async def complete(http: HTTPRequest) -> JSONResponse:
        try:
            body = json.loads(await http.body())
            if body.get("model") != name:
                return _error(404, "model_not_found", f"there is one model, {name!r}")
            request = await asyncio.to_thread(model.request, body)
        except (BadRequest, ValueError, AttributeError) as error:
            return _error(400, "invalid_request_error", str(error))
        try:
            completion = await batcher(request)
        except Exception as error:  # the batch failed: a server error, which a client may retry
            return _error(500, "server_error", repr(error))
        return JSONResponse(
            _reply(name, model.policy.decode(completion.token_ids), completion, len(request.prompt_ids))
        )

    return app


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": code, "param": None, "code": code}}, status)


def _reply(name: str, text: str, completion: Completion, prompt_tokens: int) -> dict[str, Any]:
    written = len(completion.token_ids)
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": completion.stop_reason,
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": written,
            "total_tokens": prompt_tokens + written,
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; the first line of standard output is the base URL."""
    parser = argparse.ArgumentParser(
        prog="python -m cinema_verl.rollout.openai_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="Hugging Face directory of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL")
    parser.add_argument("--name", help="name of the model in requests (default: the directory's name)")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 (the default) chooses a free one")
    options = parser.parse_args(arguments)
    if not (options.model / "config.json").exists():
        parser.error(f"{options.model} is not a model directory: it has no config.json")
    app = application(Model(options.model), options.name or options.model.resolve().name)
    listening = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
