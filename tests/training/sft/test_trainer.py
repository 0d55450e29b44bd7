"""Interrupted at any step and started again, a run ends as one that was left alone; and what it refuses."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from cinema_verl.training.checkpoint import TRACKER, complete_steps
from cinema_verl.training.stop_signal import EXIT_CODE

from .conftest import BATCH, ROWS, STEPS, VAL_ROWS, Killed, assert_same, history, weights

EPOCH = STEPS // 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_rank, overrides):
    """A run that nobody interrupts, with a validation after each epoch."""
    from hydra import compose, initialize_config_module

    from cinema_verl.training.sft.trainer import CinemaSFTTrainer

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", overrides=overrides(folder, "trainer.test_freq=after_each_epoch"))
    CinemaSFTTrainer(config).fit()
    return folder


def interrupt(trainer, step, how):
    """Let a trainer train up to and with a step, and end there."""
    train = trainer._train

    def until(batch, at):
        train(batch, at)
        if at == step and how == "kill":
            raise Killed
        if at == step:
            signal.raise_signal(signal.SIGTERM)

    trainer._train = until
    with pytest.raises(Killed if how == "kill" else SystemExit) as ended:
        trainer.fit()
    if how == "term":
        assert ended.value.code == EXIT_CODE == 143


@pytest.mark.parametrize(
    ("save_freq", "step", "how"),
    [
        ("after_each_epoch", EPOCH + 2, "kill"),  # resumes at the end of an epoch, where verl trains nothing
        ("-1", EPOCH, "term"),  # before the validation that is due: the resumed run makes up for it
        pytest.param("3", EPOCH + 2, "kill", marks=pytest.mark.slow),
        pytest.param("-1", EPOCH + 2, "kill", marks=pytest.mark.slow),
        pytest.param("-1", 2, "term", marks=pytest.mark.slow),
        pytest.param("after_each_epoch", STEPS, "term", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, trainer_of, undisturbed, save_freq, step, how):
    settings = (f"trainer.save_freq={save_freq}", "trainer.test_freq=after_each_epoch")
    interrupt(trainer_of(tmp_path, *settings), step, how)
    if how == "term":
        assert complete_steps(tmp_path) == [step]
    trainer_of(tmp_path, *settings).fit()
    assert_same(weights(tmp_path), weights(undisturbed))
    assert history(tmp_path) == history(undisturbed)
    assert (tmp_path / TRACKER).read_text() == str(STEPS)
    assert complete_steps(tmp_path) == [STEPS]  # the recipe keeps one


def test_a_finished_run_is_left_as_it_is(tmp_path, trainer_of, undisturbed, capsys):
    shutil.copytree(undisturbed, tmp_path / "copy")
    before = (tmp_path / "copy" / f"global_step_{STEPS}" / "progress.json").read_bytes()
    trainer_of(tmp_path / "copy", "trainer.test_freq=after_each_epoch").fit()
    assert f"step {STEPS} of {STEPS}: trained already" in capsys.readouterr().out
    assert history(tmp_path / "copy") == history(undisturbed)
    assert (tmp_path / "copy" / f"global_step_{STEPS}" / "progress.json").read_bytes() == before


def test_more_epochs_go_on_where_the_run_ended(tmp_path, trainer_of, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "copy")
    trainer_of(tmp_path / "copy", "trainer.total_epochs=3").fit()
    assert [step for step, data in history(tmp_path / "copy") if "train/loss" in data] == list(range(1, 3 * EPOCH + 1))


@pytest.mark.slow
def test_the_number_of_checkpoints_holds_over_restarts(tmp_path, trainer_of):
    settings = ("trainer.save_freq=1", "trainer.max_ckpt_to_keep=2")
    for step in (3, 6):
        interrupt(trainer_of(tmp_path, *settings), step, "kill")
        assert complete_steps(tmp_path) == [step - 2, step - 1]
    trainer_of(tmp_path, *settings).fit()
    assert complete_steps(tmp_path) == [STEPS - 1, STEPS]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [TRACKER, "metrics.jsonl", f"global_step_{STEPS - 1}", f"global_step_{STEPS}"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the engine", "before the renaming", "before the tracker"])
def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path, trainer_of, undisturbed, moment, monkeypatch):
    from cinema_verl.training.sft import checkpoints

    def die(*_, **__):
        raise Killed

    settings = ("trainer.save_freq=2", "trainer.test_freq=after_each_epoch")
    trainer = trainer_of(tmp_path, *settings)
    save = trainer.ckpt_handler.save_checkpoint

    def save_until(step, **progress):
        with monkeypatch.context() as patch:
            if step == 6:
                if moment == "before the engine":
                    patch.setattr(trainer.engine, "save_checkpoint", die)
                elif moment == "before the renaming":
                    patch.setattr(checkpoints, "write_progress", die)
                else:
                    patch.setattr(checkpoints, "write_tracker", die)
            save(step, **progress)

    trainer.ckpt_handler.save_checkpoint = save_until
    with pytest.raises(Killed):
        trainer.fit()
    assert 4 in complete_steps(tmp_path)
    again = trainer_of(tmp_path, *settings)
    assert again.resume_global_step == (6 if moment == "before the tracker" else 4)
    again.fit()
    assert_same(weights(tmp_path), weights(undisturbed))
    assert history(tmp_path) == history(undisturbed)
    assert complete_steps(tmp_path) == [STEPS]


def test_the_validation_is_the_mean_over_every_token_whatever_the_batches(tmp_path, trainer_of, undisturbed):
    """Three rows in batches of two and of four: the same number, and the one that verl's loss gives row by row."""
    (_, data) = [record for record in history(undisturbed) if record[0] == STEPS][-1]
    assert data["val/loss"] == data["val/loss"], "NaN, as where verl drops the last batch"
    one_by_one = trainer_of(tmp_path, f"model.path={undisturbed}/global_step_{STEPS}/huggingface")
    losses = []
    one_by_one.tracking = type("Log", (), {"log": lambda self, data, step: losses.append(data["val/loss"])})()
    one_by_one.stop = type("Stop", (), {"requested": False})()
    one_by_one._validate(0)
    assert VAL_ROWS % 2
    assert losses[0] == pytest.approx(data["val/loss"], abs=1e-6)

    from cinema_verl.training.sft.batches import PaddedRows, loader_of

    for size in (1, 4):
        rows = PaddedRows(one_by_one.val_dataset, size)
        sampler = torch.utils.data.SequentialSampler(rows)
        one_by_one.val_dataloader = loader_of(rows, sampler, size, one_by_one.train_dataloader.collate_fn, 0, "cpu")
        one_by_one.config.data.micro_batch_size_per_gpu = size
        one_by_one._validate(0)
    assert losses[1:] == [pytest.approx(losses[0], abs=1e-6)] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((f"data.train_batch_size={ROWS + 4}",), rf"{ROWS} training rows, fewer than data\.train_batch_size"),
        ((f"data.train_batch_size={BATCH}", "data.micro_batch_size_per_gpu=3"), "micro_batch_size_per_gpu=3 does not"),
        (("trainer.total_training_steps=11",), "raise trainer.total_epochs"),
    ],
)
def test_what_cannot_train_is_refused(tmp_path, trainer_of, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, *settings)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, trainer_of, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"'train_batch_size': 4.*'train_batch_size': 2"):
        trainer_of(tmp_path / "copy", "data.train_batch_size=2")
    with pytest.raises(ValueError, match=r"would write over the checkpoints of another run.*steps 10"):
        trainer_of(tmp_path / "copy", "trainer.resume_mode=disable")
    for shard in (tmp_path / "copy").glob("*/*world_size_1*"):
        shard.rename(shard.with_name(shard.name.replace("world_size_1_", "world_size_2_")))
        shutil.copy(
            shard.with_name(shard.name.replace("world_size_1_", "world_size_2_")),
            str(shard).replace("_1_rank_0", "_2_rank_1"),
        )
    with pytest.raises(ValueError, match=r"for 2 processes.*this run has 1.*reshard"):
        trainer_of(tmp_path / "copy")


@pytest.mark.slow
def test_a_branch_keeps_what_it_comes_from(tmp_path, trainer_of, undisturbed):
    """`resume_from_path` into a folder of its own; the same command again goes on with the branch."""
    start = undisturbed / f"global_step_{STEPS}"
    settings = (f"trainer.resume_from_path={start}", "trainer.total_epochs=3", "trainer.save_freq=1")
    interrupt(trainer_of(tmp_path, *settings), STEPS + 3, "kill")
    again = trainer_of(tmp_path, *settings)
    assert again.resume_global_step == STEPS + 2
    again.fit()
    assert complete_steps(tmp_path) == [3 * EPOCH]
    assert complete_steps(undisturbed) == [STEPS]


def test_progress_says_what_the_history_does_not(undisturbed):
    progress = json.loads((Path(undisturbed) / f"global_step_{STEPS}" / "progress.json").read_text())
    assert progress["step"] == STEPS
    assert progress["data"] == {"rows": ROWS, "train_batch_size": BATCH}
    assert progress["total_tokens"] == pytest.approx(history(undisturbed)[-2][1]["train/total_tokens(B)"] * 1e9)
