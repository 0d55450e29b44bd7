"""Parquet whose images lie beside it, so that the folder can be moved to the machine that trains.

verl opens an image's path exactly as a row has it, from a working directory of its own. So rows name their images by
absolute paths, unless the images were copied beside the parquet: then the paths are relative to the parquet's folder,
and what reads the file for verl makes them absolute (`absolute`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

from cinema_verl.utils.files import sha256_of

IMAGES: Final = "images"
"""The folder of images beside the parquet."""


class CopiedImages:
    """Copies images into a folder, each once: ``images/ab/abcd….png``, named by the SHA-256 of the file.

    Args:
        folder: Where the parquet is written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copied: dict[str, str] = {}

    def cells(self, images: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A row's images, copied, with their paths relative to the folder.

        Raises:
            OSError: An image cannot be read, or the disk is full.
        """
        return [{**image, "image": self._copy(str(image["image"]))} for image in images]

    def _copy(self, path: str) -> str:
        if path not in self._copied:
            name = sha256_of(path)
            relative = f"{IMAGES}/{name[:2]}/{name}{Path(path).suffix.lower()}"
            target = self._folder / relative
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            self._copied[path] = relative
        return self._copied[path]


def is_relative(path: object) -> TypeGuard[str]:
    """Whether a row's image lies beside its parquet."""
    return isinstance(path, str) and bool(path) and "://" not in path and not os.path.isabs(path)


def absolute(images: Any, folder: str | Path) -> Any:
    """A row's images with paths that verl can open; anything but a list of cells as it is, for the checks to name.

    Args:
        folder: Of the row's file.
    """
    if not isinstance(images, list):
        return images
    return [_absolute(image, folder) for image in images]


def _absolute(image: Any, folder: str | Path) -> Any:
    if isinstance(image, Mapping) and is_relative(path := image.get("image", "")):
        return {**image, "image": os.path.normpath(Path(folder).absolute() / path)}
    return image
