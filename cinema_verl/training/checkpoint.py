"""Which checkpoints in a run's folder are whole, which one a run resumes from, and which ones it may delete.

verl follows one tracker file and starts from scratch, without a word, when that file is missing or names a folder that
is gone (verl: `find_latest_ckpt_path`); and it counts the checkpoints to keep in the memory of a process, so that a
restart forgets all earlier ones (verl: `BaseCheckpointManager.previous_saved_paths`). Here the evidence is on the disk:
what a checkpoint holds says whether it is whole, and `progress.json` in it says which run wrote it. Times are no
evidence: a plain copy of a folder gives every file a new one.
"""

import json
import logging
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cinema_verl.runs.locate import RUN
from cinema_verl.training.refusal import fine_tunes
from cinema_verl.utils.files import FULL, atomic_write

logger = logging.getLogger(__name__)

TRACKER = "latest_checkpointed_iteration.txt"
PROGRESS = "progress.json"
QUEUE = "transfer_queue"
"""What is in flight in asynchronous training: verl writes it last, elsewhere, and moves it here when it is whole."""
RESUMABLE = ("model", "optimizer", "extra")  # verl's default of `checkpoint.load_contents`
_SHARDS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
_REMOVED = ".removed"
_LITTLE = 64 << 20  # bytes; our choice: what a failed write may have left free


def step_folder(folder: Path, step: int) -> Path:
    """Where verl keeps the checkpoint of a step."""
    return folder / f"global_step_{step}"


def steps_on_disk(folder: Path) -> list[int]:
    """Global steps of all checkpoints in `folder`, whole or not, in ascending order."""
    found = (re.fullmatch(r"global_step_(\d+)", path.name) for path in folder.glob("global_step_*") if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def complete_steps(folder: Path, contents: Sequence[str] = RESUMABLE) -> list[int]:
    """Global steps of the checkpoints in `folder` that are whole, in ascending order.

    Args:
        folder: `trainer.default_local_dir`.
        contents: what a checkpoint must hold for a run to go on from it: `checkpoint.load_contents`.
    """
    return [step for step in steps_on_disk(folder) if is_complete(step_folder(folder, step), contents)]


def is_complete(checkpoint: Path, contents: Sequence[str] = RESUMABLE) -> bool:
    """Whether a checkpoint was written, or copied, to the end.

    In reinforcement learning verl writes the shards to `actor/` first and `data.pt` last; `progress.json` says where
    something else comes after that (`rotation`). Its SFT trainer writes the
    shards first and `data_<rank>.pt` last; ours writes all of it elsewhere and moves it here when it is whole, with
    `progress.json` in it (`cinema_verl.training.sft.checkpoints`). One that was given the name of another step is none.
    """
    progress, named = progress_of(checkpoint), re.fullmatch(r"global_step_(\d+)", checkpoint.name)
    if named and progress.get("step") not in (None, int(named[1])):
        return False
    if (checkpoint / "data.pt").exists() or (checkpoint / "actor").exists():
        last = progress.get("last")
        ended = _is_whole_zip(checkpoint / "data.pt") and (last is None or (checkpoint / str(last)).exists())
        shards = checkpoint / "actor"
    else:
        shards = checkpoint
        ended = bool(progress) or _is_whole_zip(checkpoint / "data_0.pt")
    return (
        ended
        and bool(whole_world_sizes(shards, _names(contents)))
        and _exported_weights_are_whole(shards / "huggingface")
    )


def world_sizes(checkpoint: Path, contents: Sequence[str] = RESUMABLE) -> set[int]:
    """Numbers of processes that can go on from a checkpoint: verl loads shards of as many as there are."""
    return whole_world_sizes(shard_folder(checkpoint), _names(contents))


def shard_folder(checkpoint: Path) -> Path:
    """Where verl keeps the shards of a checkpoint, of either trainer."""
    return checkpoint / "actor" if (checkpoint / "actor").exists() else checkpoint


def shard_path(shards: Path, name: str, world_size: int, rank: int) -> Path:
    """A rank's file: `name` is "model", "optim" or "extra_state" (verl: `FSDPCheckpointManager`)."""
    return shards / f"{name}_world_size_{world_size}_rank_{rank}.pt"


def _names(contents: Sequence[str]) -> list[str]:
    return [_SHARDS[content] for content in contents if content in _SHARDS] or ["model"]


def whole_world_sizes(shards: Path, names: Sequence[str]) -> set[int]:
    """Numbers of processes for which every wanted shard is there and whole; `names` as in `shard_path`."""
    sizes = {
        int(match[1])
        for path in shards.glob(f"{names[0]}_world_size_*_rank_*.pt")
        if (match := re.fullmatch(rf"{names[0]}_world_size_(\d+)_rank_\d+\.pt", path.name))
    }
    return {
        size
        for size in sizes
        if all(_is_whole_zip(shard_path(shards, name, size, rank)) for name in names for rank in range(size))
    }


def _is_whole_zip(path: Path) -> bool:
    # A zip file (torch.save) ends with its table of contents: one that was cut off while being written is none.
    return zipfile.is_zipfile(path)


def _exported_weights_are_whole(directory: Path) -> bool:
    """Whether the `*.safetensors` of a Hugging Face directory are whole, and all that its index names; none is fine."""
    files = set(directory.glob("*.safetensors"))
    for index in directory.glob("*.safetensors.index.json"):
        try:
            files |= {directory / name for name in json.loads(index.read_bytes())["weight_map"].values()}
        except (ValueError, KeyError):
            return False
    return all(map(_is_whole_safetensors, files))


def _is_whole_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says: eight bytes of length, a JSON header, then the tensors."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if length > size:
                return False
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError):
        return False
    return size >= 8 + length + end


# ---- which run wrote it ---------------------------------------------------------------------------------------------


def write_progress(checkpoint: Path, run: str, step: int, **more: Any) -> None:
    """Say in a checkpoint which run wrote it, and how far that run was."""
    with atomic_write(checkpoint / PROGRESS) as file:
        json.dump({"run": run, "step": step, **more}, file, indent=1)


def progress_of(checkpoint: Path) -> dict[str, Any]:
    """What `write_progress` left in a checkpoint; empty where there is nothing that can be read."""
    try:
        progress = json.loads((checkpoint / PROGRESS).read_bytes())
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


def run_of(checkpoint: Path) -> str | None:
    """The run that wrote a checkpoint; None for one that verl wrote without us."""
    return progress_of(checkpoint).get("run")


def run_that_resumes(checkpoint: Path | None, *, from_path: bool) -> str:
    """The name of the run that goes on from a checkpoint.

    Args:
        checkpoint: what it resumes from; None for a run that starts from scratch.
        from_path: whether somebody named the checkpoint (`trainer.resume_from_path`). That makes a branch, whose name
            says where it comes from: it deletes nothing of the run before it, and the same command makes the same name.
    """
    before = None if checkpoint is None else run_of(checkpoint)
    if checkpoint is not None and from_path:
        return f"{before or 'earlier'}+{checkpoint.name.removeprefix('global_step_')}"
    return before or secrets.token_hex(8)


def branch(named: Path, folder: Path, contents: Sequence[str] = RESUMABLE) -> tuple[Path, str]:
    """Where a run goes on that was told to start from a checkpoint, and its name.

    The same command again goes on with what the branch has saved.

    Args:
        named: `trainer.resume_from_path`.
        folder: `trainer.default_local_dir`.
        contents: see `complete_steps`.
    """
    run = run_that_resumes(named, from_path=True)
    saved = [step_folder(folder, step) for step in complete_steps(folder, contents)]
    return next((checkpoint for checkpoint in reversed(saved) if run_of(checkpoint) == run), named), run


# ---- where a run resumes --------------------------------------------------------------------------------------------


def mend_tracker(folder: Path, contents: Sequence[str] = RESUMABLE) -> int | None:
    """Make verl's tracker file name the checkpoint to resume from.

    That is the one it names, if that one is whole, or a later whole one of the same run: verl writes the tracker last,
    and the run may have been killed just before. A later one that another run wrote, or nobody knows which, does not
    count: this run was told not to resume from it. If the tracker names none that is whole, the newest whole one.

    Args:
        folder: `trainer.default_local_dir`.
        contents: see `complete_steps`.

    Returns:
        the step that a run with `trainer.resume_mode=auto` will resume from, or None if there is no checkpoint.
    """
    tracker = folder / TRACKER
    named, latest = _named(folder), step_to_resume(folder, contents)
    if latest is None:
        if named is not None:
            logger.warning(
                "%s names step %r, but %s holds no complete checkpoint: starting anew", tracker, named, folder
            )
            tracker.unlink()
        return None
    if named != str(latest):
        logger.warning(
            "%s named step %r; the newest complete checkpoint is step %d: resuming from it", tracker, named, latest
        )
        write_tracker(folder, latest)
    return latest


def step_to_resume(folder: Path, contents: Sequence[str] = RESUMABLE) -> int | None:
    """The step that `mend_tracker` makes verl resume from; nothing is changed."""
    steps, named = complete_steps(folder, contents), _named(folder)
    if not steps:
        return None
    if named is None or not named.isdecimal() or int(named) not in steps:
        return steps[-1]
    run = run_of(step_folder(folder, int(named)))
    same = [step for step in steps if run is not None and run_of(step_folder(folder, step)) == run]
    return max([int(named), *same])


def named_and_gone(folder: Path, contents: Sequence[str] = RESUMABLE) -> str | None:
    """The step that the tracker names where no checkpoint is whole any more: verl writes it when one was."""
    named = _named(folder)
    return named if named not in (None, "", "0") and not complete_steps(folder, contents) else None


def _named(folder: Path) -> str | None:
    tracker = folder / TRACKER
    return tracker.read_text(errors="replace").strip() if tracker.is_file() else None


def write_tracker(folder: Path, step: int) -> None:
    """Name the checkpoint that verl resumes from."""
    with atomic_write(folder / TRACKER) as file:
        file.write(str(step))


# ---- how many are kept ----------------------------------------------------------------------------------------------


def keeps(max_to_keep: int | None) -> int | None:
    """`max_ckpt_to_keep` as verl reads it: None, 0 and negative numbers keep all."""
    return max_to_keep if max_to_keep and max_to_keep > 0 else None


def saves_nothing(config: DictConfig) -> bool:
    """Whether a training would end without a checkpoint; verl's SFT program saves its last step whatever it is told."""
    if fine_tunes(config) or OmegaConf.select(config, "trainer.val_only"):
        return False
    frequency = OmegaConf.select(config, "trainer.save_freq")
    return not isinstance(frequency, int) or frequency <= 0


def saves_too_little(config: DictConfig) -> bool:
    """Whether no run could go on from the checkpoints of a training."""
    where = "checkpoint" if fine_tunes(config) else "actor_rollout_ref.actor.checkpoint"
    saved = OmegaConf.select(config, f"{where}.save_contents") or RESUMABLE
    return not set(RESUMABLE) <= set(saved)


def retire(
    folder: Path, run: str, step: int, leave: int | None, contents: Sequence[str] = RESUMABLE, *, saved: bool = True
) -> list[int]:
    """Delete a run's checkpoints beyond the newest `leave`, and what was left half written.

    Only checkpoints that `progress.json` says this run wrote, and only up to `step`: what other runs wrote, and later
    steps that this run went back from, stay. The newest whole one always stays, and while none is whole, nothing goes.
    A checkpoint is renamed before it is deleted, so that a kill never leaves half of one under its name.

    Args:
        folder: `trainer.default_local_dir`.
        run: whose checkpoints.
        step: the step that was saved last, or is about to be.
        leave: how many whole ones to leave, at least 1; None for all.
        contents: see `complete_steps`.
        saved: whether `step` was saved. A checkpoint that is about to be replaced is none to count on.

    Returns:
        the steps whose checkpoints are gone.
    """
    for leftover in folder.glob(f".global_step_*{_REMOVED}*"):
        _delete(leftover)
    own = [s for s in steps_on_disk(folder) if s < step + saved and run_of(step_folder(folder, s)) == run]
    whole = [s for s in own if is_complete(step_folder(folder, s), contents)]
    goes = [s for s in own if s not in whole and s != step] if whole else []
    if leave is not None:
        goes += whole[: -max(leave, 1)]
    for s in goes:
        remove(step_folder(folder, s))
    return sorted(goes)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint: under its own name it is there, or it is not."""
    hidden = checkpoint.with_name(f".{checkpoint.name}{_REMOVED}{secrets.token_hex(4)}")
    checkpoint.rename(hidden)
    _delete(hidden)


def _delete(hidden: Path) -> None:
    """Delete what no name leads to any more; of a link, only the link.

    A file that somebody is reading cannot go yet on some file systems (NFS). A run of days does not end of that.
    """
    if hidden.is_symlink():
        hidden.unlink()
        return
    try:
        shutil.rmtree(hidden)
    except OSError as error:
        logger.warning("%s cannot be deleted; that is tried again at the next checkpoint: %s", hidden, error)


class Place:
    """The folder of a run, as it is when the run begins.

    Args:
        folder: `trainer.default_local_dir`.
    """

    def __init__(self, folder: Path):
        self._record = folder / RUN
        self._was_there = self._record.exists()

    def check(self) -> None:
        """Before a checkpoint is written: under the old name a second folder would begin, with half of the run.

        Raises:
            FileNotFoundError: it was moved or removed since.
        """
        if self._was_there and not self._record.exists():
            folder = self._record.parent
            raise FileNotFoundError(
                f"{folder} was moved or removed while the run was at work, and nothing more is written to it. Move it "
                "back, or name its new place as trainer.default_local_dir, and give the same command again"
            )


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Around the saving of a checkpoint: PyTorch says of a full disk that it is at an unexpected position.

    Raises:
        OSError: where the saving has failed, and the disk, or a quota, takes no more.
    """
    try:
        yield
    except Exception as error:
        if (full := _takes_no_more(folder)) is not None:
            what = f"{full.strerror}; the checkpoints before this one are whole"
            raise OSError(full.errno, what, str(folder)) from error
        raise


def _takes_no_more(folder: Path) -> OSError | None:
    """Why not even `_LITTLE` can be written; what a file system says is free knows of no quota."""
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        with open(probe, "wb") as file:
            for _ in range(_LITTLE >> 20):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return error if error.errno in FULL else None
    finally:
        probe.unlink(missing_ok=True)
    return None


@contextmanager
def rotation(
    folder: Path,
    run: str,
    step: int,
    max_to_keep: int | None,
    contents: Sequence[str] = RESUMABLE,
    last: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Iterator[None]:
    """Around verl's own saving of a checkpoint: room before, the run's name in it, and no more than asked after.

    verl must be told to keep all (`max_ckpt_to_keep=None`): it deletes before the new one is whole.

    Args:
        folder: `trainer.default_local_dir`.
        run: the run that saves.
        step: the global step that is saved.
        max_to_keep: `trainer.max_actor_ckpt_to_keep`, `trainer.max_ckpt_to_keep`; see `keeps`.
        contents: see `complete_steps`.
        last: what is written after `data.pt`, and makes the checkpoint whole: `QUEUE`.
        metrics: of the step, which verl logs after it has saved it (`cinema_verl.training.history`).
    """
    keep = keeps(max_to_keep)
    retire(folder, run, step, keep and keep - 1, contents, saved=False)
    target = step_folder(folder, step)
    if target.exists():
        if is_complete(target, contents) and run_of(target) != run:
            aside = target.with_name(f"{target.name}.{run_of(target) or 'earlier'}")
            logger.warning("%s was written by another run: it goes to %s", target, aside)
            target.rename(aside)
        else:
            remove(target)  # mixed with what is about to be written, half a checkpoint would look like a whole one
    more = {"last": last, "metrics": metrics}
    with naming_a_full_disk(folder):
        write_progress(target, run, step, **{name: value for name, value in more.items() if value is not None})
        yield
    retire(folder, run, step, keep, contents)
