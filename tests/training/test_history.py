"""What a kill between saving a step and logging it takes, and what the next start gives back."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from verl.trainer.ppo.v1 import PPOTrainerSync

from cinema_verl.training.checkpoint import progress_of, write_progress
from cinema_verl.training.history import Logged, is_due, logged, numbers

from . import test_trainer
from .test_checkpoint import save

TRAINED = {"cinema/stage": 1.0, "cinema/acc": 0.5}
VALIDATED = {"val-core/digits/acc/mean@4": 0.25}


def text(history):
    return "".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in history)


def test_a_step_may_have_several_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert logged(path, 1) == Logged(False, False), "no file yet"
    lines = [(0, VALIDATED), (1, TRAINED), (2, TRAINED | VALIDATED), (3, TRAINED), (3, VALIDATED)]
    path.write_text(text(lines) + '{"step": 4, "da')
    assert [logged(path, step) for step in range(5)] == [
        Logged(False, True), Logged(True, False), Logged(True, True), Logged(True, True), Logged(False, False)
    ]  # fmt: skip


def test_numbers_are_what_json_has():
    metrics = {"a": np.float32(0.5), "b": np.int64(3), "c": 1.5, "d": float("nan"), "e": "text", "f": [1.0], "g": None}
    assert numbers(metrics) == {"a": 0.5, "b": 3.0, "c": 1.5}
    assert json.loads(json.dumps(numbers(metrics))) == numbers(metrics)


@pytest.mark.parametrize(("frequency", "due"), [(2, [2, 4, 5]), (3, [3, 5]), (-1, []), (0, [])])
def test_a_validation_is_due_as_verl_counts(frequency, due):
    assert [step for step in range(1, 6) if is_due(frequency, step, last=5)] == due


# ---- the trainer ------------------------------------------------------------------------------------------------


def resumed(folder, monkeypatch, history, *overrides, step=4):
    """A trainer that has loaded step 4 of 6, and what it logs besides the file."""
    write_progress(folder / f"global_step_{step}", "this", step, metrics=TRAINED)
    (folder / "metrics.jsonl").write_text(text(history))
    trainer = test_trainer.make(
        f"trainer.default_local_dir={folder}",
        "cinema.exploration_steps=3",
        "cinema.annealing_steps=3",
        "trainer.test_freq=2",
        *overrides,
    )
    for verls in ("init", "on_init_end"):
        monkeypatch.setattr(PPOTrainerSync, verls, lambda self: None)
    trainer.total_training_steps, said = 6, []
    trainer.init()
    named = trainer.config.trainer.resume_from_path
    trainer.global_steps = int(named.split("_")[-1]) if named else step
    trainer.on_init_end()
    trainer.logger = SimpleNamespace(logger={}, log=lambda data, step: said.append((step, data)))
    trainer._open_file_logger()
    return trainer, said


BEFORE = [(0, VALIDATED), (1, TRAINED), (2, TRAINED | VALIDATED), (3, TRAINED)]


@pytest.mark.parametrize("asked", ["true", "false"])
def test_a_step_that_was_saved_and_not_logged_is_logged_and_validated(tmp_path, monkeypatch, asked):
    trainer, said = resumed(tmp_path, monkeypatch, BEFORE, f"trainer.val_before_train={asked}")
    assert said == [(4, TRAINED)]
    assert trainer.config.trainer.val_before_train is True


@pytest.mark.parametrize("asked", ["true", "false"])
def test_what_the_history_has_is_not_made_again(tmp_path, monkeypatch, asked):
    history = [*BEFORE, (4, TRAINED | VALIDATED)]
    trainer, said = resumed(tmp_path, monkeypatch, history, f"trainer.val_before_train={asked}")
    assert said == []
    assert trainer.config.trainer.val_before_train is False


def test_a_validation_that_was_not_due_is_not_made(tmp_path, monkeypatch):
    trainer, said = resumed(tmp_path, monkeypatch, BEFORE[:3], step=3)
    assert said == [(3, TRAINED)]
    assert trainer.config.trainer.val_before_train is False


def test_a_branch_begins_with_its_own_history(tmp_path, monkeypatch):
    overrides = (f"trainer.resume_from_path={tmp_path}/global_step_4", "trainer.resume_mode=resume_path")
    trainer, said = resumed(tmp_path, monkeypatch, [], *overrides)
    assert said == []
    assert trainer.config.trainer.val_before_train is True, "the number to beat"


def test_a_branch_that_was_killed_goes_on_with_what_it_saved(tmp_path, monkeypatch):
    """The same command again; without it, the branch would begin at its root for ever."""
    source = save(tmp_path / "source", 4, "this")
    save(tmp_path / "branch", 5, "this+4")
    save(tmp_path / "branch", 6, "another")
    (tmp_path / "branch" / "metrics.jsonl").write_text(text([(5, TRAINED)]))
    overrides = (f"trainer.resume_from_path={source}", "trainer.resume_mode=resume_path")
    trainer, said = resumed(tmp_path / "branch", monkeypatch, [(5, TRAINED)], *overrides, step=3)
    assert (trainer._resumed_step, trainer._run) == (5, "this+4")
    assert trainer.config.trainer.resume_from_path == str(tmp_path / "branch" / "global_step_5")
    assert said == []


def test_a_checkpoint_has_the_metrics_of_its_step(tmp_path, monkeypatch):
    trainer, _ = resumed(tmp_path, monkeypatch, BEFORE)
    monkeypatch.setattr(
        PPOTrainerSync, "step", lambda self, metrics, timing: metrics.update({"actor/lr": np.float64(1)})
    )
    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", lambda self: None)
    trainer.global_steps = 5
    trainer.step({}, {})
    trainer._save_checkpoint()
    saved = progress_of(tmp_path / "global_step_5")
    assert saved["metrics"]["actor/lr"] == 1.0
    assert saved["metrics"]["cinema/stage"] == 2.0
