"""Where the parts of a run are found, and what is said of those that are not."""

import os
import shutil
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
    with pytest.raises(NothingFound, match=r"(?i)give a folder of a run .* --metrics and --rollouts"):
        locate(tmp_path / "x")


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    assert names([Path("/a/x/run")]) == ["run"]
    assert names([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert names([Path("/a/x/one"), Path("/a/y/two")]) == ["one", "two"]
    assert names([Path("/a/run/rollouts")]) == ["run/rollouts"], "a name that says which run"
    assert names([Path("/a/run"), Path("/a/run")]) == ["/a/run", "/a/run"], "one run twice"


# ---- any folder of a run ----------------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path, make_run):
    """`started(name, time)`: a run with verl's and Hydra's own folders, started in `tmp_path / "home"`.

    checkpoints/cinema/NAME/rollouts, cinema/NAME.jsonl and outputs/2026-01-05/TIME/.hydra
    """
    home = tmp_path / "home"

    def started(name: str, time: str = "10-00-00") -> dict[str, Path]:
        run = make_run(tmp_path / "made" / name)
        checkpoints, hydra = home / "checkpoints" / "cinema" / name, home / "outputs" / "2026-01-05" / time
        for path in (checkpoints, hydra, home / "cinema"):
            path.mkdir(parents=True, exist_ok=True)
        (run / "rollouts").rename(checkpoints / "rollouts")
        (run / "metrics.jsonl").rename(home / "cinema" / f"{name}.jsonl")
        configure(
            run,
            {"runtime": {"cwd": str(home)}},
            trainer__experiment_name=name,
            trainer__default_local_dir="checkpoints/${trainer.project_name}/${trainer.experiment_name}",
            trainer__rollout_data_dir="${trainer.default_local_dir}/rollouts",
        )
        (run / "hydra" / ".hydra").rename(hydra / ".hydra")
        (checkpoints / "global_step_6" / "actor").mkdir(parents=True)
        return {"home": home, "hydra": hydra, "checkpoints": checkpoints}

    return started


def found(directory):
    files = locate(directory)
    return files.metrics, files.rollouts and files.rollouts.resolve(), files.setting("trainer.experiment_name")


@pytest.mark.parametrize(
    "place",
    ["outputs/2026-01-05/10-00-00", "outputs/2026-01-05/10-00-00/.hydra", "outputs/2026-01-05", "outputs", ".",
     "checkpoints", "checkpoints/cinema", "checkpoints/cinema/dps", "checkpoints/cinema/dps/rollouts",
     "checkpoints/cinema/dps/global_step_6"],
)  # fmt: skip
def test_every_folder_of_a_run_leads_to_all_of_it(started, place):
    run = started("dps")
    whole = run["home"] / "cinema" / "dps.jsonl", run["checkpoints"] / "rollouts", "dps"
    assert found(run["home"] / place) == whole


def test_a_relative_path_leads_to_all_of_it_too(started, monkeypatch):
    run = started("dps")
    monkeypatch.chdir(run["checkpoints"] / "rollouts")
    assert found(Path())[1:] == (run["checkpoints"] / "rollouts", "dps")
    monkeypatch.chdir(run["home"])
    assert found(Path())[1:] == (run["checkpoints"] / "rollouts", "dps")


@pytest.mark.parametrize("place", ["hydra", "checkpoints", "checkpoints/rollouts", "validation", ""])
def test_every_folder_of_the_demo_leads_to_all_of_it(tmp_path, make_run, place):
    """Moved to where its configuration does not lead."""
    run = make_run(tmp_path / "run")
    configure(
        run,
        trainer__default_local_dir="/gone/checkpoints",
        trainer__rollout_data_dir="/gone/checkpoints/rollouts",
        trainer__validation_data_dir="/gone/validation",
        data__train_files="/gone/data/train.parquet",
    )
    shutil.copytree(run / "rollouts", run / "validation")
    (run / "checkpoints").mkdir()
    (run / "rollouts").rename(run / "checkpoints" / "rollouts")
    files = locate(run / place)
    assert files.metrics == run / "metrics.jsonl"
    assert files.rollouts == run / ("validation" if place == "validation" else "checkpoints/rollouts")
    assert files.from_validation == (place == "validation")
    assert files.data == (run / "data" / "train.parquet",)
    assert files.setting("cinema.exploration_steps") == 3
    assert files.notes == ()


def test_a_moved_run_whose_metrics_are_where_verl_puts_them(run_dir):
    """No folder of it is a run by itself: Hydra's record leads to all."""
    configure(run_dir, {"runtime": {"cwd": "/gone"}})
    (run_dir / "cinema").mkdir()
    (run_dir / "metrics.jsonl").rename(run_dir / "cinema" / "made_up.jsonl")
    shutil.rmtree(run_dir / "rollouts")
    for place in (run_dir, run_dir / "hydra"):
        assert locate(place).metrics == run_dir / "cinema" / "made_up.jsonl"
        assert locate(place).setting("cinema.exploration_steps") == 3


def test_rollouts_in_a_folder_of_another_name_are_found_from_there(run_dir, tmp_path):
    (tmp_path / "scratch" / "other" / ".hydra").mkdir(parents=True)
    (tmp_path / "scratch" / "other" / ".hydra" / "config.yaml").write_text("cinema: {exploration_steps: 99}")
    shutil.move(run_dir / "rollouts", tmp_path / "scratch" / "dumps")
    files = locate(tmp_path / "scratch" / "dumps")
    assert files.rollouts == tmp_path / "scratch" / "dumps"
    assert files.setting("cinema.exploration_steps") is None, "the record beside it is not of this run"


@pytest.mark.parametrize(
    ("place", "expected"),
    [("outputs", ["outputs/2026-01-05/10-00-00", "outputs/2026-01-05/11-00-00"]),
     (".", ["outputs/2026-01-05/10-00-00", "outputs/2026-01-05/11-00-00"]),
     ("checkpoints/cinema", ["checkpoints/cinema/dapo", "checkpoints/cinema/dps"]),
     ("cinema", ["cinema/dapo.jsonl", "cinema/dps.jsonl"])],
)  # fmt: skip
def test_several_runs_are_listed(started, place, expected):
    home = started("dps")["home"]
    started("dapo", "11-00-00")
    with pytest.raises(NothingFound) as error:
        locate(home / place)
    message, *listed = str(error.value).splitlines()
    assert "holds 2 runs" in message
    assert [line.strip() for line in listed] == [str(home / path) for path in expected]


def test_two_starts_of_one_run_are_one_run(started, make_run, tmp_path):
    """Resumed an hour later: another folder of Hydra's, the same checkpoints. The last start counts."""
    run = started("dps")
    again = run["hydra"].with_name("11-00-00")
    shutil.copytree(run["hydra"], again)
    text = (again / ".hydra" / "config.yaml").read_text().replace("exploration_steps: 3", "exploration_steps: 4")
    (again / ".hydra" / "config.yaml").write_text(text)
    first = run["hydra"] / ".hydra" / "config.yaml"
    os.utime(first, (first.stat().st_mtime - 3600,) * 2)
    for place in (run["home"], run["home"] / "outputs", run["checkpoints"]):
        assert locate(place).setting("cinema.exploration_steps") == 4


def test_starts_that_left_nothing_are_not_runs_to_choose_from(started):
    run = started("dps")
    empty = run["hydra"].with_name("09-00-00") / ".hydra"
    empty.mkdir(parents=True)
    (empty / "config.yaml").write_text("trainer: {default_local_dir: /gone/elsewhere}")
    assert found(run["home"] / "outputs")[2] == "dps"
