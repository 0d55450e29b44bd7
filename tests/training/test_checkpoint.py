"""Which checkpoint a run resumes from, whatever state the last one left the folder in."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from cinema_verl.training.checkpoint import (
    QUEUE,
    TRACKER,
    complete_steps,
    is_complete,
    mend_tracker,
    retire,
    rotation,
    run_of,
    run_that_resumes,
    step_folder,
    world_sizes,
    write_progress,
)

KINDS = ("model", "optim", "extra_state")


def shards(folder: Path, ranks: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        for rank in range(ranks):
            torch.save({"rank": rank}, folder / f"{kind}_world_size_{ranks}_rank_{rank}.pt")


def save(folder: Path, step: int, run: str | None = "this") -> Path:
    """A checkpoint as verl writes it in reinforcement learning: the actor first, the data loader's state last."""
    checkpoint = folder / f"global_step_{step}"
    if run is not None:
        write_progress(checkpoint, run, step)
    shards(checkpoint / "actor")
    torch.save({"seen": step}, checkpoint / "data.pt")
    return checkpoint


def track(folder: Path, content: str) -> None:
    (folder / TRACKER).write_text(content)


def resumed_step(folder: Path) -> int | None:
    """Where verl resumes after the mending."""
    step = mend_tracker(folder)
    found = find_latest_ckpt_path(str(folder))
    assert (found is None) == (step is None)
    assert step is None or found == str(folder / f"global_step_{step}")
    return step


def test_an_intact_folder_is_left_as_it_is(tmp_path, caplog):
    save(tmp_path, 20), save(tmp_path, 40)
    track(tmp_path, "40")
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
    save(tmp_path, 20), save(tmp_path, 40)
    track(tmp_path, "20")
    assert resumed_step(tmp_path) == 40


def half_written(checkpoint: Path) -> None:
    (checkpoint / "data.pt").unlink()


def cut_off(checkpoint: Path) -> None:
    path = checkpoint / "data.pt"
    path.write_bytes(path.read_bytes()[:-10])


def rotated(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "actor")


def half_copied(checkpoint: Path) -> None:
    (checkpoint / "actor" / "optim_world_size_1_rank_0.pt").unlink()


def half_a_rank(checkpoint: Path) -> None:
    (checkpoint / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"PK")


def half_exported(checkpoint: Path) -> None:
    path = checkpoint / "actor" / "huggingface" / "model.safetensors"
    path.parent.mkdir()
    save_file({"weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-1])


def exported_in_part(checkpoint: Path) -> None:
    directory = checkpoint / "actor" / "huggingface"
    directory.mkdir()
    save_file({"a": torch.zeros(1)}, directory / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGES = [half_written, cut_off, rotated, half_copied, half_a_rank, half_exported, exported_in_part]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_checkpoint_is_passed_over_even_if_the_tracker_names_it(tmp_path, damage):
    save(tmp_path, 20)
    damage(save(tmp_path, 40))
    track(tmp_path, "40")
    assert resumed_step(tmp_path) == 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_with_nothing_but_an_incomplete_checkpoint_the_run_starts_anew_and_says_so(tmp_path, caplog, damage):
    damage(save(tmp_path, 20))
    track(tmp_path, "20")
    with caplog.at_level(logging.WARNING):
        assert resumed_step(tmp_path) is None
    assert "holds no complete checkpoint: starting anew" in caplog.text


@pytest.mark.parametrize("other", ["another", None])
def test_a_longer_run_that_lay_in_the_folder_before_is_not_resumed(tmp_path, other):
    """Step 100 is of a run that somebody started over (resume_mode=disable); the tracker is the new run's."""
    save(tmp_path, 100, run=other), save(tmp_path, 20)
    track(tmp_path, "20")
    assert resumed_step(tmp_path) == 20


def test_steps_are_compared_as_numbers_and_other_folders_ignored(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    (tmp_path / "global_step_1000_backup").mkdir()
    (tmp_path / "global_step_latest").mkdir()
    assert complete_steps(tmp_path) == [9, 10, 100]
    assert resumed_step(tmp_path) == 100


def test_a_plain_copy_changes_nothing(tmp_path):
    """Every file of a copy has a new time; the tracker's may be the oldest."""
    for step in (1, 2, 3):
        save(tmp_path / "run", step, run=None)
    track(tmp_path / "run", "3")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (TRACKER, "global_step_3", "global_step_1", "global_step_2"):
        source = tmp_path / "run" / name
        shutil.copytree(source, copy / name, copy_function=shutil.copy) if source.is_dir() else shutil.copy(
            source, copy
        )
    before = (copy / TRACKER).stat().st_mtime_ns
    assert resumed_step(copy) == 3
    assert (copy / TRACKER).stat().st_mtime_ns == before


def test_what_a_run_does_not_load_need_not_be_there(tmp_path):
    checkpoint = save(tmp_path, 20)
    (checkpoint / "actor" / "optim_world_size_1_rank_0.pt").unlink()
    assert complete_steps(tmp_path) == []
    assert complete_steps(tmp_path, ["model", "extra"]) == [20]


def test_a_checkpoint_of_two_ranks_needs_both(tmp_path):
    checkpoint = tmp_path / "global_step_1"
    shards(checkpoint, ranks=2)
    write_progress(checkpoint, "this", 1)
    assert is_complete(checkpoint)
    assert world_sizes(checkpoint) == {2}
    (checkpoint / "extra_state_world_size_2_rank_1.pt").unlink()
    assert not is_complete(checkpoint)


def test_an_asynchronous_checkpoint_is_whole_when_what_was_in_flight_is_there(tmp_path):
    """verl writes `transfer_queue/` after `data.pt`: a kill in between would lose it without a word."""
    save(tmp_path, 20)
    saving = rotation(tmp_path, "this", 40, 2, last=QUEUE)
    saving.__enter__()
    shards(tmp_path / "global_step_40" / "actor")
    torch.save({}, tmp_path / "global_step_40" / "data.pt")
    (tmp_path / "global_step_40" / f"{QUEUE}.tmp").mkdir()  # as far as verl had come
    track(tmp_path, "40")
    assert resumed_step(tmp_path) == 20
    (tmp_path / "global_step_40" / f"{QUEUE}.tmp").rename(tmp_path / "global_step_40" / QUEUE)
    assert complete_steps(tmp_path) == [20, 40]


def test_a_synchronous_checkpoint_needs_no_queue(tmp_path):
    with rotation(tmp_path, "this", 20, 2):
        shards(tmp_path / "global_step_20" / "actor")
        torch.save({}, tmp_path / "global_step_20" / "data.pt")
    assert complete_steps(tmp_path) == [20]


def test_a_checkpoint_of_verl_s_own_sft_trainer_counts(tmp_path):
    shards(tmp_path / "global_step_1")
    assert complete_steps(tmp_path) == []
    torch.save({}, tmp_path / "global_step_1" / "data_0.pt")
    assert complete_steps(tmp_path) == [1]


def test_runs_from_scratch_are_different_runs():
    assert run_that_resumes(None, from_path=False) != run_that_resumes(None, from_path=False)


def test_a_branch_is_not_the_run_that_it_comes_from(tmp_path):
    checkpoint = save(tmp_path, 20)
    assert run_that_resumes(checkpoint, from_path=False) == "this"
    assert run_that_resumes(checkpoint, from_path=True) == "this+20"
    assert run_that_resumes(save(tmp_path, 3, run=None), from_path=True) == "earlier+3"


# ---- how many are kept ----------------------------------------------------------------------------------------------


def test_retention_counts_what_is_on_the_disk_and_spares_what_is_not_its_own(tmp_path):
    for step in (1, 2, 3, 5):
        save(tmp_path, step)
    save(tmp_path, 4, run="another")
    save(tmp_path, 6, run=None)
    save(tmp_path, 9)  # of this run, which went back to step 5 since
    half_written(save(tmp_path, 0))
    assert retire(tmp_path, "this", 5, leave=2) == [0, 1, 2]
    assert complete_steps(tmp_path) == [3, 4, 5, 6, 9]


def test_nothing_goes_while_none_is_whole(tmp_path):
    for step in (1, 2):
        half_copied(save(tmp_path, step))
    assert retire(tmp_path, "this", 3, leave=1) == []


@given(
    saved=st.lists(st.tuples(st.sampled_from(["this", "another", None]), st.booleans()), max_size=6),
    leave=st.none() | st.integers(-1, 7),
)
def test_retention_leaves_what_was_asked_for_and_a_checkpoint_to_resume_from(tmp_path_factory, saved, leave):
    folder = tmp_path_factory.mktemp("run")
    for step, (run, whole) in enumerate(saved):
        checkpoint = save(folder, step, run)
        if not whole:
            half_written(checkpoint)
    own = [step for step, (run, whole) in enumerate(saved) if run == "this" and whole]
    gone = retire(folder, "this", len(saved), leave)
    left = [step for step in complete_steps(folder) if run_of(step_folder(folder, step)) == "this"]
    assert left == (own if leave is None else own[-max(leave, 1) :])
    assert all(saved[step][0] == "this" for step in gone)


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (None, [1, 2, 3, 4]), (-1, [1, 2, 3, 4])])
def test_the_number_to_keep_holds_over_restarts(tmp_path, keep, left):
    for step in (1, 2, 3, 4):  # each by another process: nothing is remembered but what is on the disk
        run = "this" if step == 1 else run_that_resumes(tmp_path / f"global_step_{step - 1}", from_path=False)
        with rotation(tmp_path, run, step, keep):
            if keep == 2:
                assert len(complete_steps(tmp_path)) <= 1, "room is made before the new one is written"
            save(tmp_path, step, run=None)
    assert complete_steps(tmp_path) == left


def killed_while_saving(folder: Path, step: int) -> None:
    saving = rotation(folder, "this", step, 1)
    saving.__enter__()
    shards(folder / f"global_step_{step}" / "actor")


def test_a_kill_while_saving_leaves_the_last_checkpoint_and_no_rubbish_later(tmp_path):
    save(tmp_path, 1)
    killed_while_saving(tmp_path, 2)
    assert complete_steps(tmp_path) == [1]
    (tmp_path / ".global_step_0.removed").mkdir()
    with rotation(tmp_path, "this", 3, 1):
        save(tmp_path, 3, run=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_3"]


def test_a_step_that_is_saved_again_is_never_a_mixture(tmp_path):
    save(tmp_path, 1), save(tmp_path, 2)
    killed_while_saving(tmp_path, 2)
    assert complete_steps(tmp_path) == [1]


def test_another_run_s_checkpoint_of_the_same_step_goes_aside(tmp_path, caplog):
    save(tmp_path, 2, run="another")
    with rotation(tmp_path, "this", 2, 1):
        save(tmp_path, 2, run=None)
    assert run_of(tmp_path / "global_step_2") == "this"
    assert is_complete(tmp_path / "global_step_2.another")
    assert "was written by another run" in caplog.text


def test_of_a_checkpoint_that_was_moved_to_another_disk_only_the_link_goes(tmp_path):
    run, archive = tmp_path / "run", tmp_path / "archive"
    save(archive, 1), save(run, 2)
    (run / "global_step_1").symlink_to(archive / "global_step_1")
    assert complete_steps(run) == [1, 2]
    assert retire(run, "this", 3, leave=1) == [1]
    assert [path.name for path in run.iterdir()] == ["global_step_2"]
    assert complete_steps(archive) == [1]


def test_what_cannot_be_deleted_yet_ends_no_run_and_is_tried_again(tmp_path, monkeypatch, caplog):
    """On NFS a folder in which somebody reads a file cannot go."""
    for step in (1, 2, 3):
        save(tmp_path, step)

    def busy(path, *_, **__):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        assert retire(tmp_path, "this", 3, leave=1) == [1, 2]
    assert "cannot be deleted" in caplog.text
    assert complete_steps(tmp_path) == [3]
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        retire(tmp_path, "this", 3, leave=1)  # under the same name again
    retire(tmp_path, "this", 3, leave=1)
    assert [path.name for path in tmp_path.iterdir()] == ["global_step_3"]


def test_a_checkpoint_under_the_name_of_another_step_is_none(tmp_path):
    """Its schedule, its rows and its history would be those of another moment of the run."""
    save(tmp_path, 5), save(tmp_path, 3)
    (tmp_path / "global_step_5").rename(tmp_path / "global_step_50")
    assert complete_steps(tmp_path) == [3]
    assert resumed_step(tmp_path) == 3


SAVING = """
import resource, sys
from pathlib import Path
from cinema_verl.training.checkpoint import rotation
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    with rotation(Path(sys.argv[1]), "this", 1, None):
        raise RuntimeError("unexpected pos 3794432 vs 3794320")
except (OSError, RuntimeError) as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "says"), [(1 << 20, "[Errno 27] File too large; the checkpoints"), (1 << 30, "unexpected pos")]
)
def test_a_full_disk_is_named_whatever_the_saving_says_of_it(tmp_path, run, limit, says):
    """A write beyond the limit of a process is refused, as on a full disk and beyond a quota."""
    done = run("-c", SAVING, str(tmp_path), str(limit))
    assert done.stdout.startswith(says), done.stderr
    assert str(tmp_path) in done.stdout or limit > 1 << 20
    assert not list(tmp_path.glob(".probe*"))
