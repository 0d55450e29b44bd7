"""Which checkpoint a run resumes from after the last one was interrupted.

verl follows one tracker file and silently starts from scratch when that file is missing or names a folder that does not
exist (verl: `find_latest_ckpt_path`), so a run that is killed while a checkpoint is rotated would lose everything. Here
the newest complete checkpoint is found, and the tracker file corrected.
"""

import logging
import os
import re
import zipfile
from pathlib import Path

logger = logging.getLogger(__name__)

TRACKER = "latest_checkpointed_iteration.txt"
# verl's trainer writes the actor first and the data loader's state last (`PPOTrainer._save_checkpoint`).
LAST_WRITTEN = "data.pt"


def complete_steps(folder: Path) -> list[int]:
    """Global steps of the complete checkpoints in `folder`, in ascending order."""
    steps = []
    for path in folder.glob("global_step_*"):
        match = re.fullmatch(r"global_step_(\d+)", path.name)
        # A zip file (torch.save) ends with its table of contents, so an incomplete one is not a zip file.
        if match and zipfile.is_zipfile(path / LAST_WRITTEN) and (path / "actor").is_dir():
            steps.append(int(match[1]))
    return sorted(steps)


def mend_tracker(folder: Path) -> int | None:
    """Make verl's tracker file name the newest complete checkpoint.

    Args:
        folder: `trainer.default_local_dir`.

    Returns:
        The step that a run with `trainer.resume_mode=auto` will resume from, or None if there is no checkpoint.
    """
    steps = complete_steps(folder)
    tracker = folder / TRACKER
    named = tracker.read_text(errors="replace").strip() if tracker.is_file() else None
    if not steps:
        if named is not None:
            logger.warning(
                "%s names step %r, but %s holds no complete checkpoint: starting from scratch", tracker, named, folder
            )
            tracker.unlink()
        return None
    latest = steps[-1]
    if named is not None and named.isdecimal() and int(named) in steps:
        # verl writes the tracker last: a newer checkpoint was complete when the run was killed; an older one with a
        # higher step is another run's, from which this run does not resume.
        written = tracker.stat().st_mtime_ns
        newer = [step for step in steps if (folder / f"global_step_{step}" / LAST_WRITTEN).stat().st_mtime_ns > written]
        latest = newer[-1] if newer else int(named)
    if named != str(latest):
        logger.warning(
            "%s named step %r; the newest complete checkpoint is step %d: resuming from it", tracker, named, latest
        )
        partial = tracker.with_suffix(".partial")
        partial.write_text(str(latest))
        os.replace(partial, tracker)
    return latest
