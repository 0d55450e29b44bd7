"""Reinforcement learning that is killed at every moment there is, one after the other: verl's own loop, whose steps,
validations and shards take no time. `e2e/test_kills.py` does it to the real thing, at a few random moments."""

import json
from types import SimpleNamespace

import pytest
import torch
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls, trainer_base
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from cinema_verl.runs.locate import RUN
from cinema_verl.training import checkpoint, file_logger
from cinema_verl.training.checkpoint import TRACKER, complete_steps, step_folder

from .test_checkpoint import shards
from .test_stopping import configured

STEPS = 5


class Killed(BaseException):
    """What a test raises in the place of kill -9."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(kill_at, **options)`: start a run in `tmp_path`; True if it came to its end before that moment.

    Moments are counted over all that a kill could part: a step, each part of a checkpoint, the deletion of an older
    one, a validation, the sync of weights, a line of the history.
    """
    configurations, state = {}, SimpleNamespace(left=None, trained=[])

    def moment():
        if state.left is not None:
            state.left -= 1
            if state.left < 0:
                raise Killed

    def before(owner, name):
        does = getattr(owner, name)

        def after_a_moment(*arguments, **named):
            moment()
            return does(*arguments, **named)

        monkeypatch.setattr(owner, name, after_a_moment)

    def init(self):
        found = find_latest_ckpt_path(self.config.trainer.default_local_dir)
        self.global_steps = 0 if found is None else int(found.rpartition("_")[2])
        self.on_init_end()

    def save(self):
        folder = step_folder(tmp_path, self.global_steps)
        moment()
        shards(folder / "actor")
        moment()
        torch.save({}, folder / "data.pt")
        moment()
        (tmp_path / TRACKER).write_text(str(self.global_steps))
        moment()

    def step(self, metrics, timing):
        moment()
        state.trained.append(self.global_steps)
        return KVBatchMeta(keys=[], tags=[], partition_id="train")

    for name, does in (("init", init), ("_save_checkpoint", save), ("step", step), ("on_init_end", lambda self: None)):
        monkeypatch.setattr(PPOTrainerSync, name, does)
    monkeypatch.setattr(trainer_base.tq, "kv_clear", lambda **_: None)
    before(checkpoint.shutil, "rmtree")
    before(checkpoint, "write_progress")
    before(file_logger.AppendingFileLogger, "log")

    def run(kill_at=None, **options):
        overrides = tuple(f"trainer.{key}={value}" for key, value in options.items())
        if overrides not in configurations:
            configurations[overrides] = configured(tmp_path, *overrides)
        trainer = get_trainer_cls("cinema")(configurations[overrides].copy())
        trainer._validate = lambda: moment() or {"val-core/digits/acc/mean@1": 0.5}
        trainer._reissue_inflight_prompts = trainer._start_profiling = trainer._stop_profiling = lambda: None
        trainer._step_metrics = lambda: {"cinema/stage": 1.0, "cinema/acc": 0.25}
        trainer._log_rollout_data, trainer._shutdown_dump_executor = lambda *_: None, lambda: None
        trainer._compute_metrics = lambda batch, metrics, *_, **__: metrics.update({"perf/time": 1.0})
        trainer.checkpoint_manager = SimpleNamespace(update_weights=lambda step: moment())
        trainer.steps_per_epoch, trainer.total_training_steps, trainer.val_dataset = 100, STEPS, range(6)
        state.left = kill_at
        try:
            trainer.init()
            trainer.fit(None)
        except Killed:
            return False
        finally:
            state.left = None
        return True

    return run


def history(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"save_freq": 1, "test_freq": 2, "val_before_train": "true", "max_actor_ckpt_to_keep": 1}, [0, 2, 4, 5]),
        ({"save_freq": 2, "test_freq": 2, "val_before_train": "false", "max_actor_ckpt_to_keep": 2}, [2, 4, 5]),
        ({"save_freq": 2, "test_freq": -1, "val_before_train": "false", "max_actor_ckpt_to_keep": "null"}, []),
    ],
)
def test_no_moment_takes_a_step_or_a_validation(tmp_path, run, options, validated):
    keep = {1: [5], 2: [4, 5]}.get(options["max_actor_ckpt_to_keep"], [2, 4, 5])
    kill_at, through = 0, False
    while not through:
        through = run(kill_at, **options)
        if not through:
            steps = [record["step"] for record in history(tmp_path) if "cinema/acc" in record["data"]]
            assert steps == sorted(set(steps)), kill_at
            assert len(complete_steps(tmp_path)) <= len(keep) + 1, kill_at
            assert run(**options), "the same command goes on"
        records = history(tmp_path)
        assert [one["step"] for one in records if "cinema/acc" in one["data"]] == list(range(1, STEPS + 1)), kill_at
        assert sorted({one["step"] for one in records if any("val-" in name for name in one["data"])}) == validated
        assert complete_steps(tmp_path) == keep, kill_at
        assert (tmp_path / TRACKER).read_text() == str(STEPS)
        leftovers = {path.name for path in tmp_path.glob("*global_step_*")} - {f"global_step_{step}" for step in keep}
        assert not leftovers, kill_at
        for path in tmp_path.iterdir():
            checkpoint.shutil.rmtree(path) if path.is_dir() else path.unlink()
        kill_at += 1
    assert kill_at > STEPS * 3


def test_a_run_whose_folder_is_moved_begins_no_second_one(tmp_path, run, monkeypatch):
    (tmp_path / RUN).write_text("{}")
    step = PPOTrainerSync.step

    def moved(self, *arguments):
        if self.global_steps == 3:
            (tmp_path / RUN).unlink()
        return step(self, *arguments)

    monkeypatch.setattr(PPOTrainerSync, "step", moved)
    with pytest.raises(FileNotFoundError, match="moved or removed while the run was at work"):
        run(save_freq=1, test_freq=-1, val_before_train="false")
    assert complete_steps(tmp_path) == [1, 2]
