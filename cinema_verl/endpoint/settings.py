"""Which endpoint to ask, within which limits, and the errors that concern every request to it.

This module loads neither httpx nor an image library, so that the reward can name an endpoint without their cost.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from cinema_verl.endpoint.token_costs import VISION
from cinema_verl.utils.arguments import check_least


class StopRun(RuntimeError):
    """The run cannot go on. The message says why and what to do; finished calls stay in the ledger."""


class EndpointError(StopRun):
    """No key, a refused key, an unknown model, not an OpenAI-compatible endpoint, no credit, or no connection."""


_LEAST: Final = {
    **dict.fromkeys(("concurrency", "max_request_bytes"), 1),
    **dict.fromkeys(("timeout", "max_retries", "max_image_pixels", "max_image_bytes"), 0),
    **dict.fromkeys(("prompt_price", "completion_price", "requests_per_minute", "tokens_per_minute"), 0),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint and what it accepts.

    Attributes:
        base_url: What comes before ``/chat/completions``; it usually ends in ``/v1``.
        model: Name of the model there.
        api_key_env: Name of the environment variable with the key; "" if the endpoint needs none. Only capitals, digits
            and _ are allowed: errors repeat the name, and anything else may be the key itself.
        prompt_price, completion_price: Price of a million tokens, in any currency.
        requests_per_minute, tokens_per_minute: Rate limits; 0 for none. A token that may be written counts until it is
            known that it was not.
        concurrency: Most requests at the same time.
        timeout: Seconds for one request with its whole answer.
        max_retries: Attempts after the first, where another may help.
        vision: How the model counts an image's tokens: one of `token_costs.VISION`.
        max_image_pixels: Images with more pixels are shrunk; 0 for no limit.
        max_image_bytes: Larger image files are shrunk; 0 for no limit. OpenAI and vLLM allow 20 MB or more.
        max_request_bytes: Larger requests are not sent. OpenAI allows 50 MB.
        max_tokens_field: The endpoint's name for the most tokens to write. OpenAI's reasoning models accept
            ``max_completion_tokens`` only; vLLM and others know ``max_tokens``.
        proxy: URL of an HTTP proxy; "" for none. The proxies of the environment are not used: requests to localhost
            would go through them, and images would go where nobody has said.

    Raises:
        ValueError: A value is not allowed. The message never repeats credentials.
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
                f"the base URL for model {self.model!r} contains credentials, a query or a fragment; give it without "
                "them, and the key in an environment variable"
            )
        if not _is_http(self.base_url):
            raise ValueError(f"{self.base_url!r} is not the base URL of an endpoint, such as https://api.openai.com/v1")
        if not re.fullmatch(r"([A-Z_][A-Z0-9_]*)?", self.api_key_env):  # not repeated: it may be the key itself
            raise ValueError(
                f"the key of model {self.model!r} must be given as the name of an environment variable, such as "
                "OPENAI_API_KEY (capitals, digits and _), that holds the key"
            )
        if self.proxy and not _is_http(self.proxy):  # not repeated: it may hold credentials
            raise ValueError("the proxy is not given as a URL such as http://proxy.example:3128")
        if self.vision not in VISION:
            raise ValueError(f"unknown rule for image tokens {self.vision!r}; known: {', '.join(VISION)}")
        check_least(self, _LEAST)
        if self.timeout == 0:
            raise ValueError("timeout must be above 0 seconds")


def _is_http(url: str) -> bool:
    """Whether it is a URL of http or https with a host."""
    try:
        parts = urlsplit(url)
        readable = url.isprintable() and " " not in url
        return readable and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port, or unbalanced brackets
        return False


def read_key(variable: str) -> str:
    """The key in an environment variable, without surrounding white space; "" if `variable` is "".

    Raises:
        EndpointError: The variable is not set, or its value cannot be sent as a key.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(f"no key: the environment variable {variable} is not set; export {variable}=…")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"the value of the environment variable {variable} is not a key: it contains spaces or characters outside "
            f"ASCII; export {variable} again"
        )
    return key
