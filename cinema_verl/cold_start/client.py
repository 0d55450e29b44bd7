"""Interface only, for the moment."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cinema_verl.cold_start.ledger import Call, Ledger, Reply, Spending
from cinema_verl.data.canonical import ImageRef


class StopRun(RuntimeError):
    """Something that concerns the whole run; it says what and what to do. What is done is in the ledger."""


class BudgetReached(StopRun):
    """The next call could exceed the budget. Run again with a larger one: nothing is lost."""


class EndpointError(StopRun):
    """No key, a wrong key, an unknown model, not an OpenAI endpoint, or unreachable."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    base_url: str
    model: str
    api_key_env: str = ""  # "" for an endpoint that wants none
    prompt_price: float = 0.0  # per million tokens
    completion_price: float = 0.0
    requests_per_minute: float = 0.0  # 0: no limit
    tokens_per_minute: float = 0.0
    concurrency: int = 64
    timeout: float = 120.0
    max_retries: int = 6
    vision: str = "patch28"  # rule that estimates an image's tokens: patch28 (Qwen2.5-VL), patch32, tiles512 (GPT-4o)
    max_image_pixels: int = 0
    max_image_bytes: int = 20 << 20
    max_request_bytes: int = 50 << 20


class Client:
    """`async with Client(endpoint, ledger, budget) as client: reply = await client.complete(call, images)`"""

    def __init__(self, endpoint: Endpoint, ledger: Ledger, budget: float | None = None) -> None: ...
    async def __aenter__(self) -> "Client": ...
    async def __aexit__(self, *_: object) -> None: ...
    async def check(self) -> None: ...  # raises EndpointError
    async def complete(self, call: Call, images: Sequence[ImageRef] = ()) -> Reply: ...  # raises StopRun, LedgerError
    def estimate(self, call: Call, images: Sequence[ImageRef] = (), completion_tokens: int | None = None) -> float: ...
