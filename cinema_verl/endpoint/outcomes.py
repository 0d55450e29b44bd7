"""What an endpoint's answer means: a reply, a reason to ask again, or a reason to stop the run.

One table of status codes and one reader of completions, both pure; whatever a server sends, the result is one of three
and never an exception. Words from the server pass through `redact`, for servers repeat what they were sent.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from cinema_verl.endpoint.ledger import Reply

LONGEST_DETAIL: Final = 300
"""Characters that are kept of an error's text. Our choice."""
SECRET: Final = 16
"""Characters from which on a key is blotted out of replies, too. Our choice: "EMPTY" and other words that people give
to their own servers are no secret, and a trajectory may hold them."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again.

    Attributes:
        why: For the log, one kind of trouble one text.
        wait: Seconds that the endpoint asks to be left alone; None if it says nothing.
        maybe_paid: Whether the model may have answered all the same.
    """

    why: str
    wait: float | None = None
    maybe_paid: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """No call can go well: a key, a model, an address or an account is wrong; `why` says what to do."""

    why: str


def redact(text: str, key: str) -> str:
    """The text without the key."""
    return text.replace(key, "[key]") if key else text


def read(status: int, headers: Mapping[str, str], body: bytes, key: str = "") -> Reply | Again | Stop:
    """What came back for a chat completion.

    A reply's cost is left to the caller. Its token counts are -1 where the endpoint gives none.

    Args:
        headers: Looked up case-insensitively by their lower-case names.
        key: To be blotted out.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, Mapping) and isinstance(answer.get("error"), Mapping) and status < 400:
        # Gateways report what went wrong behind them with status 200 and the true code inside.
        code = answer["error"].get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
    if 300 <= status < 400:
        return Stop(f"it redirects to {redact(str(headers.get('location')), key)}: name that address if it is right")
    if status < 400:
        return _completion(answer, key if len(key) >= SECRET else "")
    code, words = _error(answer, body)
    detail = _storable(redact(f"HTTP {status}: {words}", key))[:LONGEST_DETAIL]  # cut last: half a key is one, too
    return _status(status, headers, code, detail)


def models(status: int, headers: Mapping[str, str], body: bytes, key: str = "") -> list[str] | Again | Stop:
    """What came back for the list of models: their names."""
    if status >= 300 and status not in (404, 405):
        trouble = read(status, headers, body, key)
        return Stop(trouble.text) if isinstance(trouble, Reply) else trouble
    try:
        return [_storable(redact(str(model["id"]), key)) for model in json.loads(body)["data"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return Stop(
            f"it gives no list of models (HTTP {status} at /models): it is not an OpenAI-compatible endpoint, or its "
            "base URL is another; most end in /v1"
        )


def _status(status: int, headers: Mapping[str, str], code: str, detail: str) -> Reply | Again | Stop:
    """An answer that is an error. `code` is the error's own, in lower case, with its type."""
    if re.search(r"insufficient_quota|billing|credit", code) or status == 402:
        return Stop(f"the account cannot pay for more ({detail})")
    if status == 401:
        return Stop(f"the key is refused ({detail})")
    if re.search(r"content_filter|content_policy|moderation|flagged", code):
        return Reply(detail, "", "filtered", 0, 0)
    if status == 403:
        return Stop(f"the key has no access ({detail})")
    if status in (404, 405) or "model_not_found" in code:
        return Stop(f"the endpoint has no such model or is not one ({detail})")
    if status in (408, 409, 425, 429) or status >= 500:
        # A gateway that gave up waiting does not say whether the model went on.
        return Again(f"HTTP {status}", retry_after(headers), maybe_paid=status in (408, 502, 504, 524))
    if status == 413 or ("image" in code and re.search("large|size|exceed", code)):
        return Reply(detail, "", "image_too_large")
    if "image" in code:
        return Reply(detail, "", "bad_image")
    return Reply(detail, "", "bad_request")


def _error(answer: Any, body: bytes) -> tuple[str, str]:
    """(code and type in lower case, message) of an error's body, whatever its form."""
    error = answer.get("error", answer) if isinstance(answer, Mapping) else None
    if not isinstance(error, Mapping):
        text = error if isinstance(error, str) else body.decode("utf-8", "replace")
        return "", " ".join(text.split())
    code = f"{error.get('code')} {error.get('type')}".lower()
    return code, " ".join(str(error.get("message") or error.get("detail") or error).split())


def _completion(answer: Any, key: str) -> Reply | Again:
    """An answer that says that it is a completion. The model may have been paid for one that cannot be read."""
    if not isinstance(answer, Mapping):
        return Again("an answer that is not JSON, or half of it", maybe_paid=True)
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
        outcome = "filtered"
    elif refusal or reason == "refusal":
        outcome = "refused"
    elif reason == "length":
        outcome = "truncated"
    else:
        outcome = "ok" if content and content.strip() else "empty"
    usage = answer.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return Reply(
        _storable(redact(content or refusal or "", key)),
        _storable(redact(reason, key)),
        outcome,
        _tokens(usage.get("prompt_tokens")),
        _tokens(usage.get("completion_tokens")),
        model=_storable(redact(str(answer.get("model") or ""), key)),
    )


def _storable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may escape and neither UTF-8 nor SQLite can hold."""
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
