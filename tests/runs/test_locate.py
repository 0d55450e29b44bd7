"""Where the parts of a run are found, and what is said of those that are not."""

from pathlib import Path

import pytest
import yaml

from cinema_verl.runs.locate import NothingFound, locate, names


@pytest.fixture
def run_dir(tmp_path, make_run):
    return make_run(tmp_path / "run")


def configure(run_dir, hydra=None, **changes):
    """Change values of the recorded configuration, by dotted key with `__` for the dots."""
    folder = run_dir / "hydra" / ".hydra"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if hydra is not None:
        (folder / "hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))


def test_everything_is_there(run_dir):
    files = locate(run_dir)
    assert files.metrics == run_dir / "metrics.jsonl"
    assert files.rollouts == run_dir / "rollouts"
    assert files.data == (run_dir / "data" / "train.parquet",)
    assert files.setting("cinema.exploration_steps") == 3
    assert files.notes == ()
    assert not files.from_validation


def test_the_run_directory_may_be_hydras(run_dir):
    assert locate(run_dir / "hydra").metrics == run_dir / "metrics.jsonl"


def test_rollouts_beside_the_checkpoints(run_dir):
    (run_dir / "checkpoints").mkdir()
    (run_dir / "rollouts").rename(run_dir / "checkpoints" / "rollouts")
    assert locate(run_dir).rollouts == run_dir / "checkpoints" / "rollouts"


def test_relative_paths_are_relative_to_where_the_run_was_started(run_dir, tmp_path):
    (tmp_path / "started" / "made").mkdir(parents=True)
    (run_dir / "rollouts").rename(tmp_path / "started" / "made" / "rollouts")
    configure(run_dir, {"runtime": {"cwd": str(tmp_path / "started")}}, trainer__rollout_data_dir="made/rollouts")
    assert locate(run_dir).rollouts == tmp_path / "started" / "made" / "rollouts"


def test_verls_own_place_of_the_metrics(run_dir):
    (run_dir / "cinema").mkdir()
    (run_dir / "metrics.jsonl").rename(run_dir / "cinema" / "made_up.jsonl")
    assert locate(run_dir).metrics == run_dir / "cinema" / "made_up.jsonl"


def test_metrics_under_another_name_are_known_by_their_first_line(run_dir):
    (run_dir / "metrics.jsonl").rename(run_dir / "zz.jsonl")
    (run_dir / "a.jsonl").mkdir()
    (run_dir / "aa.jsonl").write_text('{"step": 1}\n')
    (run_dir / "bb.jsonl").write_bytes(b"\xff\n")
    assert locate(run_dir).metrics == run_dir / "zz.jsonl"


def test_what_is_given_is_not_looked_for(run_dir, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("")
    files = locate(run_dir, other, run_dir / "rollouts", [run_dir / "data" / "train.parquet"])
    assert files.metrics == other
    (note,) = locate(run_dir, tmp_path / "gone.jsonl").notes
    assert str(tmp_path / "gone.jsonl") in note
    assert str(run_dir / "metrics.jsonl") not in note


def test_data_that_moved_with_the_run(run_dir):
    configure(run_dir, data__train_files=["/elsewhere/data/train.parquet"], data__val_files="/elsewhere/val.parquet")
    files = locate(run_dir)
    assert files.data == (run_dir / "data" / "train.parquet",)
    (note,) = files.notes
    assert note.startswith("/elsewhere/val.parquet is not there")


def test_the_newest_configuration_counts(run_dir):
    """A resumed run leaves one for each start."""
    import os

    (run_dir / "again" / ".hydra").mkdir(parents=True)
    (run_dir / "again" / ".hydra" / "config.yaml").write_text("cinema: {exploration_steps: 99}")
    old = run_dir / "hydra" / ".hydra" / "config.yaml"
    os.utime(old, (old.stat().st_mtime - 100,) * 2)
    assert locate(run_dir).setting("cinema.exploration_steps") == 99


def test_settings_that_cannot_be_resolved_here_are_not_known(run_dir):
    configure(run_dir, cinema__coefficient="${no_such_resolver:1}", cinema__pattern_mode="${oc.env:NOT_SET_ANYWHERE}")
    files = locate(run_dir)
    assert files.setting("cinema.coefficient") is None
    assert files.setting("cinema.pattern_mode") is None
    assert files.setting("no.such.key") is None


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "\x00", ""])
def test_a_configuration_that_is_none(run_dir, text):
    (run_dir / "hydra" / ".hydra" / "config.yaml").write_text(text)
    files = locate(run_dir)
    assert files.setting("cinema.exploration_steps") is None
    assert files.metrics is not None


@pytest.mark.parametrize("text", ["a: [", "{}", "- trainer.x=1\n- +recipe=cinema"])
def test_overrides_are_shown_where_they_can_be_read(run_dir, text):
    (run_dir / "hydra" / ".hydra" / "overrides.yaml").write_text(text)
    assert locate(run_dir).overrides == (("trainer.x=1", "+recipe=cinema") if text.startswith("-") else ())


def test_a_rollout_directory_without_steps_is_none(run_dir):
    for path in (run_dir / "rollouts").iterdir():
        path.unlink()
    assert locate(run_dir).rollouts is None


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None], ids=["file", "empty", "missing"])
def test_what_is_no_run_is_told_what_to_give(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(NothingFound, match=r"(?i)give the folder of a run .* --metrics and --rollouts"):
        locate(tmp_path / "x")


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    assert names([Path("/a/x/run")]) == ["run"]
    assert names([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert names([Path("/a/x/one"), Path("/a/y/two")]) == ["one", "two"]
    assert names([Path("/a/run"), Path("/a/run")]) == ["/a/run", "/a/run"], "one run twice"
