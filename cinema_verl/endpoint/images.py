"""Stored images as data URLs that an endpoint accepts: read, checked against their digest, and shrunk if necessary.

The encoded images used last are kept, up to a number of bytes, because all draws of a question send the same ones.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from PIL import Image

from cinema_verl.endpoint.outcomes import Outcome

KEPT_BYTES: Final = 128 << 20
"""Most bytes of data URLs to keep. Our choice: the images of some hundred questions in flight."""
QUALITY: Final = 90
"""JPEG quality of shrunk images. Our choice: above it, files grow quickly."""
TRIES: Final = 6
"""Attempts to shrink an image. Our choice: each halves the area, so an image may be 32 times too large."""
TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that both OpenAI's endpoint and vLLM read."""


class StoredImage(Protocol):
    """An image file, its size in pixels, and the hex SHA-256 of its bytes. `data.canonical.StoredImage` is one."""

    @property
    def path(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class ImageProblem(Exception):
    """An image that cannot be sent: `outcome` is ``BAD_IMAGE`` or ``IMAGE_TOO_LARGE``, the message says why."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The most pixels, and bytes of the file, that an endpoint accepts of one image; 0 for no limit."""

    max_pixels: int = 0
    max_bytes: int = 0

    def admit(self, pixels: int, size: int) -> bool:
        return (not self.max_pixels or pixels <= self.max_pixels) and (not self.max_bytes or size <= self.max_bytes)


class DataURLs:
    """Data URLs of images by their digest, for one event loop; files are read in threads."""

    def __init__(self, limits: ImageLimits = ImageLimits(), kept_bytes: int = KEPT_BYTES) -> None:
        self.limits, self.kept_bytes = limits, kept_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._making: dict[str, asyncio.Future[bytes]] = {}

    async def get(self, image: StoredImage) -> bytes:
        """The URL of one image. Callers that ask for it at the same time share one reading of the file.

        Raises:
            ImageProblem: See `data_url`.
        """
        name = image.sha256
        if url := self._kept.get(name):
            self._kept.move_to_end(name)
            return url
        making = self._making.get(name)
        if making is None:
            making = self._making[name] = asyncio.ensure_future(asyncio.to_thread(data_url, image, self.limits))
            making.add_done_callback(lambda made: self._keep(name, made))
        return await asyncio.shield(making)

    def _keep(self, name: str, made: asyncio.Future[bytes]) -> None:
        del self._making[name]
        if made.cancelled() or made.exception():
            return
        self._kept[name] = made.result()
        self._bytes += len(made.result())
        while self._bytes > self.kept_bytes and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1])


def data_url(image: StoredImage, limits: ImageLimits = ImageLimits()) -> bytes:
    """``data:image/…;base64,…``, as bytes that JSON need not escape; the file itself if the limits allow.

    Raises:
        ImageProblem: The file is absent, is not an image, does not have the digest of the reference, or cannot be
            brought under the limits.
    """
    try:
        content = Path(image.path).read_bytes()
    except OSError as error:
        raise ImageProblem(Outcome.BAD_IMAGE, f"{image.path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise ImageProblem(
            Outcome.BAD_IMAGE,
            f"{image.path} is not the image that was stored there: its digest differs; prepare the data again",
        )
    try:
        with Image.open(io.BytesIO(content)) as opened:
            kind = TYPES.get(opened.format or "")
            if kind is None or not limits.admit(opened.width * opened.height, len(content)):
                kind, content = _shrunk(opened, limits, image.path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageProblem(Outcome.BAD_IMAGE, f"{image.path} cannot be decoded: {error}") from error
    return b"data:%s;base64,%s" % (kind.encode(), base64.b64encode(content))


def _shrunk(image: Image.Image, limits: ImageLimits, path: str) -> tuple[str, bytes]:
    if image.has_transparency_data:  # on white, as qwen_vl_utils lays it
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    image = image.convert("RGB")
    area = min(image.width * image.height, limits.max_pixels or math.inf)
    for _ in range(TRIES):
        scale = min(1.0, math.sqrt(area / (image.width * image.height)))
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        file = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY)
        content = file.getvalue()
        if limits.admit(size[0] * size[1], len(content)):
            return TYPES["JPEG"], content
        area /= 2
    raise ImageProblem(
        Outcome.IMAGE_TOO_LARGE,
        f"{path}: {len(content)} bytes at {size[0]} x {size[1]} pixels are still over the endpoint's limit of "
        f"{limits.max_bytes} bytes and {limits.max_pixels or 'any number of'} pixels",
    )
