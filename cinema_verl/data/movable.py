"""Parquet whose images lie beside it, so that the folder can be moved to the machine that trains.

verl opens an image's path exactly as a row has it, from a working directory of its own. So rows name their images by
absolute paths, unless the images were copied beside the parquet: then the paths are relative to the parquet's folder,
and the data sets that read the file for verl make them absolute (`data.dataset`, `data.sft_dataset`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.data.schema import parquet_writer
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


def pack(files: Sequence[str | Path], output: str | Path) -> dict[str, int]:
    """Copy parquet files of any of our schemas, and the images of their rows, into a new folder that can be moved.

    Returns:
        Rows of each file written, by its path.

    Raises:
        FileExistsError: The folder is there with something in it, or two files have the same name.
        FileNotFoundError: A file or an image is not there.
        ValueError: A file is no parquet, or has no column of images.
        OSError: The folder cannot be written, or the disk is full; what was copied is removed.
    """
    output, paths = Path(output).absolute(), [Path(file).absolute() for file in files]
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty: give another --output")
    if twice := [name for name, number in Counter(path.name for path in paths).items() if number > 1]:
        raise FileExistsError(f"several files are called {twice[0]}: pack them into folders of their own")
    for path in paths:
        if "images" not in _columns(path):
            raise ValueError(f"{path} has no column of images: it is not of the RL or the SFT schema")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        images = CopiedImages(partial)
        rows = {str(output / path.name): _packed(path, partial / path.name, images) for path in paths}
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return rows


def _columns(path: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(path).names
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
    return names


def _packed(path: Path, target: Path, images: CopiedImages) -> int:
    with pq.ParquetFile(path) as file, parquet_writer(target, file.schema_arrow.remove_metadata()) as write:
        return sum(
            write([{**row, "images": images.cells(absolute(row["images"], path.parent))} for row in batch.to_pylist()])
            for batch in file.iter_batches(batch_size=1000)
        )
