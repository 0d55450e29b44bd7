"""SIGTERM in reinforcement learning: the process that is asked, and the trainer in another one that ends."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray
from hydra import compose, initialize_config_module
from hydra.core.utils import JobReturn, JobStatus
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base

from cinema_verl.training.before_start import RefuseBeforeStart
from cinema_verl.training.stop_signal import EXIT_CODE, StopRequest


def configured(folder, *overrides, hydra=False):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            overrides=[
                "+recipe=cinema_cpu",
                f"trainer.default_local_dir={folder}",
                "cinema.exploration_steps=3",
                "cinema.annealing_steps=2",
                "trainer.logger=[file]",
                *overrides,
            ],
            return_hydra_config=hydra,
        )


def trainer_of(folder, monkeypatch, at=lambda event, step: None, resumed=0, **options):
    """verl's own loop around steps that take no time; `at(event, step)` is called as it goes on."""
    overrides = [f"trainer.{key}={value}" for key, value in options.items()]
    trainer = get_trainer_cls("cinema")(configured(folder, "trainer.val_before_train=false", *overrides))
    trainer.happened = []

    def happens(event):
        trainer.happened.append((event, trainer.global_steps))
        at(event, trainer.global_steps)

    def step(metrics, timing):
        happens("train")
        return KVBatchMeta(keys=[], tags=[], partition_id="train")

    def validate():
        happens("validate")
        return {"val": 1.0}

    def save(self):
        happens("save")
        self._saved_step = self.global_steps

    monkeypatch.setattr(type(trainer), "_save_checkpoint", save)
    monkeypatch.setattr(trainer_base.tq, "kv_clear", lambda **_: None)
    trainer.step, trainer._validate, trainer._log_rollout_data = step, validate, lambda *_: None
    trainer._reissue_inflight_prompts = trainer._start_profiling = trainer._stop_profiling = lambda: None
    trainer._compute_metrics = lambda batch, metrics, *_, **__: metrics.update({"cinema/acc": 1.0})
    trainer._shutdown_dump_executor = lambda: None
    trainer.checkpoint_manager = SimpleNamespace(update_weights=lambda step: happens("update_weights"))
    trainer.global_steps, trainer.steps_per_epoch, trainer.total_training_steps = resumed, 100, 5
    trainer._resumed_step, trainer.val_dataset = resumed, range(6)
    return trainer


def logged(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def asking(folder, event, step):
    return lambda now, at: StopRequest(folder).ask() if (now, at) == (event, step) else None


def test_the_step_under_way_ends_is_saved_and_logged(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, monkeypatch, asking(tmp_path, "train", 2), test_freq=-1, save_freq=4)
    trainer.fit(None)
    assert trainer.happened == [
        ("train", 1), ("update_weights", 1), ("train", 2), ("save", 2), ("update_weights", 2)
    ]  # fmt: skip
    assert logged(tmp_path) == [1, 2]
    assert StopRequest(tmp_path).answered == 2


def test_a_step_that_was_saved_is_not_saved_twice(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, monkeypatch, asking(tmp_path, "train", 2), test_freq=-1, save_freq=2)
    trainer.fit(None)
    assert trainer.happened.count(("save", 2)) == 1
    assert trainer.happened[-1] == ("update_weights", 2)


@pytest.mark.parametrize(("save_freq", "last"), [(1, 2), (4, 3)])
def test_in_a_validation_it_ends_at_once_if_the_step_is_saved(tmp_path, monkeypatch, capsys, save_freq, last):
    trainer = trainer_of(tmp_path, monkeypatch, asking(tmp_path, "validate", 2), test_freq=2, save_freq=save_freq)
    trainer.fit(None)
    assert ("save", last) in trainer.happened
    assert logged(tmp_path)[-1] == last
    assert "validation at step 2: 6 questions, 4 rollouts each" in capsys.readouterr().out
    assert StopRequest(tmp_path).answered == last


def test_before_the_first_step_nothing_is_trained_or_saved(tmp_path, monkeypatch):
    StopRequest(tmp_path).ask()
    trainer = trainer_of(tmp_path, monkeypatch, resumed=3)
    trainer.fit(None)
    assert trainer.happened == []
    assert StopRequest(tmp_path).answered == 3


def test_in_the_last_step_the_run_is_finished_and_not_stopped(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, monkeypatch, asking(tmp_path, "train", 5), test_freq=5, save_freq=5)
    trainer.fit(None)
    assert trainer.happened[-4:] == [("train", 5), ("save", 5), ("update_weights", 5), ("validate", 5)]
    assert StopRequest(tmp_path).answered is None


# ---- the process that is asked ----------------------------------------------------------------------------------


@pytest.fixture
def callback(tmp_path, monkeypatch, files_of_digits):
    """The driver's, of a run in `tmp_path`, as it is once Ray runs."""
    hooks = []
    monkeypatch.setenv("CINEMA_SHOW_CONFIG", "1")  # pytest's console is another one in a fixture
    monkeypatch.setattr(ray._private.worker, "_post_init_hooks", hooks)
    before = signal.getsignal(signal.SIGTERM)
    config = configured(tmp_path, hydra=True)
    callback = RefuseBeforeStart()
    callback.on_job_start(config)
    for hook in hooks:
        hook()
    yield lambda status=JobStatus.COMPLETED: callback.on_job_end(config, job_return=JobReturn(status=status))
    signal.signal(signal.SIGTERM, before)


def test_a_stopped_run_ends_with_143(tmp_path, callback, capsys):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert StopRequest(tmp_path).asked
    StopRequest(tmp_path).answer(7)
    with pytest.raises(SystemExit) as stopped:
        callback()
    assert stopped.value.code == EXIT_CODE == 143
    assert "after step 7" in capsys.readouterr().err
    assert not StopRequest(tmp_path).asked


def test_a_run_that_was_through_before_it_looked_is_finished(tmp_path, callback, capsys):
    signal.raise_signal(signal.SIGTERM)
    callback()
    assert f"cinema-verl report {tmp_path}\n" in capsys.readouterr().out


def test_a_failed_run_says_nothing_of_it(tmp_path, callback, capsys):
    StopRequest(tmp_path).answer(7)
    callback(JobStatus.FAILED)
    assert capsys.readouterr().out == ""
    assert not StopRequest(tmp_path).asked


@pytest.mark.usefixtures("files_of_digits")
def test_what_an_earlier_run_was_asked_stops_no_other(tmp_path):
    StopRequest(tmp_path).ask()
    RefuseBeforeStart().on_job_start(configured(tmp_path, hydra=True))
    assert not StopRequest(tmp_path).asked


@pytest.mark.slow
def test_ray_puts_its_own_handler_first_and_ours_comes_after():
    """In a process of its own: the private list of Ray's that this needs is still there, and called last."""
    program = """
import os, signal, sys, tempfile
import ray
from cinema_verl.training.before_start import _once_ray_runs
from cinema_verl.training.stop_signal import StopRequest
from pathlib import Path
request = StopRequest(Path(tempfile.mkdtemp()))
_once_ray_runs(request.listen)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
def slow():
    import time
    time.sleep(2)
    return "done"
waiting = slow.remote()
os.kill(os.getpid(), signal.SIGTERM)
print(ray.get(waiting), request.asked)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, timeout=300)
    assert "done True" in done.stdout, done.stderr[-2000:]
    assert done.returncode == 0
