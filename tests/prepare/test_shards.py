"""A shard: what became of each of its rows, there whole or not at all."""

import json
from dataclasses import replace

import pytest

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.directory import WORK
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.readers import plan
from cinema_verl.prepare.shards import Job, join, make_shard
from cinema_verl.prepare.sources import adapter


@pytest.fixture
def job(make_source, tmp_path):
    source = make_source(10)
    (tmp_path / "out" / WORK).mkdir(parents=True)
    return Job(adapter("own"), ConvertSettings(media_root=str(source)), source, tmp_path / "out")


def spans(job, rows_per_span=10):
    return plan(job.root, "rows.jsonl", rows_per_span)


def make(job, number=0, rows_per_span=10):
    return make_shard({"number": number, "span": json.dumps(spans(job, rows_per_span)[number])}, job=job)


def with_convert(job, convert):
    return replace(job, adapter=replace(job.adapter, convert=convert))


def raising(number, error, job):
    """The adapter, but for one row."""

    def convert(row):
        if row["id"] == f"{number:05d}":
            raise error
        return job.adapter.convert(row)

    return with_convert(job, convert)


def outcomes(job, number=0):
    return [json.loads(line) for line in job.shard(number).read_text().splitlines()]


def test_each_row_leaves_one_line(job):
    result = make(job)
    assert (result["rows"], result["rejected"], result["error"]) == (10, 2, "")
    kinds = [next(iter(line)) for line in outcomes(job)]
    assert [number for number, kind in enumerate(kinds) if kind == "rejected"] == [3, 7]
    missing, no_json = (outcomes(job)[number]["rejected"] for number in (3, 7))
    assert (missing["uid"], missing["reason"]) == ("own/00003", "path_missing")
    assert missing["detail"].endswith(" (rows.jsonl, line 4)")
    assert (no_json["uid"], no_json["reason"]) == ("own/rows.jsonl, line 8", "bad_record")
    assert not list((job.output / WORK).glob("*.try-*"))


def test_text_that_is_no_unicode_is_a_rejection_that_can_be_read(job):
    def convert(row):
        return replace(job.adapter.convert(row), question="<image><image>half a \ud800 pair")

    make(with_convert(job, convert))
    assert {line["rejected"]["reason"] for line in outcomes(job)} == {"bad_record", "path_missing"}


def test_a_file_that_has_changed_since_it_was_planned_stops_the_run_and_leaves_no_shard(job):
    item = {"number": 0, "span": json.dumps(spans(job)[0])}
    file = job.root / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:300])
    assert make_shard(item, job=job)["error"].startswith(f"{file}: rows 0 to 9 were planned and 3 are there")
    assert list((job.output / WORK).iterdir()) == []


def test_a_defect_of_the_package_names_the_row(job):
    with pytest.raises(RuntimeError, match=r"rows\.jsonl, line 5: ZeroDivisionError"):
        make(raising(4, ZeroDivisionError(), job))
    assert list((job.output / WORK).iterdir()) == []


def test_a_missing_package_is_said_and_stops_the_run(job):
    assert make(raising(0, ImportError("videos need PyAV"), job))["error"] == "videos need PyAV"


def test_long_details_are_cut(job):
    make(raising(0, Rejected("bad_record", "x" * 10_000), job))
    assert outcomes(job)[0]["rejected"]["detail"] == "x" * 500 + " (rows.jsonl, line 1)"


def test_workers_that_died_over_a_shard_are_counted(job):
    path = job.shard(0)
    for number in range(2):
        path.with_suffix(f".try-{number}").write_bytes(b"{}\n{}\n")
    assert make(job)["error"] == ""
    path.unlink()
    path.with_suffix(".try-2").write_bytes(b"{}\n{}\n")
    assert "3 workers died over rows.jsonl, at line 3. " in make(job)["error"]
    path.with_suffix(".try-1").write_bytes(b"")
    assert "at line 1 or line 3. " in make(job)["error"]
    assert not path.exists()


def joined(job, rows_per_span):
    for number in reversed(range(len(spans(job, rows_per_span)))):  # in whatever order
        make(job, number, rows_per_span)
    return join(job, spans(job, rows_per_span), {"command": []})


def test_joining_keeps_the_order_of_the_input_and_adds_up(job):
    manifest = joined(job, 3)
    assert (manifest["input_rows"], manifest["questions"], manifest["rejected"]) == (10, 7, 3)
    assert manifest["rejected_by_reason"] == {"bad_record": 1, "duplicate_uid": 1, "path_missing": 1}
    lines = (job.output / "questions" / "part-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["source_id"] for line in lines] == [f"{number:05d}" for number in (0, 1, 2, 4, 6, 8, 9)]
    assert "in 4?" in lines[3], "of two rows with an id the first stays"
    rejected = [json.loads(line) for line in (job.output / "rejected.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rejected] == ["own/00003", "own/00004", "own/rows.jsonl, line 8"]
    assert rejected[1]["detail"] == "an earlier row of the input has the same id (rows.jsonl, line 6)"
    assert manifest["counts"]["images"] == {"2": 7}
    assert manifest["counts"]["modality"] == {"multi": 7}


def test_joining_clears_what_an_interrupted_one_left(job):
    (job.output / "questions").mkdir()
    for name in ("questions/part-00001.jsonl", "questions/.part-00000.jsonl.ab.tmp", ".manifest.json.ab.tmp"):
        (job.output / name).write_text("old")
    joined(job, 3)
    assert sorted(path.name for path in job.output.rglob("*") if path.suffix in (".tmp", ".jsonl")) == [
        "part-00000.jsonl",
        "rejected.jsonl",
        *(f"shard-{number:06d}.jsonl" for number in range(4)),
    ]


def test_shards_that_do_not_add_up_are_not_joined(job):
    make(job, 0, 3)
    job.shard(1).write_bytes(b"")
    with pytest.raises(RuntimeError, match="holds 3 rows for 6 of the input"):
        join(job, spans(job, 3)[:2], {})
