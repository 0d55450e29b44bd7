"""What people write into the cells of their own rows: lists as text with ``;``, paths as URLs of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cinema_verl.prepare.draft import Media
from cinema_verl.prepare.sources import fields


def media(row: fields.Row) -> tuple[Media, ...]:
    """The row's ``images``, ``image`` and ``video``, in this order.

    Raises:
        Rejected: ``bad_record``.
    """
    images = fields.pictures([_local(image) for image in _items(row, "images")])
    images += fields.pictures(_local(row.get("image")), "image")
    path = _local(fields.text(row, "video", ""))
    return images + fields.video(path) if path else images


def texts(row: fields.Row, name: str) -> list[str]:
    """The texts of a list, or of a text that separates them by ``;``.

    Raises:
        Rejected: ``bad_record``.
    """
    return fields.texts({name: _items(row, name)}, name)


def _items(row: fields.Row, name: str) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str):
        items = [item.strip() for item in re.split(r";(?!base64,)", value)]  # not inside a data: URI
        return items if items[-1] else items[:-1]  # an empty one between others is a mistake, and is found as one
    return fields.items(row, name)


def _local(value: Any) -> Any:
    """A picture with the absolute path that ``file:///a/b.png`` names; None for an empty cell."""
    if isinstance(value, Mapping) and isinstance(path := value.get("path") or value.get("image"), str):
        return {**value, "path": _local(path)}
    return (value.removeprefix("file://") or None) if isinstance(value, str) else value
