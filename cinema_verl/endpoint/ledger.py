"""The ledger of paid calls: every call by its content, and its reply, in one SQLite file.

A reply is in the ledger before anybody sees it, so a run that is killed at any moment asks for nothing that it already
has. Every request is noted before it is sent, and the note is deleted when it is known whether the request was paid.
Notes that are left after a kill or a broken connection may have been paid, and count at the most they can have cost.
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

from cinema_verl.endpoint.outcomes import Outcome, Reply

APPLICATION_ID: Final = 0x43494E45  # "CINE" in SQLite's header: how the file says whose it is
VERSION: Final = 2


class LedgerError(RuntimeError):
    """The ledger cannot be opened or written. The run stops, because a reply that cannot be kept must not be paid."""


@dataclass(frozen=True)
class Call:
    """One request for one sample, named by its content.

    Attributes:
        purpose: "draft", "refine", "explore" or "probe"; costs are summed by purpose.
        model: Name at the endpoint.
        messages: OpenAI chat messages, JSON values. An image is the part ``{"type": "image", "sha256": "…"}``: the
            digest of the stored file, so that the key is small and does not depend on how the image is sent.
        sampling: ``max_tokens`` (required: without it the cost of a call has no upper bound), ``temperature``,
            ``top_p`` and so on, sent as they are.
        draw: Number of this sample of the same request, from 0.
    """

    purpose: str
    model: str
    messages: Sequence[Mapping[str, Any]]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0

    @cached_property
    def key(self) -> str:
        """Hex SHA-256 of the canonical JSON of all fields. The endpoint's address is not among them: a model that moves
        to another server is not paid again.

        Raises:
            TypeError, ValueError: A value has no JSON form (NaN included).
        """
        record = [self.purpose, self.model, self.messages, self.sampling, self.draw]
        text = json.dumps(record, sort_keys=True, allow_nan=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Spending:
    """The sums of a ledger.

    Attributes:
        calls: Number of finished calls.
        prompt_tokens, completion_tokens, cost: Sums over the finished calls.
        maybe_paid: Number of requests that may have been paid: the connection broke, or the process died, after they
            were sent.
        maybe_cost: The most that these can have cost.
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
    completion_tokens INTEGER NOT NULL, cost REAL NOT NULL, model TEXT NOT NULL, at REAL NOT NULL,
    reasoning TEXT NOT NULL DEFAULT ''
);
CREATE TABLE requests (id INTEGER PRIMARY KEY, key TEXT NOT NULL, purpose TEXT NOT NULL, most REAL NOT NULL);
"""
_UPGRADE: Final = "ALTER TABLE replies ADD COLUMN reasoning TEXT NOT NULL DEFAULT ''"
"""From version 1, which has everything else: what is paid stays known."""
_COLUMNS: Final = ", ".join(column.name for column in fields(Reply))


class Ledger:
    """The SQLite file at `path`, made if absent; ``:memory:`` for one that is not kept.

    One process at a time: the file is locked while it is open, and the lock ends with the process. The journal is WAL
    with ``synchronous=NORMAL``: what `put` has written survives kill -9. After a power cut the file is valid, but
    calls since the last checkpoint (every 1000 pages, some 200 calls) may be missing and would be paid again. Waiting
    for the disk at each call (``FULL``) would delay all other calls by milliseconds.

    Raises:
        LedgerError: Another process has it open, it is not a ledger, of another version, damaged, or not writable.
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
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the first read, so that the lock is held from then on
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner != APPLICATION_ID and tables:
            raise LedgerError(f"{self.path} is an SQLite file of another program; give the ledger a path of its own")
        if tables and version not in (1, VERSION):
            raise LedgerError(
                f"{self.path} is a ledger of version {version}, and this release reads version {VERSION}: open it with "
                "the release that wrote it, or start a new one"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")  # takes the lock now, not at the first call
        if not tables:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        elif version != VERSION:
            db.execute(_UPGRADE)
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
        """The reply to this call, or None if it has not been finished."""
        row = self._execute(f"SELECT {_COLUMNS} FROM replies WHERE key = ?", (call.key,)).fetchone()
        if row is None:
            return None
        text, reason, outcome, *others = row
        return Reply(text, reason, Outcome(outcome), *others)

    def begin(self, call: Call, most: float) -> int:
        """Note a request that is about to be sent and can cost at most `most`; returns its number."""
        cursor = self._execute(
            "INSERT INTO requests (key, purpose, most) VALUES (?, ?, ?)", (call.key, call.purpose, most)
        )
        assert cursor.lastrowid is not None
        self._flying[cursor.lastrowid] = most
        self._committed += most
        return cursor.lastrowid

    def strike(self, request: int) -> None:
        """Delete the note of a request that was certainly not paid: it did not arrive, or was turned down."""
        self._execute("DELETE FROM requests WHERE id = ?", (request,))
        self._committed -= self._flying.pop(request)

    def leave(self, request: int) -> None:
        """The request has ended. Unless it was struck or answered, its note stays: it may have been paid."""
        self._flying.pop(request, None)

    @property
    def committed(self) -> float:
        """What is spent and the most that may have been, requests in flight included. Does not read the file."""
        return self._committed

    @property
    def in_flight(self) -> int:
        """Number of requests that have begun and not ended."""
        return len(self._flying)

    def put(self, call: Call, reply: Reply, request: int | None = None) -> None:
        """Keep the reply to a call, and delete the note of its request, in one transaction.

        Raises:
            ValueError: The outcome is not an answer of the endpoint (`Outcome.ledgered`).
            LedgerError: The call is there already, or the file cannot be written. Then nothing has changed.
        """
        if not reply.outcome.ledgered:
            raise ValueError(f"the outcome {reply.outcome} is not an answer of the endpoint, and may be asked again")
        values = [str(value) if isinstance(value, Outcome) else value for value in astuple(reply)]
        self._execute("BEGIN IMMEDIATE")
        try:
            self._execute(
                f"INSERT INTO replies (key, purpose, at, {_COLUMNS}) VALUES (?, ?, ?{', ?' * len(values)})",
                (call.key, call.purpose, time.time(), *values),
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
        """What is spent, and what may have been paid besides, for one purpose or for all."""
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
