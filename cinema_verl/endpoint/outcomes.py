"""How a call can end, and how an endpoint's answer is read: a reply, a reason to try again, or a reason to stop.

One table of outcomes, one of status codes, and one reader of completions. All are pure: whatever a server sends,
reading it raises no exception. Text from the server passes through `redact`, because servers repeat what they
were sent.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

LONGEST_DETAIL: Final = 300
"""Characters kept of an error's text. Our choice."""
SECRET: Final = 16
"""Shortest key that is also removed from replies. Our choice: "EMPTY" and other words that people give to their own
servers are not secret, and a trajectory may contain them."""


class Outcome(str, Enum):
    """How a call ended. The values are what ledger and result files store.

    Attributes:
        meaning: For people; it completes "the last reply: …".
        ledgered: The endpoint answered. The reply is kept in the ledger at its cost and never asked for again; calls
            with any other outcome are made again by the next run.
        turned_down: The endpoint (or our own check before it) does not take the request, which costs nothing. One such
            call is the fault of its question; many in a row are the fault of the run.
    """

    OK = "ok", "a whole reply", True, False
    TRUNCATED = "truncated", "cut off at max_tokens", True, False
    REFUSED = "refused", "the model declined to answer", True, False
    FILTERED = "filtered", "the endpoint's content filter stopped the request or the reply", True, False
    EMPTY = "empty", "a whole reply without text", True, False
    IMAGE_TOO_LARGE = "image_too_large", "an image, or the request with it, is over the endpoint's limit", False, True
    BAD_IMAGE = "bad_image", "an image cannot be read", False, True
    BAD_REQUEST = "bad_request", "the endpoint does not take the request", False, True
    # Attempts whose end is not known may have been paid; the ledger counts each of them at its greatest cost.
    UNAVAILABLE = (
        "unavailable",
        "every attempt failed (no connection, time-out, rate limit, server error)",
        False,
        False,
    )

    meaning: str
    ledgered: bool
    turned_down: bool

    def __new__(cls, value: str, meaning: str = "", ledgered: bool = False, turned_down: bool = False) -> Outcome:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.ledgered, member.turned_down = meaning, ledgered, turned_down
        return member

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended, and with what.

    Attributes:
        text: What the model wrote; its words for a refusal, and the reason for a call that failed. It never contains
            the key.
        finish_reason: As the endpoint names it; "" if it gives none.
        outcome: How the call ended.
        prompt_tokens, completion_tokens: As the endpoint counts them; 0 (-1 before the ledger) if it does not.
        cost: In the currency of the endpoint's prices.
        model: As the endpoint names it.
        reasoning: The model's own reasoning where the endpoint gives it in a field of its own (``reasoning_content`` or
            ``reasoning``), which is never part of `text`.
    """

    text: str
    finish_reason: str
    outcome: Outcome
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    model: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt may help.

    Attributes:
        why: For the log; the same text for the same kind of trouble.
        wait: Seconds for which the endpoint asks not to be called; None if it says nothing.
        maybe_paid: Whether the model may have answered nevertheless.
    """

    why: str
    wait: float | None = None
    maybe_paid: bool = False


@dataclass(frozen=True, slots=True)
class Unlisted:
    """There is no list of models that could be read. `why` says what there is instead."""

    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """No call can succeed: the key, the model, the address or the account is wrong. `why` says which."""

    why: str


def redact(text: str, key: str) -> str:
    """The text without the key."""
    return text.replace(key, "[key]") if key else text


def read(status: int, headers: Mapping[str, str], body: bytes, key: str = "") -> Reply | Again | Stop:
    """Read the answer to a chat completion.

    Args:
        headers: Looked up by lower-case names.
        key: Removed from every text.

    Returns:
        A reply has no cost yet, and token counts of -1 where the endpoint gives none.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, Mapping) and isinstance(answer.get("error"), Mapping) and status < 400:
        # Gateways report an error behind them with status 200 and the true code inside.
        code = answer["error"].get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
    if 300 <= status < 400:
        return Stop(f"it redirects to {redact(str(headers.get('location')), key)}: give that address if it is correct")
    if status < 400:
        return _completion(answer, key if len(key) >= SECRET else "")
    code, words = _error(answer, body)
    detail = _storable(redact(f"HTTP {status}: {words}", key))[:LONGEST_DETAIL]  # cut last: half a key is a secret, too
    return _status(status, headers, code, detail)


NO_LIST: Final = (400, 403, 404, 405, 501)
"""Status codes of endpoints that have no list of models, or do not show it to this key, and may serve the model."""


def models(status: int, headers: Mapping[str, str], body: bytes, key: str = "") -> list[str] | Again | Stop | Unlisted:
    """Read the answer to a request for the list of models: their names."""
    if status >= 300 and status not in NO_LIST:
        trouble = read(status, headers, body, key)
        return Unlisted(trouble.text) if isinstance(trouble, Reply) else trouble
    try:
        found = json.loads(body)
        listed = found if isinstance(found, list) else found["data"]
        if names := [_storable(redact(str(model["id"]), key)) for model in listed]:
            return names
    except (ValueError, LookupError, TypeError, RecursionError):
        pass  # said below, with the status
    return Unlisted(
        f"it gives no list of models (HTTP {status} at /models): it is not an OpenAI-compatible endpoint, or its "
        "base URL is a different one (most end in /v1), or it keeps no list"
    )


def _status(status: int, headers: Mapping[str, str], code: str, detail: str) -> Reply | Again | Stop:
    """Read an error. `code` is the error's own code and type, in lower case."""
    if re.search(r"insufficient_quota|billing|credit", code) or status == 402:
        return Stop(f"the account cannot pay for more ({detail})")
    if status == 401:
        return Stop(f"the key is refused ({detail})")
    if re.search(r"content_filter|content_policy|moderation|flagged", code):
        return Reply(detail, "", Outcome.FILTERED)
    if status == 403:
        return Stop(f"the key has no access ({detail})")
    if status in (404, 405) or "model_not_found" in code:
        return Stop(f"there is no such model, or no endpoint at this address ({detail})")
    if status in (408, 409, 425, 429) or status >= 500:
        # A gateway that gave up waiting does not say whether the model went on.
        return Again(f"HTTP {status}", retry_after(headers), maybe_paid=status in (408, 502, 504, 524))
    if status == 413 or ("image" in code and re.search("large|size|exceed", code)):
        return Reply(detail, "", Outcome.IMAGE_TOO_LARGE)
    if "image" in code:
        return Reply(detail, "", Outcome.BAD_IMAGE)
    return Reply(detail, "", Outcome.BAD_REQUEST)


def _error(answer: Any, body: bytes) -> tuple[str, str]:
    """(code and type in lower case, message) of an error's body, in whatever form."""
    error = answer.get("error", answer) if isinstance(answer, Mapping) else None
    if not isinstance(error, Mapping):
        text = error if isinstance(error, str) else body.decode("utf-8", "replace")
        return "", " ".join(text.split())
    code = f"{error.get('code')} {error.get('type')}".lower()
    return code, " ".join(str(error.get("message") or error.get("detail") or error).split())


def _completion(answer: Any, key: str) -> Reply | Again:
    """Read a completion. One that cannot be read may have been paid nevertheless."""
    if not isinstance(answer, Mapping):
        return Again("an answer that is not JSON, or only part of it", maybe_paid=True)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return Again("a completion without choices", maybe_paid=True)
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):  # parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    if not isinstance(content, str | None) or not isinstance(refusal, str | None):
        return Again("a completion whose content is not text", maybe_paid=True)
    reason = str(choice.get("finish_reason") or "")
    if reason == "error":
        return Again("a completion that broke off with an error", maybe_paid=True)
    if reason == "content_filter":
        outcome = Outcome.FILTERED
    elif refusal or reason == "refusal":
        outcome = Outcome.REFUSED
    elif reason == "length":
        outcome = Outcome.TRUNCATED
    else:
        outcome = Outcome.OK if content and content.strip() else Outcome.EMPTY
    usage = answer.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return Reply(
        _storable(redact(content or refusal or "", key)),
        _storable(redact(reason, key)),
        outcome,
        _tokens(usage.get("prompt_tokens")),
        _tokens(usage.get("completion_tokens")),
        model=_storable(redact(str(answer.get("model") or ""), key)),
        reasoning=_storable(redact(_reasoning(message), key)),
    )


def _reasoning(message: Mapping[str, Any]) -> str:
    """The model's own reasoning, under the names that endpoints give it."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(found := message.get(name), str) and found.strip():
            return found
    return ""


def _storable(text: str) -> str:
    """The text without lone surrogates, which JSON can escape and neither UTF-8 nor SQLite can hold."""
    return text.encode("utf-8", "replace").decode()


def _tokens(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else -1


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of ``retry-after-ms``, or of ``retry-after`` as a number or an HTTP date; None if neither can be read."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name) or "") * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after") or "").timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
