"""What the command finds, what it says of what is missing, and when it gives up."""

import json
import shutil

import pytest

from cinema_verl.cli import main as cli


@pytest.fixture
def run_dir(tmp_path, make_run):
    return make_run(tmp_path / "run")


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def test_a_whole_run_needs_no_excuse(run_dir, capsys):
    assert cli(["report", str(run_dir)]) == 0
    seen = capsys.readouterr()
    assert seen.err == ""
    assert str(run_dir / "report.html") in seen.out
    (one,) = data_of(run_dir / "report.html")["runs"]
    assert one["stages"] == [{"stage": 1, "from": 1, "to": 3}, {"stage": 2, "from": 4, "to": 6}]
    assert one["total"] == {"groups": 12, "rollouts": 48}
    assert len(one["groups"]) == 12
    assert len(one["questions"]) == 2, "questions are shared between groups"
    assert "What is missing" not in (run_dir / "report.html").read_text(encoding="utf-8")


def test_hydras_folder_is_the_run_too(run_dir, report):
    assert report(run_dir / "hydra", "--output", run_dir / "r.html", "--rollouts", run_dir / "rollouts") == 0
    (one,) = data_of(run_dir / "r.html")["runs"]
    assert one["steps"] == [1, 2, 3, 4, 5, 6]
    assert one["total"]["rollouts"] == 48


def test_several_runs_below_a_folder_are_listed_and_nothing_is_written(tmp_path, make_run, report, capsys):
    make_run(tmp_path / "dps")
    make_run(tmp_path / "dapo")
    assert report(tmp_path) == 1
    seen = capsys.readouterr()
    assert seen.err.splitlines()[1:] == [f"  {tmp_path / 'dapo'}", f"  {tmp_path / 'dps'}"]
    assert not (tmp_path / "report.html").exists()


def test_the_rollouts_of_a_run_are_the_run_too(run_dir, report, capsys):
    assert report(run_dir / "rollouts") == 0
    assert capsys.readouterr().err == ""
    (one,) = data_of(run_dir / "rollouts" / "report.html")["runs"]
    assert (one["name"], len(one["steps"]), one["total"]["rollouts"]) == ("run/rollouts", 6, 48)


def test_metrics_of_an_earlier_version_are_in_their_panel(run_dir, report, capsys):
    text = (run_dir / "metrics.jsonl").read_text().replace("solve_all", "all_right").replace("solve_none", "all_wrong")
    (run_dir / "metrics.jsonl").write_text(text)
    assert report(run_dir) == 0
    assert capsys.readouterr().err == ""
    (one,) = data_of(run_dir / "report.html")["runs"]
    assert one["series"]["cinema/dynamic_sampling/solve_all"] == [0.4] * 6
    assert one["series"]["cinema/dynamic_sampling/solve_none"] == [0.1] * 6


def test_the_configuration_says_where_the_parts_are(run_dir, tmp_path, report):
    shutil.move(run_dir / "rollouts", tmp_path / "elsewhere")
    shutil.move(run_dir / "metrics.jsonl", run_dir / "hydra" / "metrics.jsonl")
    config = run_dir / "hydra" / ".hydra" / "config.yaml"
    text = config.read_text().replace("trainer:", "trainer:\n  rollout_data_dir: ${trainer.base}/elsewhere")
    config.write_text(text.replace("experiment_name", f"base: {tmp_path}\n  experiment_name"))
    assert report(run_dir / "hydra", "--output", tmp_path / "r.html") == 0
    (one,) = data_of(tmp_path / "r.html")["runs"]
    assert one["total"]["rollouts"] == 48


def test_an_empty_directory_is_told_what_was_looked_for(tmp_path, report, capsys):
    assert report(tmp_path) == 1
    error = capsys.readouterr().err
    for name in ("metrics.jsonl", "rollouts", "validation", "--metrics"):
        assert name in error
    assert not (tmp_path / "report.html").exists()


def test_no_directory(tmp_path, report, capsys):
    assert report(tmp_path / "nowhere") == 1
    assert "does not exist: give a folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "b", "c"], ["a", "b", "--metrics", "m"], ["a", "--max-mb", "0"], ["a", "--unknown"]],
)
def test_a_command_line_that_is_not_understood(arguments, report):
    with pytest.raises(SystemExit) as stopped:
        report(*arguments)
    assert stopped.value.code == 2


def test_half_written_lines_are_said_and_the_rest_shown(run_dir, report, capsys):
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "data": {"cinema/a')
    last = run_dir / "rollouts" / "6.jsonl"
    last.write_bytes(last.read_bytes()[:-40])
    assert report(run_dir) == 0
    error = capsys.readouterr().err
    assert "line 7 not read" in error
    assert "6.jsonl (1)" in error
    (one,) = data_of(run_dir / "report.html")["runs"]
    assert one["steps"] == [1, 2, 3, 4, 5, 6]
    assert one["total"]["rollouts"] == 47
    assert error.count("\n") == 2
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "line 7 not read" in page


def test_rollouts_that_an_earlier_run_left_are_said_and_not_mixed_in(run_dir, report, capsys):
    """Six steps, then resumed from step 2 and now in step 4: its rollouts are there, its metrics not yet."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:3]))
    assert report(run_dir) == 0
    assert "Rollouts of 2 steps, 5 to 6, left out: the metrics end at step 3" in capsys.readouterr().err
    (one,) = data_of(run_dir / "report.html")["runs"]
    assert one["mix"]["to"] == [1, 2, 3, 4]
    assert {group["step"] for group in one["groups"]} == {1, 2, 3, 4}


def test_nan_and_infinity_are_gaps(run_dir, report, capsys):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    lines[1]["data"]["actor/entropy"] = float("nan")
    lines[2]["data"]["critic/rewards/mean"] = float("-inf")
    lines[3]["data"]["cinema/acc"] = None  # what orjson makes of NaN
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report(run_dir) == 0
    assert "actor/entropy, cinema/acc, critic/rewards/mean" in capsys.readouterr().err
    series = data_of(run_dir / "report.html")["runs"][0]["series"]
    assert series["actor/entropy"][1] is None
    assert series["critic/rewards/mean"][2] is None
    assert series["cinema/acc"][3] is None


def test_plain_verl_without_our_metrics(run_dir, report, capsys):
    """Text and score, and verl's own metrics: patterns come from the one parser, accuracy is not known."""
    for path in (run_dir / "rollouts").iterdir():
        kept = [json.loads(line) for line in path.read_text().splitlines()]
        plain = ("input", "output", "gts", "score", "step", "uid")
        path.write_text("".join(json.dumps({name: one[name] for name in plain}) + "\n" for one in kept))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["data"] = {name: value for name, value in line["data"].items() if not name.startswith(("cinema/", "val"))}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(run_dir / "hydra")

    assert report(run_dir) == 0
    error = capsys.readouterr().err
    assert "counted from the rollouts: cinema/pattern_entropy, cinema/unique_patterns" in error
    assert "No metric for: Accuracy in training" in error
    assert "do not name their questions" in error
    (one,) = data_of(run_dir / "report.html")["runs"]
    assert "focus>answer" in one["mix"]["patterns"]
    assert "unclosed_tag" in one["mix"]["violations"]
    assert one["series"]["cinema/unique_patterns"] == [3, 3, 3, 3, 3, 3]
    assert {correct for group in one["groups"] for _, correct in group["rollouts"]} == {2}


def test_only_validations(run_dir, report, capsys):
    shutil.move(run_dir / "rollouts", run_dir / "validation")
    assert report(run_dir) == 0
    assert "those of the validations" in capsys.readouterr().err
    assert data_of(run_dir / "report.html")["runs"][0]["validation"] is True


def test_no_metrics_at_all(run_dir, report, capsys):
    (run_dir / "metrics.jsonl").unlink()
    assert report(run_dir) == 0
    assert "No metrics file" in capsys.readouterr().err
    (one,) = data_of(run_dir / "report.html")["runs"]
    assert one["series"]["cinema/acc"] == [0.5] * 6
    assert [stage["stage"] for stage in one["stages"]] == [1, 2], "from the configuration"


def test_only_metrics(run_dir, report, capsys):
    shutil.rmtree(run_dir / "rollouts")
    assert report(run_dir) == 0
    assert "No rollouts" in capsys.readouterr().err


def test_missing_images_and_data(run_dir, report, capsys):
    (run_dir / "data" / "images" / "0-1.png").unlink()
    (run_dir / "data" / "images" / "1-0.png").write_bytes(b"no picture")
    assert report(run_dir) == 0
    assert "2 pictures cannot be read" in capsys.readouterr().err
    images = [question["images"] for question in data_of(run_dir / "report.html")["runs"][0]["questions"]]
    assert sorted(images) == [[-1, 0], [1, -1]] or sorted(images) == [[-1, 1], [0, -1]]

    (run_dir / "data" / "train.parquet").unlink()
    assert report(run_dir) == 0
    error = capsys.readouterr().err
    assert "train.parquet is not there" in error
    assert "2 of 2 questions are not in the data files" in error


def test_a_data_file_that_is_no_parquet(run_dir, report, capsys):
    (run_dir / "data" / "train.parquet").write_text("no parquet")
    assert report(run_dir) == 0
    assert "cannot be read as questions" in capsys.readouterr().err


def test_a_broken_configuration(run_dir, report, capsys):
    (run_dir / "hydra" / ".hydra" / "config.yaml").write_text("a: [")
    assert report(run_dir) == 0
    assert "settings are not known" in capsys.readouterr().err


@pytest.mark.parametrize("megabytes", [0.2, 0.4])
def test_the_page_keeps_to_its_size_and_says_what_it_left_out(tmp_path, make_run, report, megabytes):
    import random

    noise = random.Random(1)
    texts = tuple(f"<think>{noise.randbytes(2000).hex()}</think><answer>{letter}</answer>" for letter in "AB" * 4)
    run = make_run(tmp_path / "run", steps=30, texts=texts)
    assert report(run, "--max-mb", megabytes) == 0
    assert (run / "report.html").stat().st_size <= megabytes * 1e6
    (one,) = data_of(run / "report.html")["runs"]
    assert 0 < len(one["groups"]) < one["total"]["groups"] == 60
    assert one["total"]["rollouts"] == 480
    assert sum(sum(point[5::6]) for point in one["mix"]["cells"]) == 480, "all are counted, whatever is shown"
    steps = [group["step"] for group in one["groups"]]
    assert steps[0] == 1
    assert steps[-1] == 30


def test_the_same_run_gives_the_same_bytes(run_dir, report):
    assert report(run_dir) == 0
    first = (run_dir / "report.html").read_bytes()
    assert report(run_dir) == 0
    assert (run_dir / "report.html").read_bytes() == first


def test_an_output_that_cannot_be_written(run_dir, tmp_path, report, capsys):
    (tmp_path / "file").write_text("")
    assert report(run_dir, "--output", tmp_path / "file" / "report.html") == 1
    assert "Nothing was written" in capsys.readouterr().err
