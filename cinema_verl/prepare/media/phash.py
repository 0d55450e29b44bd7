"""A 64-bit perceptual hash: pictures that look alike have hashes that differ in few bits.

The classic DCT hash: the picture as 32x32 grey, its 8x8 lowest frequencies, one bit each for being above their median.
Resizing, re-encoding and mild changes of colour hardly change it; cropping, mirroring and rotation do. It is computed
in integers, so that the same pixels give the same hash on every machine.
"""

from typing import Final

import numpy as np
from PIL import Image

_SIDE: Final = 32
_LOW: Final = 8
_UNIT: Final = 1 << 10

# DCT-II basis (8, 32), unnormalised, in units of 1 / 1024.
_BASIS: Final = np.rint(_UNIT * np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5))).astype(
    np.int64
)

_MARGIN: Final = 64 * _UNIT**2
"""How far above the median counts: a wave of a quarter of a grey level. Our choice: flat and symmetric pictures have
many frequencies of which there is nothing, and whose bits would otherwise be the encoder's noise."""


def phash(image: Image.Image) -> str:
    """The hash as 16 hex digits."""
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))
    low = _BASIS @ grey.astype(np.int64) @ _BASIS.T
    bits = (low > np.median(low) + _MARGIN).ravel()
    return np.packbits(bits).tobytes().hex()
