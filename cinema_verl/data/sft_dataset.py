"""verl's data set of supervised fine-tuning, over rows whose images lie beside their parquet (`data.movable`).

The recipes of the cold start select it:

    data.custom_cls.path=pkg://cinema_verl.data.sft_dataset  data.custom_cls.name=CinemaSFTDataset
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

from cinema_verl.data.check import DataError
from cinema_verl.data.movable import absolute, is_relative


class CinemaSFTDataset(MultiTurnSFTDataset):
    """``verl.utils.dataset.multiturn_sft_dataset.MultiTurnSFTDataset``, with relative image paths below the folder of
    the files. Everything else is verl's.

    Raises:
        DataError: Images are relative, and the files lie in several folders, or were fetched without their images.
    """

    def _download(self) -> None:
        self._folders = sorted({str(file).rpartition("/")[0] or "." for file in self.parquet_files})
        super()._download()

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        cells = (cell for images in self.dataframe.get(self.image_key, ()) for cell in images)
        if not any(is_relative(cell.get("image")) for cell in cells):
            self._folders = []
        elif len(self._folders) > 1 or "://" in self._folders[0]:
            raise DataError(
                "images are named relative to the folder of their file, and the files lie in "
                f"{', '.join(self._folders)}. Give files of one folder of this machine "
                "(`cinema-verl pack` makes one of several)"
            )

    def _build_messages(self, example: dict[str, Any]) -> Any:
        if self._folders and self.image_key in example:
            folder = Path(self._folders[0]).expanduser()
            example = {**example, self.image_key: absolute(list(example[self.image_key]), folder)}
        return super()._build_messages(example)
