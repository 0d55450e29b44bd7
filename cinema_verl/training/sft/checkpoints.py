"""Saving and resuming of supervised fine-tuning: a checkpoint is complete, or it does not exist.

verl's `CheckpointHandler` writes a checkpoint in its final place over several minutes, after its engine has deleted an
older one, and names it in the tracker at the end. Here it is written to `global_step_N.partial` and renamed when
everything is in it; then the tracker is written, and only then does an older one go.
"""

import os
from pathlib import Path
from typing import Any

import torch
from verl.utils import hdfs_io
from verl.utils.checkpoint import CheckpointHandler
from verl.utils.checkpoint.checkpoint_handler import extract_step

from cinema_verl.training.checkpoint import (
    Place,
    branch,
    complete_steps,
    keeps,
    mend_tracker,
    naming_a_full_disk,
    progress_of,
    remove,
    retire,
    run_of,
    run_that_resumes,
    step_folder,
    world_sizes,
    write_progress,
    write_tracker,
)
from cinema_verl.training.lora import export_merged, is_lora


class SFTCheckpoints(CheckpointHandler):
    """verl's `CheckpointHandler` with the guarantees above.

    Args:
        load_contents: `checkpoint.load_contents`, what a checkpoint must hold to go on from it.
        data: what makes the order of the rows; a run that resumes must have the same. Written into each checkpoint.
        handler: the arguments of verl's class.
    """

    def __init__(self, *, load_contents: list[str], data: dict[str, int], **handler: Any):
        super().__init__(**handler)
        self.folder = Path(self.default_local_dir).absolute()
        self._place = Place(self.folder)
        self.load_contents, self.data = load_contents, data
        self.run = run_that_resumes(None, from_path=False)
        self.progress: dict[str, Any] = {}
        """What `save_checkpoint` was given beside the step, from the checkpoint that this run resumed from."""
        manager = self.engine.checkpoint_manager
        self._exports_merged = is_lora(self.engine.module) and "hf_model" in manager.checkpoint_save_contents
        if self._exports_merged:  # verl would write the wrapped names, which no model has
            manager.checkpoint_save_contents = [c for c in manager.checkpoint_save_contents if c != "hf_model"]

    # ---- resuming -----------------------------------------------------------------------------------------------

    def load_checkpoint(self) -> int:
        """Load what `trainer.resume_mode` asks for, on all ranks.

        Returns:
            the step that this run goes on after; 0 for a new run.

        Raises:
            ValueError: the checkpoint does not fit this run, or the run would write over checkpoints of another.
        """
        found: list[Any] = [None]
        if self.rank == 0:
            found = [self._where_to_go_on()]
        torch.distributed.broadcast_object_list(found, src=0)  # rank 0 mends the folder that all look at
        if found[0] is None:
            self._refuse_to_overwrite(0)
            return 0
        path, self.run = found[0]
        step = extract_step(path.name)
        if step is None:
            raise ValueError(f"trainer.resume_from_path={path} must end with global_step_<number>")
        self._refuse_to_overwrite(step)
        self._refuse_what_does_not_fit(path)
        self.engine.load_checkpoint(str(path))
        self.progress = progress_of(path)
        if self.rank == 0:  # a kill may have left more than are kept
            retire(self.folder, self.run, step, keeps(self.max_ckpt_to_keep), self.load_contents)
        return step

    def _where_to_go_on(self) -> tuple[Path, str] | None:
        """The checkpoint to load, and the name of the run that goes on from it."""
        resumed = self._determine_resume_path()
        if resumed is None:
            return None
        path = Path(resumed).absolute()
        if self.resume_from_path is not None:
            return branch(path, self.folder, self.load_contents)
        return path, run_that_resumes(path, from_path=False)

    def _find_latest_checkpoint(self) -> str | None:
        step = mend_tracker(self.folder, self.load_contents)
        return None if step is None else str(step_folder(self.folder, step))

    def _refuse_to_overwrite(self, step: int) -> None:
        later = [s for s in complete_steps(self.folder, self.load_contents) if s > step]
        if later:
            raise ValueError(
                f"this run starts after step {step} and would write over the checkpoints of another run in "
                f"{self.folder}: steps {', '.join(map(str, later))}. Choose another trainer.default_local_dir, go on "
                "with that run (trainer.resume_mode=auto), or move its checkpoints away"
            )

    def _refuse_what_does_not_fit(self, path: Path) -> None:
        ranks = torch.distributed.get_world_size()
        if ranks not in (saved := world_sizes(path, self.load_contents)):
            raise ValueError(
                f"{path} has {', '.join(self.load_contents)} for {' or '.join(map(str, sorted(saved)))} processes, and "
                f"this run has {ranks}: start as many, or cut it anew first: cinema-verl reshard {path} "
                f"--world-size {ranks}"
            )
        had = progress_of(path).get("data")
        if had is not None and had != self.data:
            raise ValueError(
                f"{path} was trained with {had}, and this run has {self.data}: the steps would not be over the same "
                "rows. Resume with the same data and batch size, or begin a new run from "
                f"model.path={path / 'huggingface'}"
            )

    # ---- saving -------------------------------------------------------------------------------------------------

    def save_checkpoint(self, step: int, **progress: Any) -> None:
        """Save after a step, on all ranks.

        Args:
            step: the global step.
            progress: what a resumed run has to know besides; `self.progress` has it then.
        """
        keep = keeps(self.max_ckpt_to_keep)
        final = step_folder(self.folder, step)
        partial = final.with_name(f"{final.name}.partial")
        if self.rank == 0:
            self._place.check()
            print(f"Saving checkpoint to: {final}")
            for leftover in self.folder.glob("global_step_*.partial"):
                remove(leftover)
            retire(self.folder, self.run, step, keep and keep - 1, self.load_contents, saved=False)
        torch.distributed.barrier()
        with naming_a_full_disk(self.folder):
            self.engine.save_checkpoint(local_path=str(partial), global_step=step, max_ckpt_to_keep=None)
            if self._exports_merged:
                export_merged(self.engine.module, partial)
        torch.distributed.barrier()
        if self.rank == 0:
            write_progress(partial, self.run, step, data=self.data, **progress)
            if final.exists():
                remove(final)
            _flush(partial)
            partial.rename(final)
            write_tracker(self.folder, step)
            retire(self.folder, self.run, step, keep, self.load_contents)
            if self.default_hdfs_dir:
                hdfs_io.makedirs(self.default_hdfs_dir, exist_ok=True)
                hdfs_io.copy(src=str(final), dst=self.default_hdfs_dir, dirs_exist_ok=True)
        torch.distributed.barrier()

    def note(self, step: int, **progress: Any) -> None:
        """Change what this run's checkpoint of a step says of its progress; a branch's start is another run's."""
        self.progress |= progress
        if self.rank == 0 and run_of(step_folder(self.folder, step)) == self.run:
            write_progress(step_folder(self.folder, step), **self.progress)
        torch.distributed.barrier()


def _flush(folder: Path) -> None:
    """Wait for the disk: a crash of the machine may keep the renaming of a folder and lose what was written before."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
