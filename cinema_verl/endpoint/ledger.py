"""The ledger of paid calls: what was asked, by content, and what it brought, in one SQLite file.

A reply is in the ledger before anybody sees it, so a run that is killed at any moment asks for nothing that it already
has. Every request is noted before it is sent and struck off when its fate is known: what is left after a kill or a
broken connection may have been paid, and is counted at the most it can have cost.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final

APPLICATION_ID: Final = 0x43494E45  # "CINE" in SQLite's header: how the file says whose it is
VERSION: Final = 1
OUTCOMES: Final[dict[str, str]] = {
    # outcome: what it means. The first five were answered by the endpoint and are in the ledger; the others cost
    # nothing, are not, and are asked again by the next run.
    "ok": "a whole reply",
    "truncated": "the reply reached max_tokens",
    "refused": "the model declined to answer",
    "filtered": "the endpoint's content filter stopped the request or the reply",
    "empty": "a whole reply without text",
    "image_too_large": "an image, or the request with its images, is over the endpoint's limit",
    "bad_image": "an image that cannot be read",
    "bad_request": "the endpoint will not take this request",
    "unavailable": "every attempt failed: time-outs, broken connections, rate limits, server errors",
}
"""How a call can end."""
LEDGERED: Final = frozenset(("ok", "truncated", "refused", "filtered", "empty"))


class LedgerError(RuntimeError):
    """The ledger cannot be opened or written. The run stops: a reply that cannot be kept must not be paid for."""


@dataclass(frozen=True)
class Call:
    """One request for one sample, named by its content.

    Attributes:
        purpose: "draft", "refine" or "explore"; costs are summed by it.
        model: Name at the endpoint.
        messages: OpenAI chat messages, JSON values. An image is the part ``{"type": "image", "sha256": "…"}``: the
            stored file's digest, so that the key is small and does not depend on how the image is sent.
        sampling: ``max_tokens`` (required: without it a call has no greatest cost), ``temperature``, ``top_p``, …:
            sent as they are.
        draw: Which sample of the same request this is, from 0.
    """

    purpose: str
    model: str
    messages: Sequence[Mapping[str, Any]]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0

    @cached_property
    def key(self) -> str:
        """Hex SHA-256 of the canonical JSON of all fields. Not of the endpoint's address: a model that moves to
        another server is not paid again.

        Raises:
            TypeError, ValueError: a value has no JSON form (NaN included).
        """
        record = [self.purpose, self.model, self.messages, self.sampling, self.draw]
        text = json.dumps(record, sort_keys=True, allow_nan=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended.

    Attributes:
        text: What the model wrote; for a refusal its words, for a call that failed the reason, keys blotted out.
        finish_reason: As the endpoint names it; "" if it said none.
        outcome: One of `OUTCOMES`.
        prompt_tokens, completion_tokens: As the endpoint counts them; 0 if it does not.
        cost: In the endpoint's currency, by its prices.
        model: As the endpoint names it.
    """

    text: str
    finish_reason: str
    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    model: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r} is none of {', '.join(OUTCOMES)}")


@dataclass(frozen=True, slots=True)
class Spending:
    """What a ledger adds up to.

    Attributes:
        calls: Finished and kept.
        prompt_tokens, completion_tokens: Of these.
        cost: Of these.
        maybe_paid: Requests whose fate is not known: the connection broke, or the process died, after they were sent.
        maybe_cost: The most that they can have cost.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    maybe_paid: int = 0
    maybe_cost: float = 0.0


_SCHEMA: Final = """
CREATE TABLE replies (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL, text TEXT NOT NULL,
    finish_reason TEXT NOT NULL, outcome TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, cost REAL NOT NULL, model TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE requests (id INTEGER PRIMARY KEY, key TEXT NOT NULL, purpose TEXT NOT NULL, most REAL NOT NULL);
"""
_COLUMNS: Final = ", ".join(column.name for column in fields(Reply))


class Ledger:
    """The SQLite file at `path`, made if absent; ``:memory:`` for one that is forgotten.

    One process at a time: the file is locked while it is open, and the lock goes with the process however it ends.
    WAL with ``synchronous=NORMAL``: what `put` returned from survives kill -9. After a power cut the file is whole, but
    calls since the last checkpoint (every 1000 pages, some 200 calls) may be missing and would be paid again; to wait
    for the disk more often (at each call, with ``FULL``) would hold up all the other calls for milliseconds.

    Raises:
        LedgerError: another process has it open; not a ledger, or of another version; damaged; cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if str(path) != ":memory:":
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"{path}: the ledger cannot be opened: {error}") from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._db.close()
            raise self._explained(error) from error
        except LedgerError:
            self._db.close()
            raise

    def _open(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the first read: then the lock is held from there on
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner != APPLICATION_ID and tables:
            raise LedgerError(f"{self.path} is an SQLite file of something else; give the ledger a path of its own")
        if tables and version != VERSION:
            raise LedgerError(
                f"{self.path} is a ledger of version {version}, and this is version {VERSION}: open it with the "
                "release that wrote it, or start a new one"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")  # takes the lock now, not at the first call
        if not tables:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
        spent = self.spent()
        self._committed = spent.cost + spent.maybe_cost
        self._flying: dict[int, float] = {}

    def _explained(self, error: sqlite3.Error) -> LedgerError:
        what = str(error)
        if "locked" in what:
            return LedgerError(f"{self.path}: another process has this ledger open (a run that is still going?)")
        if isinstance(error, sqlite3.DatabaseError) and ("not a database" in what or "malformed" in what):
            return LedgerError(f"{self.path} is not a ledger, or is damaged ({what}); move it away to start a new one")
        return LedgerError(f"{self.path}: the ledger cannot be read or written: {what}")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def get(self, call: Call) -> Reply | None:
        """What this call brought, or None if it has not been finished."""
        row = self._execute(f"SELECT {_COLUMNS} FROM replies WHERE key = ?", (call.key,)).fetchone()
        return row and Reply(*row)

    def begin(self, call: Call, most: float) -> int:
        """Note that a request is about to be sent that can cost at most `most`; returns its number."""
        cursor = self._execute(
            "INSERT INTO requests (key, purpose, most) VALUES (?, ?, ?)", (call.key, call.purpose, most)
        )
        assert cursor.lastrowid is not None
        self._flying[cursor.lastrowid] = most
        self._committed += most
        return cursor.lastrowid

    def strike(self, request: int) -> None:
        """The request was certainly not paid for: it did not arrive, or the endpoint turned it down."""
        self._execute("DELETE FROM requests WHERE id = ?", (request,))
        self._committed -= self._flying.pop(request)

    def leave(self, request: int) -> None:
        """Nothing more will be known of the request; without effect if it has been struck off or answered."""
        self._flying.pop(request, None)

    @property
    def committed(self) -> float:
        """What is spent and the most that may have been, requests in flight included; without reading the file."""
        return self._committed

    @property
    def in_flight(self) -> int:
        """Requests begun here of which nothing is known yet."""
        return len(self._flying)

    def put(self, call: Call, reply: Reply, request: int | None = None) -> None:
        """Keep what a call brought, and strike off its request, in one transaction.

        Raises:
            ValueError: the outcome is not the endpoint's answer (`LEDGERED`).
            LedgerError: the call is there already, or the file cannot be written; then nothing has changed.
        """
        if reply.outcome not in LEDGERED:
            raise ValueError(f"outcome {reply.outcome!r} is no answer of the endpoint and may be asked again")
        self._execute("BEGIN IMMEDIATE")
        try:
            self._execute(
                f"INSERT INTO replies (key, purpose, {_COLUMNS}, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (call.key, call.purpose, *astuple(reply), time.time()),
            )
            if request is not None:
                self._execute("DELETE FROM requests WHERE id = ?", (request,))
            self._execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._committed += reply.cost - (0.0 if request is None else self._flying.pop(request))

    def spent(self, purpose: str | None = None) -> Spending:
        """What is finished, and what may have been paid beside it; of one purpose or of all."""
        where, values = ("WHERE purpose = ?", (purpose,)) if purpose else ("", ())
        finished = self._execute(
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),"
            f" coalesce(sum(cost), 0.0) FROM replies {where}",
            values,
        ).fetchone()
        unknown = self._execute(f"SELECT count(*), coalesce(sum(most), 0.0) FROM requests {where}", values).fetchone()
        return Spending(*finished, *unknown)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
