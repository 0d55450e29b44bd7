"""A 64-bit perceptual hash: pictures that look alike have hashes that differ in few bits.

The classic DCT hash: the picture as 32x32 grey, its 8x8 lowest frequencies, one bit each for being above their median.
It survives resizing, re-encoding and mild changes of colour; it does not survive cropping, mirroring or rotation.
"""

from typing import Final

import numpy as np
from PIL import Image

_SIDE: Final = 32
_LOW: Final = 8

# DCT-II basis (8, 32), unnormalised: only the order of the coefficients matters.
_BASIS: Final = np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5)).astype(np.float32)


def phash(image: Image.Image) -> str:
    """The hash as 16 hex digits."""
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))
    low = _BASIS @ grey.astype(np.float32) @ _BASIS.T
    bits = (low > np.median(low)).ravel()
    return np.packbits(bits).tobytes().hex()
