"""Which checkpoint a run resumes from, whatever state the last one left the folder in."""

import logging
import os
from pathlib import Path

import pytest
import torch
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from cinema_verl.training.checkpoint import TRACKER, complete_steps, mend_tracker

# Seconds at which things were written.
EARLY, LATE, LATER = 1_000, 2_000, 3_000


def save(folder: Path, step: int, written: int = EARLY) -> Path:
    """A checkpoint as verl writes it: the actor first, the data loader's state last."""
    checkpoint = folder / f"global_step_{step}"
    (checkpoint / "actor").mkdir(parents=True)
    (checkpoint / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"weights")
    torch.save({"seen": step}, checkpoint / "data.pt")
    os.utime(checkpoint / "data.pt", (written, written))
    return checkpoint


def track(folder: Path, content: str, written: int = EARLY) -> None:
    (folder / TRACKER).write_text(content)
    os.utime(folder / TRACKER, (written, written))


def resumed_step(folder: Path) -> int | None:
    """Where verl resumes after the mending."""
    step = mend_tracker(folder)
    found = find_latest_ckpt_path(str(folder))
    assert (found is None) == (step is None)
    assert step is None or found == str(folder / f"global_step_{step}")
    return step


def test_an_intact_folder_is_left_as_it_is(tmp_path, caplog):
    save(tmp_path, 20), save(tmp_path, 40, LATE)
    track(tmp_path, "40", LATE)
    before = (tmp_path / TRACKER).stat().st_mtime_ns
    assert resumed_step(tmp_path) == 40
    assert (tmp_path / TRACKER).stat().st_mtime_ns == before
    assert not caplog.records


def test_a_run_without_checkpoints_starts_anew(tmp_path):
    assert resumed_step(tmp_path) is None
    assert resumed_step(tmp_path / "never made") is None


@pytest.mark.parametrize("content", [None, "", "garbage", "60", "\0\0"])
def test_a_tracker_that_is_missing_unreadable_or_names_nothing_is_mended(tmp_path, caplog, content):
    save(tmp_path, 20), save(tmp_path, 40)
    if content is not None:
        track(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        assert resumed_step(tmp_path) == 40
    assert (tmp_path / TRACKER).read_text() == "40"
    assert "newest complete checkpoint is step 40" in caplog.text


def test_verl_alone_would_start_from_scratch_without_a_tracker(tmp_path):
    """When this fails, verl finds the checkpoint itself: see whether `mend_tracker` is still needed."""
    save(tmp_path, 20)
    assert find_latest_ckpt_path(str(tmp_path)) is None


def test_a_run_killed_before_the_tracker_was_written_resumes_from_what_was_complete(tmp_path):
    save(tmp_path, 20), save(tmp_path, 40, LATER)
    track(tmp_path, "20", LATE)
    assert resumed_step(tmp_path) == 40


def half_written(checkpoint: Path) -> None:
    (checkpoint / "data.pt").unlink()


def cut_off(checkpoint: Path) -> None:
    path = checkpoint / "data.pt"
    path.write_bytes(path.read_bytes()[:-10])


def rotated(checkpoint: Path) -> None:
    (checkpoint / "actor" / "model_world_size_1_rank_0.pt").unlink()
    (checkpoint / "actor").rmdir()


@pytest.mark.parametrize("damage", [half_written, cut_off, rotated])
def test_an_incomplete_checkpoint_is_passed_over_even_if_the_tracker_names_it(tmp_path, damage):
    save(tmp_path, 20)
    damage(save(tmp_path, 40, LATER))
    track(tmp_path, "40", LATER)
    assert resumed_step(tmp_path) == 20


@pytest.mark.parametrize("damage", [half_written, cut_off, rotated])
def test_with_nothing_but_an_incomplete_checkpoint_the_run_starts_anew_and_says_so(tmp_path, caplog, damage):
    damage(save(tmp_path, 20))
    track(tmp_path, "20")
    with caplog.at_level(logging.WARNING):
        assert resumed_step(tmp_path) is None
    assert "holds no complete checkpoint: starting anew" in caplog.text


def test_a_longer_run_that_lay_in_the_folder_before_is_not_resumed(tmp_path):
    """Step 100 is of a run that somebody started over (resume_mode=disable); the tracker is the new run's."""
    save(tmp_path, 100, EARLY), save(tmp_path, 20, LATE)
    track(tmp_path, "20", LATE)
    assert resumed_step(tmp_path) == 20


def test_steps_are_compared_as_numbers_and_other_folders_ignored(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    (tmp_path / "global_step_1000_backup").mkdir()
    (tmp_path / "global_step_latest").mkdir()
    assert complete_steps(tmp_path) == [9, 10, 100]
    assert resumed_step(tmp_path) == 100
