"""Pictures of any kind become files that every reader sees alike: upright, 8 bits, opaque, of a limited area.

Each is decoded once, completely, before it is stored: a picture that cannot be decoded, or could not become vision
tokens, is `Rejected` here by name, and not found by a trainer. A file is named by the SHA-256 of its bytes, so that the
same picture is stored once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from cinema_verl.data.canonical import ImageRef, Rejected
from cinema_verl.data.tokens import (
    MIN_SIDE,
    QWEN2_5_VL,
    ImageSizeError,
    check_ratio,
    smart_resize,
)
from cinema_verl.prepare.media.phash import phash
from cinema_verl.utils.files import atomic_write

MAX_SOURCE_PIXELS: Final = 89_478_485
"""Pillow's own limit against decompression bombs (``Image.MAX_IMAGE_PIXELS``): 256 MiB once decoded."""
QUALITY: Final = 92
"""JPEG quality of what has to be encoded again. Our choice: text in charts stays sharp."""
FILTER: Final = Image.Resampling.BICUBIC
"""What qwen_vl_utils shrinks with, so that the policy sees what it would have seen of the source. Lanczos takes a third
longer."""

# Our choice: the formats that datasets have, without rare ones and those that Pillow gives to other programs (EPS).
_WANTED: Final = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "TIFF", "WEBP")
_LOSSY: Final = frozenset({"AVIF", "HEIF", "JPEG", "JPEG2000", "MPO", "WEBP"})
_HEIC_HINT: Final = (
    "; it is HEIC, as telephones write it: install pillow-heif (pip install pillow-heif) and run again, or convert it"
)
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


def _formats() -> tuple[str, ...]:
    """Those of `_WANTED` that this installation reads; HEIC if pillow-heif is installed."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _WANTED if name in Image.OPEN)


_FORMATS: Final = _formats()
_DECODE_GAP: Final = 2.0
"""Shrink cheaply (in JPEG's own transform, by boxes) to this multiple of the target, then well, as Pillow's thumbnails
are made."""

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


class ImageStore:
    """The pictures of a dataset: ``ab/<sha256>.jpg`` or ``.png`` below one folder.

    Any number of processes may store into one folder at a time. Equal bytes give an equal file (with one version of
    Pillow); a file is there whole or not at all.

    Args:
        directory: The folder, ``DATASET/images``; made when the first picture is stored.
        max_pixels: Area that larger pictures are shrunk to, keeping their shape.
        factor: As in `shrunk_size`.
    """

    def __init__(self, directory: str | Path, max_pixels: int, factor: int = QWEN2_5_VL.factor) -> None:
        if max_pixels < MIN_SIDE**2:
            raise ValueError(f"max_pixels {max_pixels} leaves no room for sides of {MIN_SIDE} px")
        self.directory = Path(directory).absolute()
        self.max_pixels = max_pixels
        self.factor = factor

    def put(self, data: bytes) -> ImageRef:
        """Store the picture that a file's bytes hold.

        A JPEG or PNG file that needs no change is stored as it is. Everything else is encoded again, without metadata:
        as JPEG what was lossy before, as PNG the rest. Transparency is laid on white, as qwen_vl_utils does; of 16 bits
        the upper 8 are kept; colour profiles are not applied, as no reader on verl's way does.

        Raises:
            Rejected: ``image_format``, ``image_broken``, ``image_animated``, ``image_too_large`` or
                ``image_too_thin``.
            OSError: the folder cannot be written, or the disk is full.
        """
        with _decoding(f"{len(data)} bytes", data[:64]):
            image = Image.open(BytesIO(data), formats=_FORMATS)
            kind, source_size = str(image.format), image.size
            size = self._target(source_size)
            if kind != "MPO" and getattr(image, "is_animated", False):
                raise Rejected("image_animated", f"{kind} with {getattr(image, 'n_frames', 'several')} frames or pages")
            box = None
            if size != source_size and (
                drafted := image.draft(None, (int(size[0] * _DECODE_GAP), int(size[1] * _DECODE_GAP)))
            ):
                box = drafted[1]
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            plain = _plain(image)
            unchanged = kind in ("JPEG", "PNG") and plain is image and turn is None and size == source_size
            upright = _upright(plain, size, box, turn)
        if unchanged:
            return self._write(data, kind, upright)
        kind = "JPEG" if kind in _LOSSY else "PNG"
        return self._write(self._encoded(upright, kind), kind, upright)

    def put_image(self, image: Image.Image) -> ImageRef:
        """Store a decoded picture, such as a video's frame, as JPEG.

        Raises:
            Rejected: as `put` does, for its size.
            OSError: as `put` does.
        """
        upright = _upright(_plain(image), self._target(image.size), None, None)
        return self._write(self._encoded(upright, "JPEG"), "JPEG", upright)

    def sync(self) -> None:
        """Wait until all that was stored is on the disk. Call it before a file that names the pictures is written.

        `put` itself does not wait: kill -9 takes nothing, and only a crash of the whole machine needs this.
        """
        os.sync()

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that a picture of this size is stored with. Nothing is decoded yet."""
        width, height = size
        if width * height > MAX_SOURCE_PIXELS:
            raise Rejected("image_too_large", f"{width}x{height} px are over {MAX_SOURCE_PIXELS} pixels")
        target = shrunk_size(width, height, self.max_pixels, self.factor)
        try:
            for sides in dict.fromkeys((size, target)):
                check_ratio(*sides)
        except ImageSizeError as error:
            shrunk = "" if target == size else f"{width}x{height} px, shrunk to within {self.max_pixels} pixels: "
            raise Rejected(error.reason, f"{shrunk}{error}") from error
        return target

    def _encoded(self, image: Image.Image, kind: str) -> bytes:
        image.info = {}  # Pillow would write comments, profiles and transparency out of it
        buffer = BytesIO()
        if kind == "JPEG":
            # Colour at full resolution: thin coloured lines in diagrams are what questions ask about.
            image.save(buffer, kind, quality=QUALITY, subsampling=0)
        else:
            image.save(buffer, kind)
        return buffer.getvalue()

    def _write(self, data: bytes, kind: str, image: Image.Image) -> ImageRef:
        name = hashlib.sha256(data).hexdigest()
        path = self.directory / name[:2] / f"{name}.{'jpg' if kind == 'JPEG' else 'png'}"
        try:
            if not path.exists() or path.stat().st_size != len(data):
                with atomic_write(path, "wb", durable=False) as file:
                    file.write(data)
        except OSError as error:
            raise OSError(error.errno, f"the picture cannot be stored: {error.strerror}", str(path)) from error
        return ImageRef(str(path), image.width, image.height, name, phash(image))


def shrunk_size(width: int, height: int, max_pixels: int, factor: int = QWEN2_5_VL.factor) -> tuple[int, int]:
    """(width, height) within an area: as they are, or what the model's processor would shrink them to, sides of whole
    vision tokens (of `factor` pixels: `Patching.factor`).

    The processor then leaves the stored picture as it is. Any other size, be it one pixel less, it would resample a
    second time, and small text suffers: measured on made charts of 1600x1200, what the policy sees then has a PSNR of
    28 dB against the source shrunk once, and 36 dB here. A side of which nothing is left is 0.

    Raises:
        Rejected: ``image_too_thin``.
    """
    if width * height <= max_pixels:
        return width, height
    try:
        rows, columns = smart_resize(height, width, factor, 1, max_pixels)
    except ImageSizeError as error:
        raise Rejected(error.reason, str(error)) from error
    return columns, rows


def is_heic(head: bytes) -> bool:
    """Whether a file begins as HEIC does: an ISO container (ISO/IEC 23008-12) whose first brands say so."""
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, len(head), 4))}
    return head[4:8] == b"ftyp" and b"avif" not in brands and bool(brands & _HEIC_BRANDS)


@contextmanager
def _decoding(what: str, head: bytes) -> Iterator[None]:
    """Turn whatever a decoder raises on broken bytes into a rejection; they share no error class, and read no disk.

    Args:
        head: The file's first bytes.
    """
    try:
        yield
    except Rejected:
        raise
    except UnidentifiedImageError as error:
        hint = _HEIC_HINT if is_heic(head) and "HEIF" not in _FORMATS else ""
        raise Rejected("image_format", f"{what} that are none of {', '.join(_FORMATS)}{hint}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Rejected("image_too_large", str(error)) from error
    # Also MemoryError: a file within MAX_SOURCE_PIXELS that needs more memory than there is has a false header.
    except Exception as error:
        raise Rejected("image_broken", f"{what}: {type(error).__name__}: {error}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 (upright) where there is none or it cannot be read, as viewers do."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """As RGB or L, opaque; `image` itself where it is that already."""
    if image.mode.startswith("I;16"):  # before transparency, which Pillow would mix in without scaling the values
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    if image.mode in ("RGB", "L"):
        return image
    if image.mode in ("I", "F"):
        raise Rejected("image_format", f"pixels of 32 bits (mode {image.mode}), whose range is not known")
    return image.convert("L" if image.mode == "1" else "RGB")


def _upright(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None,
    turn: Image.Transpose | None,
) -> Image.Image:
    """Shrunk to `size`, then turned; `box` is the part of a drafted image that holds the picture."""
    if image.size != size:
        image = image.resize(size, FILTER, box=box, reducing_gap=_DECODE_GAP)
    return image if turn is None else image.transpose(turn)
