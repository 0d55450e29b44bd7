"""Self-contained HTML pages: templates that escape, images as thumbnails inside the page, one look.

What a page shows (questions, options, rollouts) is untrusted: everything goes through Jinja's autoescape, data for
scripts through `json_for_script`, and the page forbids itself, by its Content-Security-Policy, to load anything.
"""

import base64
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup
from PIL import Image, ImageOps

THUMBNAIL_SIDE: Final = 160
"""Pixels of the longer side. Our choice: enough to tell what is shown, about 4 KB each."""


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cinema_verl", "templates/pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = json_for_script
    return environment


def render(template: str, **values: Any) -> str:
    """One page from a template of ``templates/pages``, which extends ``base.html``.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.
    """
    return _environment().get_template(template).render(**values)


def json_for_script(value: Any) -> Markup:
    """JSON that may stand inside a ``<script>`` element whatever its strings hold.

    Raises:
        ValueError: a number that JSON does not know (NaN, infinity).
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def thumbnail(path: str | Path, side: int = THUMBNAIL_SIDE) -> str:
    """A small picture as a ``data:`` URI.

    Small pictures of few colours (scans, drawings) become PNG and keep their pixels, the rest JPEG.

    Raises:
        OSError: the file cannot be read as an image (Pillow's UnidentifiedImageError is one).
    """
    with Image.open(path) as opened:
        opened.draft("RGB", (side, side))
        image = ImageOps.exif_transpose(opened)
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        kind = "png" if image.mode in ("1", "L", "P", "I;16", "LA") or max(opened.size) <= side else "jpeg"
        if kind == "jpeg":
            image.convert("RGB").save(buffer, "JPEG", quality=70, optimize=True)
        else:
            image.convert("L" if image.mode in ("1", "L") else "RGBA").save(buffer, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
