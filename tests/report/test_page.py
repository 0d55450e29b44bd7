"""The page as a whole: what it holds, how large it is, and that nothing in a run can break it."""

import json

import pytest
import yaml
from made_up_run import change_config

from cinema_verl.report.page import MAX_NAMES, build, read_run
from cinema_verl.runs.locate import locate

LIMIT = 2_000_000


@pytest.fixture
def run_dir(tmp_path, make_run):
    return make_run(tmp_path / "run")


def page_of(*run_dirs, limit=LIMIT):
    """The page, its data, and the notes."""
    text, notes = build([read_run(locate(run_dir)) for run_dir in run_dirs], limit)
    data = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return text, json.loads(data), notes


def rewrite(path, change):
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_one_file_that_asks_for_nothing(run_dir):
    text, _, _ = page_of(run_dir)
    assert "default-src 'none'" in text
    for loader in ("src=", "href=", "@import", "url("):
        after = [part[:12] for part in text.split('id="data">')[0].split(loader)[1:]]
        assert all(part.lstrip("\"'").startswith("#") for part in after), (loader, after)


def test_what_was_run(run_dir):
    text, _, _ = page_of(run_dir)
    for fact in ("6 of 6", "/models/made-up", "coefficient 0.1 linear to 0, groups filtered by acc", "2 (median)"):
        assert fact in text


def test_reasoning_of_the_model_s_own_is_counted_where_it_is_declared(run_dir):
    assert "Reasoning of its own" not in page_of(run_dir)[0].split('id="data">')[0]
    change_config(run_dir, reward={"custom_reward_function": {"reward_kwargs": {"native_reasoning": "strip"}}})
    shares = {1: 0.5, 2: 0.25}
    rewrite(run_dir / "metrics.jsonl", lambda line: with_metric(line, "cinema/native_reasoning", shares))
    assert "strip, in 37.5% of rollouts" in page_of(run_dir)[0]


def with_metric(line, name, values):
    """A step's line with a metric, where `values` has it for that step."""
    more = {name: values[line["step"]]} if line["step"] in values else {}
    return {**line, "data": {**line["data"], **more}}


def test_a_run_that_is_not_at_its_end(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:4]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines))
    assert "4 of 6 (going on, stopped or crashed)" in page_of(run_dir)[0]


def test_metrics_that_few_steps_logged_are_stored_sparsely(run_dir):
    rewrite(
        run_dir / "metrics.jsonl",
        lambda line: line | {"data": line["data"] | ({"rare": 7} if line["step"] == 2 else {})},
    )
    series = page_of(run_dir)[1]["runs"][0]["series"]
    assert series["rare"] == [[1], [7.0]]
    assert series["cinema/acc"] == [0.5] * 6


def test_very_many_metrics_keep_those_of_the_panels(run_dir):
    rewrite(
        run_dir / "metrics.jsonl",
        lambda line: line | {"data": line["data"] | {f"a{i}": 1 for i in range(MAX_NAMES)}},
    )
    _, data, notes = page_of(run_dir)
    series = data["runs"][0]["series"]
    assert len(series) == MAX_NAMES
    assert {"cinema/acc", "actor/entropy", "cinema/dynamic_sampling/mixed"} <= series.keys()
    assert any("metrics are left out" in note for note in notes)


def test_very_many_steps_are_thinned_and_say_so(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "data": {"cinema/acc": step % 2}}) + "\n" for step in range(1, 1001))
    )
    _, data, notes = page_of(tmp_path)
    assert len(data["runs"][0]["steps"]) == 500
    assert data["runs"][0]["series"]["cinema/acc"] == [0.5] * 500
    assert "Curves show means over 2 neighbouring steps: the run has 1000." in notes[-1]


@pytest.mark.parametrize(
    ("key", "value"),
    [("pattern_mode", "no such"), ("pattern_mode", ["exact"]), ("coefficient", "x"), ("exploration_steps", "x"),
     ("exploration_steps", None), ("annealing_steps", [1])],
)  # fmt: skip
def test_settings_of_another_version_break_nothing(run_dir, key, value):
    path = run_dir / "hydra" / ".hydra" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["cinema"][key] = value
    path.write_text(yaml.safe_dump(config))
    _, data, notes = page_of(run_dir)
    assert data["runs"][0]["total"]["rollouts"] == 48
    assert len(notes) == (key == "pattern_mode"), "said where something is left out for it"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"enable": True, "metric": "acc"}, "groups filtered by acc"),
        ({"enable": False}, "every group"),
        (None, "every group"),
    ],
)
def test_a_run_from_before_the_stages_filtered_in_all_steps_or_in_none(run_dir, section, said):
    path = run_dir / "hydra" / ".hydra" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["algorithm"] = {"filter_groups": section} if section else {}
    path.write_text(yaml.safe_dump(config))
    html, _, _ = page_of(run_dir)
    assert html.count(said) == 2
    assert "groups filtered" not in html or "every group" not in html


def test_questions_over_other_images_do_not_count_as_accuracy(run_dir):
    """Without a metrics file, accuracy is counted from the rollouts: of the questions as they are."""
    (run_dir / "metrics.jsonl").unlink()
    for path in (run_dir / "rollouts").iterdir():
        rewrite(
            path,
            lambda line: (
                line | ({"data_source": "squares@blank", "acc": 0.0} if line["data_source"] == "circles" else {})
            ),
        )
    _, data, _ = page_of(run_dir)
    assert data["runs"][0]["series"]["cinema/acc"] == [0.5] * 6
    assert data["runs"][0]["mix"]["sources"] == ["squares", "squares@blank"]


def test_lone_surrogates_become_question_marks(run_dir):
    """JSON may hold them, UTF-8 may not: a page with one could not be written."""
    rewrite(run_dir / "rollouts" / "1.jsonl", lambda line: line | {"data_source": "a\ud800b", "output": "\udfff"})
    text, data, _ = page_of(run_dir)
    text.encode()
    assert "a?b" in data["runs"][0]["mix"]["sources"]


def test_two_runs_share_the_room_and_the_pictures(tmp_path, make_run):
    small, large = make_run(tmp_path / "small", steps=2), make_run(tmp_path / "large", steps=40)
    whole = len(page_of(small, large)[0].encode())
    limit = whole - 30_000
    text, data, notes = page_of(small, large, limit=limit)
    assert limit - 20_000 < len(text.encode()) <= limit
    one, other = data["runs"]
    assert len(one["groups"]) == one["total"]["groups"] == 4
    assert 0 < len(other["groups"]) < other["total"]["groups"] == 80
    assert notes == []
    same = page_of(small, small)[1]
    assert len(same["images"]) == len(page_of(small)[1]["images"])


@pytest.mark.parametrize("character", ["<", "ü", "\u2028", "\U0001f600", '"', "\\"])
def test_the_size_holds_whatever_the_text_is(tmp_path, make_run, character):
    run = make_run(tmp_path / "run", steps=8, asked="<image><image>" + character * 3000, sources=tuple("abcdefgh"))
    limit = len(page_of(run)[0].encode()) - 15_000
    text, data, _ = page_of(run, limit=limit)
    assert len(text.encode()) <= limit
    assert data["runs"][0]["groups"]
