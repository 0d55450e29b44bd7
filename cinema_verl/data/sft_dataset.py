"""verl's data set of supervised fine-tuning, over rows whose images lie beside their parquet (`data.movable`).

The recipes of the cold start select it:

    data.custom_cls.path=pkg://cinema_verl.data.sft_dataset  data.custom_cls.name=CinemaSFTDataset
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

from cinema_verl.data.check import DataError
from cinema_verl.data.movable import absolute, is_relative


class CinemaSFTDataset(MultiTurnSFTDataset):
    """``verl.utils.dataset.multiturn_sft_dataset.MultiTurnSFTDataset``, with relative image paths below the folder of
    the files, and rotary positions for every family: verl 0.9.1 has them for image processors of Qwen's alone, and
    GLM-4V's forward pass refuses the plain ones. Everything else is verl's.

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

    def __getitem__(self, item: int) -> dict[str, Any]:
        row: dict[str, Any] = super().__getitem__(item)
        grid = row.get("multi_modal_inputs", {}).get("image_grid_thw")
        if grid is not None and row["position_ids"].dim() == 1 and hasattr(self.processor, "get_rope_index"):
            ids = row["input_ids"]
            mask = row.get("attention_mask", torch.ones_like(ids))
            row["position_ids"] = rotary_positions(self.processor, ids, mask, grid)
        return row


def rotary_positions(
    processor: Any, ids: torch.Tensor, mask: torch.Tensor, image_grid_thw: torch.Tensor
) -> torch.Tensor:
    """Positions as verl's agent loop makes them in reinforcement learning: rows text, time, height and width.

    Args:
        processor: of `verl.utils.hf_processor`, which has its model's ``get_rope_index``.
        ids: (L,) int64, with every token of every image.
        mask: (L,) int64, 0 where there is padding.
        image_grid_thw: (images, 3) int64, in patches.

    Returns:
        (4, L) int64.
    """
    vision, _ = processor.get_rope_index(
        input_ids=ids[None],
        attention_mask=mask[None],
        image_grid_thw=image_grid_thw,
        mm_token_type_ids=(ids == processor.image_token_id).long()[None],
    )
    text = (mask.cumsum(dim=0) - 1).clamp(min=0) * mask
    return torch.cat([text[None], vision[:, 0]])
