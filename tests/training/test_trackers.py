"""What trackers show of a validation: read back from what TensorBoard and Weights & Biases really wrote."""

import json
import re
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from verl.utils.tracking import Tracking, ValidationGenerationsLogger

from cinema_verl.training.trackers import COLUMNS, MOST_ROLLOUTS, contact_sheet, log_groups, markdown, shown_groups

GOOD = "<focus>one is red</focus><think>so</think><answer>A</answer>"
HOSTILE = "![x](http://127.0.0.1/leak) <script>alert(1)</script>\n\n# head\x0b[link](http://127.0.0.1)\u2028| a | b |"


def row(uid, source="digits/same", images=(), question="Which is red?"):
    return {
        "data_source": source,
        "images": [{"image": str(path)} for path in images],
        "reward_model": {"ground_truth": "A"},
        "extra_info": {"uid": uid, "question": question},
    }


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for name, colour, size in (("red", "red", (40, 20)), ("blue", "blue", (300, 500))):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", size, colour).save(paths[-1])
    return paths


def groups_of(names, rows, count=10, outputs=None, sources=None):
    """One rollout for each of `names`."""
    n = len(names)
    outputs = outputs or [GOOD] * n
    samples = {"inputs": [f"prompt of {name}" for name in names], "outputs": outputs, "scores": [1.0] * n}
    infos = {
        "question_uid": names,
        "acc": [1.0] * n,
        "format": [None] * n,
        "pattern": ["focus>think>answer"] * n,
        "verdict": ["correct"] * n,
    }
    uids = [f"random-{i}" for i in range(n)]
    return shown_groups(sources or ["digits/same"] * n, uids, samples, infos, rows, count)


def test_rollouts_of_a_question_stand_together_with_its_own_images():
    rows = [row("q1", images=["a.png", "b.png"]), row("q1", "digits/same@blank", ["grey.png"]), row("q2")]
    groups = {group.uid: group for group in groups_of(["q1", "q2", "q1"], rows, outputs=["x", "y", "z"])}
    assert [each["output"] for each in groups["q1"].rollouts] == ["x", "z"]
    assert groups["q1"].images == ("a.png", "b.png")
    assert (groups["q1"].question, groups["q1"].gold, groups["q2"].images) == ("Which is red?", "A", ())


def test_the_same_questions_are_shown_at_every_validation_in_any_order():
    names = [f"q{i}" for i in range(50)]
    first = [group.uid for group in groups_of(names, [], count=5)]
    assert first == [group.uid for group in groups_of(names[::-1], [], count=5)]
    assert len(first) == 5
    assert first != names[:5]


def test_a_group_has_an_end_and_a_question_that_no_row_has_is_shown_by_its_prompt():
    (group,) = groups_of(["q"] * (MOST_ROLLOUTS + 4), [])
    assert len(group.rollouts) == MOST_ROLLOUTS
    assert (group.question, group.images, group.gold) == ("prompt of q", (), "")


def test_a_sheet_shows_each_picture_in_its_place(pictures):
    sheet = contact_sheet([str(pictures[n]) for n in (0, 1, 0, 0, 0, 0, 0, 0, 1)])
    assert sheet.size == (8 * 160, 2 * 174)
    for place, colour in (((80, 40), (255, 0, 0)), ((240, 94), (0, 0, 255)), ((80, 268), (0, 0, 255))):
        assert sheet.getpixel(place) == colour
    assert contact_sheet([]) is None


def test_a_picture_that_is_gone_is_warned_of_and_leaves_its_place(pictures, tmp_path, caplog):
    sheet = contact_sheet([str(tmp_path / "gone.png"), str(pictures[1])])
    assert "gone.png" in caplog.text
    assert sheet.getpixel((80, 94)) == (255, 255, 255)
    assert sheet.getpixel((240, 94)) == (0, 0, 255)


@pytest.mark.parametrize("hostile", [HOSTILE, "", "`" * 40, "    ", "</code></pre><b>", HOSTILE.replace("\n", "\r")])
def test_what_a_model_wrote_is_text_in_tensorboard(hostile):
    (group,) = groups_of(["q"], [row("q", question=hostile)], outputs=[hostile])
    html = str(markdown_to_safe_html(markdown(group)))
    assert not re.search(r"<(a|img|h\d|script|b)\b", html)
    assert html.count("<table>") == 1
    tables_and_text = re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    assert "leak" not in tables_and_text
    assert "alert" not in tables_and_text


def test_reasoning_that_was_stripped_is_shown_and_is_no_action():
    own = "<think>hm</think>"
    (group,) = groups_of(["q1"], [row("q1")], outputs=[own + GOOD])
    stripped = replace(group, rollouts=tuple({**each, "stripped": own} for each in group.rollouts))
    assert "| 1 | think>focus>think>answer |" in markdown(group)
    assert "| 1 | focus>think>answer |" in markdown(stripped)
    assert own in markdown(stripped)


def test_tensorboard_has_groups_and_images_at_every_step(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "events"))
    tracking = Tracking("p", "e", "tensorboard")
    verls = ValidationGenerationsLogger("p", "e")
    rows = [row("q1", images=pictures), row("q2")]
    for step in (0, 25):
        log_groups(groups_of(["q1", "q2", "q1"], rows), tracking, verls, step)
        tracking.log({"cinema/stage": 1.0, "cinema/pattern/focus-think-answer": 0.5}, step)
    tracking.finish()
    read = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    read.Reload()
    tags = read.Tags()
    assert set(tags["scalars"]) == {"cinema/stage", "cinema/pattern/focus-think-answer"}
    assert set(tags["tensors"]) == {f"val/generations/{n}/text_summary" for n in (1, 2)}
    (image,) = tags["images"]
    assert [(each.step, each.width, each.height) for each in read.Images(image)] == [(0, 320, 174), (25, 320, 174)]
    shown = [each for n in (1, 2) for each in read.Tensors(f"val/generations/{n}/text_summary")]
    texts = [each.tensor_proto.string_val[0].decode() for each in shown]
    assert len(texts) == 4
    assert all("| 1 | focus>think>answer | 1 |  | 1 |" in text and f"    {GOOD}" in text for text in texts)
    assert sum("| 2 |" in text for text in texts) == 2


def test_wandb_gets_a_row_for_each_rollout_and_one_image_a_question(pictures):
    logged, tables = [], []

    class Table:
        def __init__(self, columns, **_):
            self.columns, self.rows = columns, []
            tables.append(self)

        def add_data(self, *cells):
            self.rows.append(dict(zip(self.columns, cells, strict=True)))

    stub = SimpleNamespace(
        Table=Table, Image=lambda sheet: sheet.size, log=lambda data, step: logged.append((data, step))
    )
    groups = groups_of(["q1", "q2", "q1"], [row("q1", images=pictures), row("q2")], outputs=[GOOD, "?", HOSTILE])
    log_groups(groups, SimpleNamespace(logger={"wandb": stub}), ValidationGenerationsLogger("p", "e"), 25)
    assert logged == [({"val/generations": tables[0]}, 25)]
    by_question = {name: [each for each in tables[0].rows if each["uid"] == name] for name in ("q1", "q2")}
    assert [each["response"] for each in by_question["q1"]] == [GOOD, HOSTILE]
    assert [each["images"] for each in by_question["q1"]] == [(320, 174)] * 2
    assert (by_question["q1"][0]["answer"], by_question["q1"][0]["gold"], by_question["q1"][1]["answer"]) == (
        "A",
        "A",
        None,
    )
    assert by_question["q2"][0]["images"] is None


def test_other_trackers_get_verl_s_three_columns():
    seen = []
    verls = SimpleNamespace(log=lambda *arguments: seen.append(arguments))
    log_groups(groups_of(["q"], []), SimpleNamespace(logger={"swanlab": None, "console": None}), verls, 3)
    assert seen == [(["swanlab", "console"], [("prompt of q", GOOD, 1.0)], 3)]


@pytest.mark.slow
def test_the_real_wandb_writes_them_without_a_network(pictures, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        folder = tmp_path / name.partition("_")[0].lower()
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv(f"WANDB_{name}", str(folder))
    tracking = Tracking("p", "e", "wandb")
    rows = [row("q1", images=pictures), row("q2")]
    for step in (0, 25):
        log_groups(groups_of(["q2", "q1", "q1"], rows), tracking, ValidationGenerationsLogger("p", "e"), step)
        tracking.log({"cinema/stage": 1.0}, step)
    tracking.finish()
    # The table of the run's own folder has no images; the artifact that `wandb sync` sends has.
    kept = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    pictures_kept = [Image.open(BytesIO(data)) for data in kept if data.startswith(b"\x89PNG")]
    assert pictures_kept
    assert all(picture.getpixel((80, 40)) == (255, 0, 0) for picture in pictures_kept)
    tables = [table for table in (json.loads(data) for data in kept if data.startswith(b"{")) if "columns" in table]
    assert {line[0] for table in tables for line in table["data"]} == {0, 25}
    for table in tables:
        assert table["columns"] == list(COLUMNS)
        images = {
            (line[COLUMNS.index("uid")], (line[COLUMNS.index("images")] or {}).get("width")) for line in table["data"]
        }
        assert images == {("q1", 320), ("q2", None)}
        assert len(table["data"]) == 3
