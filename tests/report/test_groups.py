"""Which groups a page shows, how much room they take, and what is said of one rollout."""

import base64
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.diversity import group_rewards
from cinema_verl.report.groups import MAX_IMAGES, MAX_TEXT, Pictures, choose, places
from cinema_verl.report.summarise import RolloutCounts, count
from cinema_verl.runs.rollouts import read_leniently, step_files
from cinema_verl.utils.pages import json_for_script

ROOM = 1_000_000


def load(run_dir):
    """Places by step, and everything counted."""
    found = [(step, path, read_leniently(path)[0]) for step, path in step_files(run_dir / "rollouts")]
    mix = RolloutCounts.of({step: count(rollouts) for step, _, rollouts in found})
    return [places(step, path, rollouts) for step, path, rollouts in found], mix


def show(run_dir, budget=ROOM, mode="exact", coefficients=None, pictures=None):
    by_step, mix = load(run_dir)
    data = [run_dir / "data" / "train.parquet"]
    return choose(by_step, data, mix, mode, coefficients or {}, pictures or Pictures(), budget)


def unpack(group):
    return json.loads(gzip.decompress(base64.b64decode(group["packed"])))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, make_run):
    return make_run(tmp_path_factory.mktemp("groups") / "run")


def test_a_group_of_the_page(run_dir):
    shown = show(run_dir)
    assert [group["step"] for group in shown.groups] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    group = next(group for group in shown.groups if group["step"] == 6 and group["question"] == 0)
    _, mix = load(run_dir)
    assert [(mix.patterns.words[pattern], correct) for pattern, correct in group["rollouts"]] == [
        ("focus>answer", 1), ("global>think>answer", 1), ("focus>answer", 0), ("answer", 0),
    ]  # fmt: skip
    assert mix.types.words[group["type"]] == "mcq"
    question = shown.questions[group["question"]]
    assert (question["gold"], question["options"], question["names"]) == (
        "B", ("first", "second"), ("Image 1", "Image 2"),
    )  # fmt: skip
    assert shown.notes == []


def test_a_rollout_by_hand(run_dir):
    """Rollouts 1 and 3 share a pattern; 1 is correct: it pays 0.05 * 0.5 * 1 * (2 - 1) / (4 - 1). 3 is not: nothing."""
    first, second, third, broken = unpack(show(run_dir).groups[-1])
    assert (first["alike"], first["size"], first["coefficient"]) == (2, 4, 0.05)
    assert first["penalty"] == pytest.approx(0.05 * 0.5 / 3)
    assert second["penalty"] == third["penalty"] == 0
    assert first["actions"] == [["focus", "the second one is red"], ["answer", "B"]]
    assert "raw" not in first
    assert broken["violations"] == ["unclosed_tag", "no_action", "starts_with_answer"]
    assert broken["raw"] == "<think>no closing tag<answer>A</answer>"


@given(data=st.data())
def test_what_is_shown_as_the_reward_is_the_papers(data, tmp_path_factory):
    """Score minus penalty equals `group_rewards`, where no overlong shaping is in the score."""
    size = data.draw(st.integers(1, 6))
    rows = data.draw(
        st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0]), st.sampled_from(["a", "b>a", ""])),
                 min_size=size, max_size=size)
    )  # fmt: skip
    coefficient = data.draw(st.floats(0, 1))
    path = tmp_path_factory.mktemp("rewards") / "1.jsonl"
    path.write_text("".join(
        json.dumps({"output": "x", "acc": acc, "format": fmt, "score": 0.5 * acc + 0.5 * fmt, "pattern": pattern,
                    "uid": f"g_{i}_0", "question_uid": ""}) + "\n"
        for i, (acc, fmt, pattern) in enumerate(rows)
    ))  # fmt: skip
    rollouts, _ = read_leniently(path)
    shown = choose(
        [places(1, path, rollouts)],
        [],
        RolloutCounts.of({1: count(rollouts)}),
        "exact",
        {1: coefficient},
        Pictures(),
        ROOM,
    )
    acc, fmt, patterns = zip(*rows, strict=True)
    assert [one["score"] - one["penalty"] for one in unpack(shown.groups[0])] == pytest.approx(
        group_rewards(acc, fmt, patterns, [0] * size, coefficient).tolist()
    )


def test_patterns_are_alike_as_the_run_counted_them(tmp_path, make_run):
    texts = ("<focus>a</focus><focus>b</focus><answer>B</answer>", "<focus>c</focus><answer>A</answer>")
    run = make_run(tmp_path / "run", steps=1, texts=texts)
    assert [one["alike"] for one in unpack(show(run).groups[0])] == [1, 1]
    assert [one["alike"] for one in unpack(show(run, mode="collapsed").groups[0])] == [2, 2]


def test_a_group_that_was_asked_over_other_images_says_so(tmp_path, make_run):
    run = make_run(tmp_path / "run", steps=1, sources=("squares@blank", "squares@home"))
    assert [group["condition"] for group in show(run).groups] == ["blank", None]


def test_without_a_coefficient_nothing_is_taken_off(tmp_path, make_run):
    run = make_run(tmp_path / "run", steps=1)
    path = run / "rollouts" / "1.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "diversity_coefficient": None}) + "\n" for line in lines))
    assert all("penalty" not in one for group in show(run).groups for one in unpack(group))
    from_metrics = unpack(show(run, coefficients={1: 0.2}).groups[0])
    assert from_metrics[0]["penalty"] == pytest.approx(0.2 * 0.5 / 3)


def test_reasoning_of_the_model_s_own_is_shown_apart_from_the_actions(tmp_path, make_run):
    own = "Is it <answer>A</answer>?</think>"
    run = make_run(
        tmp_path / "run", steps=1, texts=(f"{own}<focus>red</focus><answer>B</answer>", "<answer>A</answer>")
    )
    path = run / "rollouts" / "1.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    stripped = [{**line, "stripped": own if line["output"].startswith(own) else ""} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in stripped))
    first, second = unpack(show(run).groups[0])
    assert (first["reasoning"], first["actions"]) == (own, [["focus", "red"], ["answer", "B"]])
    assert "reasoning" not in second


def test_long_texts_are_cut_and_say_so(tmp_path, make_run):
    long = "<think>" + "ü" * MAX_TEXT + "</think><answer>B</answer>"
    run = make_run(tmp_path / "run", steps=1, texts=(long, "<answer>A</answer>"))
    first = unpack(show(run).groups[0])[0]
    assert first["cut"] == len(long) - MAX_TEXT
    assert first["pattern"] == "think>answer", "the pattern is that of the whole"


def test_a_question_with_very_many_images(tmp_path, make_run):
    run = make_run(tmp_path / "run", steps=1, images=40, asked="<image>" * 40 + "?")
    question = show(run).questions[0]
    assert len(question["images"]) == len(question["names"]) == MAX_IMAGES
    assert question["more"] == 40 - MAX_IMAGES


@pytest.mark.parametrize("budget", [0, 3000, 8000, 20_000])
def test_what_is_shown_fits_into_the_budget(run_dir, budget):
    pictures = Pictures()
    shown = show(run_dir, budget, pictures=pictures)
    used = (
        len(json_for_script(shown.groups)) + len(json_for_script(shown.questions)) + len(json_for_script(pictures.uris))
    )
    assert used <= budget + 8
    assert bool(shown.groups) == (budget >= 3000)
    used_images = {place for question in shown.questions for place in question["images"]}
    assert used_images == set(range(len(pictures.uris))), "no picture of a group that was left out"


def test_text_that_grows_when_it_is_escaped_is_counted_as_it_will_be(tmp_path, make_run):
    run = make_run(tmp_path / "run", steps=4, asked="<image><image>" + "<" * 4000)
    shown = show(run, 60_000)
    assert len(json_for_script(shown.questions)) <= 60_000
    assert len(shown.questions) == 2


def test_a_rollout_file_that_vanishes_is_an_error(tmp_path, make_run):
    run = make_run(tmp_path / "run", steps=1)
    by_step, mix = load(run)
    (run / "rollouts" / "1.jsonl").unlink()
    with pytest.raises(OSError):
        choose(by_step, [], mix, "exact", {}, Pictures(), ROOM)


# ---- pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGB", (20, 20), (80 * i, 0, 0)).save(path)
    return paths


def test_a_picture_is_stored_once(files):
    pictures = Pictures()
    assert [pictures.add(str(path)) for path in (files[0], files[1], files[0])] == [0, 1, 0]
    assert pictures.size == sum(len(uri) + 3 for uri in pictures.uris)


def test_forgetting_makes_room_and_leaves_the_rest(files):
    pictures = Pictures()
    pictures.add(str(files[0]))
    size = pictures.size
    pictures.add(str(files[1]))
    pictures.forget_from(1)
    assert (pictures.size, len(pictures.uris)) == (size, 1)
    assert pictures.add(str(files[2])) == 1
    assert pictures.add(str(files[0])) == 0


def test_what_is_no_picture_is_looked_at_once_and_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    pictures = Pictures()
    assert pictures.add(str(tmp_path / "bad.png")) == pictures.add(str(tmp_path / "bad.png")) == -1
    assert pictures.add(str(tmp_path / "gone.png")) == -1
    assert set(pictures.failed) == {str(tmp_path / "bad.png"), str(tmp_path / "gone.png")}
