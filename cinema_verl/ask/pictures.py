"""A user's pictures as a policy saw those of its training: upright, on white, of the sizes of its data."""

import base64
import binascii
import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image, ImageOps, UnidentifiedImageError

from cinema_verl.export.manner import Manner
from cinema_verl.utils.torchvision import ensure_torchvision_importable

_PNG_PIXELS: Final = 1 << 20
"""Up to here a picture is sent without loss; our choice: some megabytes. Larger ones become JPEG of quality 95."""

_THINNEST: Final = 200
"""From this ratio of sides on, the processors refuse a picture (qwen_vl_utils.MAX_RATIO)."""
_TOKENS: Final = 224
"""Pixels of a side that are whole tokens, of 28 and of 32 pixels: other sides may round to less than one."""


class BadPicture(ValueError):
    """A file cannot be used as a picture; the message says which, and why."""


def data_url(path: Path | BinaryIO, manner: Manner) -> str:
    """A picture as ``data:image/…;base64,…``, resized as in training where `manner` says how.

    Raises:
        BadPicture: it cannot be read, or has sides that the policy's processor does not take.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large; twice as large is an error
            with Image.open(path) as opened:
                picture = _on_white(ImageOps.exif_transpose(opened))
            if manner.min_pixels and manner.max_pixels:
                picture = _resized(picture, manner)
    except FileNotFoundError as error:
        raise BadPicture(f"{path}: there is no such picture") from error
    except IsADirectoryError as error:
        raise BadPicture(f"{path} is a folder: give each picture by an --image of its own") from error
    except UnidentifiedImageError as error:
        name = path if isinstance(path, Path) else "a picture"
        raise BadPicture(f"{name} is no picture that can be read: PNG, JPEG, WebP and their like are") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = path if isinstance(path, Path) else "a picture"
        raise BadPicture(f"{name} cannot be used: {error}") from error
    file = io.BytesIO()
    if picture.width * picture.height <= _PNG_PIXELS:
        kind = "png"
        picture.save(file, "PNG")
    else:
        kind = "jpeg"
        picture.save(file, "JPEG", quality=95)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def as_trained(url: str, manner: Manner) -> str:
    """A picture that came as a ``data:`` URL, as `data_url` gives one of a file.

    Raises:
        BadPicture: as `data_url`, and for any other URL.
    """
    head, _, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise BadPicture("pictures must be data:image/…;base64 URLs: nothing is fetched")
    try:
        return data_url(io.BytesIO(base64.b64decode(data, validate=True)), manner)
    except binascii.Error as error:
        raise BadPicture(f"a picture cannot be used: {error}") from error


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    return picture.convert("RGB")


def _resized(picture: Image.Image, manner: Manner) -> Image.Image:
    """As verl's data sets do it."""
    ensure_torchvision_importable()
    from qwen_vl_utils import fetch_image

    limits: dict[str, Any] = {"min_pixels": manner.min_pixels, "max_pixels": manner.max_pixels}
    try:
        resized: Image.Image = fetch_image({"image": picture, **limits})
    except ValueError:
        if max(picture.size) >= _THINNEST * min(picture.size):
            raise
        side = -(-max(picture.size) // _TOKENS) * _TOKENS
        # So few pixels leave nothing of the shorter side: of a policy that saw squares of one token, for example.
        resized = fetch_image({"image": ImageOps.pad(picture, (side, side), color="white"), **limits})
    return resized
