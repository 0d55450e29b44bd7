"""The fields of a source's row, read so that one of another type is named: what was expected, and what is there.

NaN is null here: it is what pandas writes for a cell without a value, whatever the column's type.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import FILE, Media

Row = Mapping[str, Any]

VIDEO_SUFFIXES: Final = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")


def text(row: Row, name: str, default: str | None = None) -> str:
    """A text; numbers are written out. An absent, null or empty one is `default`, if there is one.

    Raises:
        Rejected: ``bad_record``.
    """
    value = _value(row, name)
    if isinstance(value, (int, float)):
        value = str(value)
    if value is None or (value == "" and default is not None):
        if default is None:
            raise bad(name, "text", value)
        return default
    if not isinstance(value, str):
        raise bad(name, "text", value)
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can say and no file can hold
        raise bad(name, "Unicode text", value) from None
    return value


def number(row: Row, name: str) -> float | None:
    """A number, also one that is written as text; None if absent, null or empty.

    Raises:
        Rejected: ``bad_record``, also for an infinite one.
    """
    value = _value(row, name)
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (OverflowError, TypeError, ValueError):
        raise bad(name, "a number", value) from None
    if math.isinf(found):
        raise bad(name, "a number", value)
    return None if math.isnan(found) else found  # "nan", from a CSV


def items(row: Row, name: str) -> list[Any]:
    """A list; absent or null is empty.

    Raises:
        Rejected: ``bad_record``.
    """
    value = _value(row, name)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise bad(name, "a list", value)
    return list(value)


def record(row: Row, name: str) -> Row:
    """An object; absent or null is empty.

    Raises:
        Rejected: ``bad_record``.
    """
    value = _value(row, name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise bad(name, "an object", value)
    return value


def texts(row: Row, name: str) -> list[str]:
    """A list of texts; numbers in it are written out."""
    return [text({name: item}, name) for item in items(row, name)]


def pictures(value: Any, name: str = "images") -> tuple[Media, ...]:
    """Images as sources hold them: a path, a ``{"bytes", "path"}`` of Hugging Face, bytes, or a list of these.

    Raises:
        Rejected: ``bad_record``.
    """
    if _is_null(value):
        return ()
    if isinstance(value, (list, tuple)):
        if any(map(_is_null, value)):  # leaving it out would leave the question with fewer than it is about
            raise bad(name, "an image in each place of the list", None)
        return tuple(medium for item in value for medium in pictures(item, name))
    if isinstance(value, bytes):
        return (Media("image", data=value),)
    if isinstance(value, str) and value:
        return (Media("image", path=relative(value)),)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return (Media("image", data=value["bytes"]),)
    if isinstance(value, Mapping) and isinstance(path := value.get("path") or value.get("image"), str):
        return (Media("image", path=relative(path)),)
    raise bad(name, "a path or an image with bytes", value)


def video(
    path: str,
    start: float | None = None,
    end: float | None = None,
    *,
    places: Iterable[str | Media] = (),
    to_end: bool = False,
) -> tuple[Media, ...]:
    """A video; `places` are other paths of the same part of it, or have a part of their own: see `Media.places`."""
    others = (
        place if isinstance(place, Media) else Media("video", relative(place), None, start, end, to_end)
        for place in places
    )
    return (Media("video", relative(path), None, start, end, to_end, tuple(others)),)


def with_places(media: Iterable[Media], *folders: str) -> tuple[Media, ...]:
    """Images that are named without their folder, which may be one of these."""
    return tuple(
        replace(medium, places=tuple(Media("image", f"{folder}/{medium.path}") for folder in folders))
        if medium.path
        else medium
        for medium in media
    )


def stem(row: Row) -> str:
    """The name of the file that the row is in, in small letters and without its ending; "" where it is not known."""
    return PurePosixPath(row.get(FILE, "")).stem.casefold()


def is_video(path: str) -> bool:
    return PurePosixPath(path.lower()).suffix in VIDEO_SUFFIXES


def relative(path: str) -> str:
    """A path below the media root. ``./a.png`` is ``a.png``; ``file:///a/b.png`` is looked for as ``a/b.png``.

    Everything else, also a path that leads out of the root, stays as it is for the pipeline to judge.
    """
    if path.startswith("file://"):
        return path.removeprefix("file://").lstrip("/")
    return path.removeprefix("./")


def content_id(*parts: object) -> str:
    """An id for sources that have none: 16 hex digits of the SHA-256 of what makes the row this row."""
    hashed = [
        [part.path, part.start, part.end, hashlib.sha256(part.data).hexdigest() if part.data else ""]
        if isinstance(part, Media)
        else part
        for part in parts
    ]
    return hashlib.sha256(json.dumps(hashed, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def sub_source(source: str, name: str) -> str:
    """``source/name`` with a name that is fit for a metric and a path; the source alone if the name is empty."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.")
    return f"{source}/{name}" if name else source


def _value(row: Row, name: str) -> Any:
    value = row.get(name)
    return None if _is_null(value) else value


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def bad(name: str, expected: str, value: object) -> Rejected:
    got = "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
    return Rejected("bad_record", f"field {name!r}: expected {expected}, got {got}")
