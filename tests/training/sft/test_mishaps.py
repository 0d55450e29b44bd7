"""What happens to runs that somebody is looking after in a hurry: each ends as an undisturbed one, or says why not."""

import errno
import os
import shutil
import signal

import pytest

from cinema_verl.runs.locate import RUN
from cinema_verl.training import checkpoint as on_disk
from cinema_verl.training.checkpoint import TRACKER, complete_steps
from cinema_verl.training.sft import checkpoints
from cinema_verl.training.stop_signal import EXIT_CODE

from .conftest import STEPS, Killed, assert_same, history, weights
from .test_trainer import EPOCH, interrupt, undisturbed  # noqa: F401  the fixture

pytestmark = pytest.mark.slow

VALIDATED = "trainer.test_freq=after_each_epoch"


def ends_as(folder, undisturbed):  # noqa: F811
    assert_same(weights(folder), weights(undisturbed))
    assert history(folder) == history(undisturbed)
    assert (folder / TRACKER).read_text() == str(STEPS)


def test_another_save_freq_at_each_start(tmp_path, trainer_of, undisturbed):  # noqa: F811
    interrupt(trainer_of(tmp_path, VALIDATED, "trainer.save_freq=3"), EPOCH - 1, "kill")
    interrupt(trainer_of(tmp_path, VALIDATED, "trainer.save_freq=1"), EPOCH + 1, "kill")
    trainer_of(tmp_path, VALIDATED, "trainer.save_freq=after_each_epoch").fit()
    ends_as(tmp_path, undisturbed)


@pytest.mark.parametrize("moment", ["before the first step", "in a validation", "while it saves"])
def test_sigterm_at_a_bad_moment(tmp_path, trainer_of, undisturbed, moment):  # noqa: F811
    settings = (VALIDATED, "trainer.save_freq=2")
    trainer = trainer_of(tmp_path, *settings)
    owner, name = {
        "before the first step": (trainer, "_batches"),
        "in a validation": (trainer.training_client, "infer_batch"),
        "while it saves": (trainer.engine, "save_checkpoint"),
    }[moment]
    does = getattr(owner, name)

    def signalled(*arguments, **named):
        signal.raise_signal(signal.SIGTERM)
        return does(*arguments, **named)

    setattr(owner, name, signalled)
    with pytest.raises(SystemExit) as ended:
        trainer.fit()
    assert ended.value.code == EXIT_CODE
    assert complete_steps(tmp_path), "it has saved"
    trainer_of(tmp_path, *settings).fit()
    ends_as(tmp_path, undisturbed)


@pytest.mark.parametrize("what", ["the shards", "the tracker", "the history"])
def test_a_disk_that_is_full_costs_what_was_not_saved(tmp_path, trainer_of, undisturbed, monkeypatch, what):  # noqa: F811
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    settings = (VALIDATED, "trainer.save_freq=2")
    trainer = trainer_of(tmp_path, *settings)
    train = trainer._train

    def until(batch, step):
        if step == 4:
            {
                "the shards": lambda: monkeypatch.setattr("torch.save", full),
                "the tracker": lambda: monkeypatch.setattr(checkpoints, "write_tracker", full),
                "the history": lambda: monkeypatch.setattr(trainer.tracking.logger["file"], "log", full),
            }[what]()
        train(batch, step)

    trainer._train = until
    with pytest.raises(Exception, match=os.strerror(errno.ENOSPC)):
        trainer.fit()
    monkeypatch.undo()
    assert all(step in (2, 4) for step in complete_steps(tmp_path))
    trainer_of(tmp_path, *settings).fit()
    ends_as(tmp_path, undisturbed)
    assert not list(tmp_path.glob("*.partial"))


def test_a_kill_while_the_older_checkpoint_goes(tmp_path, trainer_of, undisturbed, monkeypatch):  # noqa: F811
    """Of the one that is kept, and of half of the one that is not: what is half gone is under no checkpoint's name."""

    def half(path, *_, **__):
        next(path.rglob("optim*")).unlink()
        raise Killed

    settings = (VALIDATED, "trainer.save_freq=2", "trainer.max_ckpt_to_keep=1")
    trainer = trainer_of(tmp_path, *settings)
    monkeypatch.setattr(on_disk.shutil, "rmtree", half)
    with pytest.raises(Killed):
        trainer.fit()
    monkeypatch.undo()
    assert complete_steps(tmp_path) == [4]
    trainer_of(tmp_path, *settings).fit()
    ends_as(tmp_path, undisturbed)
    assert [path.name for path in tmp_path.glob("*global_step_*")] == [f"global_step_{STEPS}"]


@pytest.mark.parametrize("cut", [None, "model*", "model.safetensors", "progress.json"])
def test_a_folder_that_was_copied(tmp_path, trainer_of, undisturbed, cut):  # noqa: F811
    """With new times, and where the copy of the last checkpoint was cut off: it goes on from the one before."""
    settings = (VALIDATED, "trainer.save_freq=2", "trainer.max_ckpt_to_keep=null")
    interrupt(trainer_of(tmp_path / "run", *settings), 5, "kill")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy, copy_function=shutil.copy)
    if cut:
        (file,) = (copy / "global_step_4").rglob(cut) if cut != "model*" else (copy / "global_step_4").glob(cut)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    trainer = trainer_of(copy, *settings)
    assert trainer.resume_global_step == (2 if cut else 4)
    trainer.fit()
    ends_as(copy, undisturbed)


def test_fewer_epochs_than_are_trained(tmp_path, trainer_of, capsys):
    interrupt(trainer_of(tmp_path, "trainer.save_freq=1"), EPOCH + 2, "kill")
    before = history(tmp_path)
    trainer_of(tmp_path, "trainer.total_epochs=1").fit()
    assert f"step {EPOCH + 1} of {EPOCH}: trained already" in capsys.readouterr().out
    assert history(tmp_path) == [record for record in before if record[0] <= EPOCH + 1]


def test_a_kill_before_the_last_but_one_goes(tmp_path, trainer_of, undisturbed, monkeypatch):  # noqa: F811
    """Nothing is saved after that, and the finished run is to leave as many checkpoints as were asked for."""
    settings = (VALIDATED, "trainer.save_freq=after_each_epoch", "trainer.max_ckpt_to_keep=1")
    interrupt(trainer_of(tmp_path, *settings), EPOCH + 1, "kill")
    trainer = trainer_of(tmp_path, *settings)

    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(checkpoints, "retire", lambda *a, saved=True: killed() if saved else None)
    with pytest.raises(Killed):
        trainer.fit()
    monkeypatch.undo()
    assert complete_steps(tmp_path) == [EPOCH, STEPS]
    trainer_of(tmp_path, *settings).fit()
    ends_as(tmp_path, undisturbed)
    assert complete_steps(tmp_path) == [STEPS]


def test_a_run_whose_folder_is_moved_begins_no_second_one(tmp_path, trainer_of, undisturbed):  # noqa: F811
    """And goes on under the new name."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / RUN).write_text("{}")
    trainer = trainer_of(here, VALIDATED, "trainer.save_freq=1")
    train = trainer._train

    def moved(batch, step):
        train(batch, step)
        if step == 3:
            here.rename(there)

    trainer._train = moved
    with pytest.raises(FileNotFoundError, match="moved or removed while the run was at work"):
        trainer.fit()
    assert not here.exists()
    trainer_of(there, VALIDATED, "trainer.save_freq=1").fit()
    ends_as(there, undisturbed)
