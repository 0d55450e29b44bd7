"""An evaluation for people: beside the paper, and nothing of what a data set says is markup."""

import json

import pytest

from cinema_verl.evaluate.command import main
from cinema_verl.evaluate.files import dump_of, evaluate_dump
from cinema_verl.evaluate.paper import COLUMNS, ROWS, column_of
from cinema_verl.evaluate.summary import summarise
from cinema_verl.evaluate.tables import Table, beside_the_paper, estimate, tables, to_markdown, warnings_of
from cinema_verl.runs.rollouts import rollout_of

from ..conftest import DESKTOP, PHONE
from .conftest import rollout

NASTY = "<script>alert(1)</script>|<img src=x onerror=alert(2)>"


def summary_of(*records):
    return summarise([rollout_of(record) for record in records])


def test_ours_stands_under_the_papers_row():
    found = summary_of(rollout("a", data_source="muirbench/order"), rollout("b", data_source="mv_math"), rollout("c"))
    table = beside_the_paper([("mine", found)])
    assert table.header == ("policy", "MUIR", "MV-Math", "digits")
    assert ("CINEMA (DPS + annealing) (paper)", "71.0", "35.0", "–") in table.rows
    assert table.rows[-1][0] == "mine"
    assert table.rows[-1][1].startswith("100.0 [")
    assert "notes of arXiv 2601.07298" in table.note


def test_without_a_benchmark_of_the_paper_its_rows_are_left_out():
    table = beside_the_paper([("mine", summary_of(rollout("a"))), ("other", summary_of(rollout("b")))])
    assert [row[0] for row in table.rows] == ["mine", "other"]


SPELLINGS = {
    **{"muirbench": "MUIR", "MUIRBench": "MUIR", "mmiu": "MMIU", "mv_math": "MV-Math", "emma": "EMMA", "mirb": "MIRB"},
    **{"mvbench": "MVBench", "video_mme": "VideoMME", "videommmu": "VideoMMMU", "digits": None, "mathvista": None},
}


@pytest.mark.parametrize(("source", "column"), SPELLINGS.items())
def test_sources_find_the_papers_columns(source, column):
    assert column_of(source) == column
    assert all(len(row) == len(COLUMNS) for row in ROWS.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"mean": 0.641, "low": 0.61, "high": 0.671}, "64.1 [61.0, 67.1]"),
        ({"mean": 0.5, "low": None, "high": None}, "50.0"),
        ({"mean": None, "low": None, "high": None}, "–"),
        (None, "–"),
    ],
)
def test_an_estimate_as_text(value, text):
    assert estimate(value) == text


def test_an_estimate_can_be_drawn():
    table = Table("T", ("task", "right", "drop"), (("a", "64.1 [61.0, 67.1]", "-3.0 [-9.0, 2.0]"), ("b", "50.0", "–")))
    assert table.bar(1, "64.1 [61.0, 67.1]") == {"mean": 64.1, "low": 61.0, "high": 67.1, "zero": 0.0}
    # A column that has a negative end is drawn from -100 to 100, zero in the middle.
    assert table.bar(2, "-3.0 [-9.0, 2.0]") == {"mean": 48.5, "low": 45.5, "high": 51.0, "zero": 50.0}
    assert table.bar(2, "40.0 [30.0, 50.0]") == {"mean": 70.0, "low": 65.0, "high": 75.0, "zero": 50.0}
    assert table.bar(1, "50.0") is table.bar(1, "x [1, 2]") is None


def test_a_table_escapes_what_data_sets_say():
    text = Table("T", ("task", "n"), ((NASTY, "1"), ("[a](javascript:x)", "2"))).to_markdown()
    assert "<" not in text
    assert "&lt;script>alert(1)&lt;/script>&#124;" in text
    assert "](" not in text
    assert text.splitlines()[3] == "| --- | ---: |"


def test_warnings_come_first():
    records = [rollout(f"q{n}") for n in range(30)]
    records += [rollout(f"q{n}", data_source="digits/sum@blank") for n in range(30)]
    records += [rollout("lost", acc=0.0, stop_reason="failed")]
    found = summary_of(*records)
    failed, blind = warnings_of(found)
    assert failed == "1 rollout failed and counts as incorrect."
    assert blind.startswith("digits: accuracy over blank images is not clearly below")
    assert to_markdown(found).index("> **digits: accuracy") < to_markdown(found).index("## By benchmark")


def test_direct_prompts_say_that_their_format_means_nothing():
    found = summarise([rollout_of(rollout("a"))], {"prompt_mode": "direct"})
    assert any("read accuracy only" in table.note for table in tables(found))


# --- files and command -----------------------------------------------------------------------------------------


def test_the_three_files_lie_beside_the_dump_and_say_the_same(dump, tmp_path):
    path = dump([rollout("a"), rollout("b", acc=0.0)])
    summary = evaluate_dump(path, {"model": "/models/mine", "prompt_mode": None})
    assert json.loads(path.with_suffix(".evaluation.json").read_text()) == summary
    assert "| /models/mine | 50.0 [" in path.with_suffix(".evaluation.md").read_text()
    assert "50.0 [" in path.with_suffix(".evaluation.html").read_text()
    assert len(list(path.parent.iterdir())) == 4


def test_evaluating_again_keeps_what_the_run_was(dump):
    path = dump([rollout("a")])
    first = evaluate_dump(path, {"model": "/models/mine"})
    assert evaluate_dump(path) == first


def test_the_latest_dump_of_a_folder_is_meant(dump, tmp_path):
    dump([rollout("a")], "9.jsonl")
    latest = dump([rollout("a")], "84.jsonl")
    dump([rollout("a")], "notes.jsonl")
    assert dump_of(latest.parent) == dump_of(tmp_path) == dump_of(latest) == latest


def test_a_folder_without_dumps_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path} is no validation dump and holds none" in capsys.readouterr().err
    assert main([str(tmp_path / "gone")]) == 1
    assert f"{tmp_path}/gone does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xe9\xba\n", "7.jsonl, line 1: not a validation record"),
        (json.dumps(rollout("a")).encode() + b'\n{"outp', "7.jsonl, line 2: not a validation record"),
        (b"[1]\n", "7.jsonl, line 1: not a validation record"),
        (b"", "7.jsonl is empty"),
    ],
    ids=["binary", "cut", "list", "empty"],
)
def test_what_is_no_dump_is_named_and_nothing_is_written(dump, capsys, content, told):
    path = dump([])
    path.write_bytes(content)
    assert main([str(path)]) == 1
    assert told in capsys.readouterr().err
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", ["{}", "[]", '{"settings"'])
def test_a_broken_evaluation_beside_a_dump_is_named(dump, capsys, content):
    path = dump([rollout("a")])
    path.with_suffix(".evaluation.json").write_text(content)
    assert main([str(path)]) == 1
    assert "7.evaluation.json is no evaluation" in capsys.readouterr().err


def test_the_command_prints_and_writes(dump, capsys):
    path = dump([rollout("a"), rollout("b", acc=0.0)])
    assert main([str(path)]) == 0
    printed = capsys.readouterr()
    assert "## By benchmark" in printed.out
    assert str(path.with_suffix(".evaluation.json")) in printed.err
    assert path.with_suffix(".evaluation.html").exists()


def test_several_runs_side_by_side_are_paired_by_question(dump, capsys):
    first = dump([rollout(f"q{n}", acc=float(n % 2)) for n in range(20)], "1.jsonl")
    second = dump([rollout(f"q{n}") for n in range(10, 30)], "2.jsonl")
    assert main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert f"## Accuracy minus that of {first}" in printed
    assert f"| {second} | digits | 10 | 50.0 [" in printed  # the ten questions of both: 0.5 before, 1 after


# --- the page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_stays_text_and_fits(dump, open_page, viewport):
    records = [
        rollout(f"q{n}", acc=float(n % 3 > 0), num_images=1 + n % 4, data_source="muirbench/order") for n in range(40)
    ]
    records += [rollout(f"q{n}", acc=0.0, data_source="muirbench/order@blank") for n in range(40)]
    records += [rollout(f"n{n}", data_source=f"muirbench/{NASTY}", pattern=NASTY, ability=NASTY) for n in range(3)]
    path = dump(records)
    evaluate_dump(path, {"model": NASTY, "files": [NASTY]})
    with open_page(path.with_suffix(".evaluation.html"), viewport=viewport) as page:
        assert page.locator("script, img").count() == 0
        assert NASTY in page.locator("body").inner_text()
        assert page.locator("h2").first.inner_text() == "Accuracy beside the paper"
        assert page.locator("tr", has_text="(paper)").count() == len(ROWS)
        assert page.locator(".bar").count() > 10
        outside = page.evaluate("""[...document.querySelectorAll('.bar > *')].filter((mark) => {
            const [a, b] = [mark.getBoundingClientRect(), mark.parentElement.getBoundingClientRect()];
            return a.left < b.left - 2 || a.right > b.right + 2 || a.width < 1;
        }).length""")
        assert outside == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        if viewport is PHONE:  # a name stays beside its figures
            wide = page.locator(".scroll", has=page.locator("th", has_text="abstained")).first
            wide.evaluate("(one) => { one.scrollLeft = 200 }")
            name, figures = wide.locator("tbody tr").first.locator("th, td").all()[:2]
            assert name.bounding_box()["x"] >= 0 > figures.bounding_box()["x"]
        page.set_viewport_size({"width": 718, "height": 1000})
        page.emulate_media(media="print")  # A4 less its margins, which does not scroll
        wide = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
        assert page.evaluate(wide) == 0
        page.emulate_media(media="screen")
        page.locator("summary").focus()
        page.keyboard.press("Enter")
        assert page.locator("dl").is_visible()
        assert page.problems == []
