"""The paper-sized sets, small: made-up downloads of several sources and of all ten benchmarks, in one command."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cinema_verl.data import sources
from cinema_verl.data.directory import read_questions
from cinema_verl.data.schema import RL_SCHEMA
from cinema_verl.prepare import sets
from cinema_verl.prepare.choices import COLD_START, RL, SETS, SHIPPED, Choices, ChoicesError
from cinema_verl.prepare.commands.sets import main
from cinema_verl.prepare.sources import adapter

SCRIPT = Path(__file__).parents[2] / "data_preprocess" / "cinema_sets.py"
VIDEOS = {"video_mme": "data/aB3_xyz.mp4", "videommmu": "videos/Business/dev_Accounting_9.mp4"}
SIZES = ("--size-rl", "20", "--size-cold-start", "16", "--val-fraction", "0.2", "--workers", "0")


def media_of(value):
    if isinstance(value, dict):
        return [path for item in value.values() for path in media_of(item)]
    if isinstance(value, list | tuple):
        return [path for item in value for path in media_of(item)]
    if isinstance(value, str) and value[:1] in "[{":
        return media_of(json.loads(value)) if value.endswith(("]", "}")) else []
    return [value] if isinstance(value, str) and PurePosixPath(value).suffix in (".jpg", ".png", ".mp4") else []


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, make_picture, make_video):
    """Three sources of 60 rows in all, four of which are another's or a benchmark's; and a row of each benchmark."""
    root = tmp_path_factory.mktemp("made_up") / "downloads"
    virl39k = []
    for n in range(30):
        names = [f"images/{n}-{place}.png" for place in range(1 + n % 3)]
        for place, name in enumerate(names):
            put(root / "virl39k" / name, make_picture(1000 + 10 * n + place))
        rate = 1.0 if n in (6, 7) else 0.5
        row = {
            "question": "<image>" * len(names) + f"How many of {n} kinds?",
            "answer": f"\\boxed{{{n}}}",
            "image": names,
        }
        virl39k.append({**adapter("virl39k").example, **row, "qid": f"q{n}", "PassRate_32BTrained": rate})
    pq.write_table(pa.Table.from_pylist(virl39k), root / "virl39k" / "39Krelease.parquet")
    m4 = []
    for n in range(20):
        for place in range(2):
            put(root / "m4_instruct" / "images" / f"{n}-{place}.jpg", make_picture(2000 + 10 * n + place, kind="JPEG"))
        said = [
            {"from": "human", "value": f"<image>\n<image>\nAre the {n} boats alike?"},
            {"from": "gpt", "value": "Yes"},
        ]
        m4.append({"id": str(n), "image": [f"{n}-{p}.jpg" for p in range(2)], "conversations": said})
        m4[-1]["metadata"] = {"dataset": "boats"}
    m4.append({**m4[0], "id": "again"})  # a duplicate
    m4.append({**m4[1], "id": "taken", "image": ["0-0.jpg", "theirs.jpg"]})
    put(root / "m4_instruct" / "images" / "theirs.jpg", make_picture(7001, 96, 64))
    (root / "m4_instruct" / "m4.json").write_text(json.dumps(m4))
    video_r1 = []
    for n in range(8):
        make_video(root / "video_r1" / "clips" / f"{n}.mp4", frames=20 + n)
        row = {"problem_id": n, "path": f"./clips/{n}.mp4", "data_type": "video", "problem": f"What happens {n} times?"}
        video_r1.append({**adapter("video_r1").example, **row})
    (root / "video_r1" / "Video-R1-260k.json").write_text(json.dumps(video_r1))
    for number, name in enumerate(sources.names(sources.BENCHMARK)):
        row, folder = dict(adapter(name).example), root / name
        for place, path in enumerate([*media_of(row), *([VIDEOS[name]] if name in VIDEOS else [])]):
            if path.endswith(".mp4"):
                make_video(folder / path, frames=25, rate=3 + number)
            else:
                put(
                    folder / path,
                    make_picture(7000 + place if name == "muirbench" else 3000 + 10 * number + place, 96, 64),
                )
        pattern = adapter(name).patterns[0].removeprefix("**/").replace(".json*", ".json")
        file = folder / pattern.replace("*", "x" if pattern.startswith("*") else "")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([row]), file)
        else:
            file.write_text(json.dumps([row] if file.suffix == ".json" else row) + "\n")
    return root


def run(downloads, output, *more):
    return main(["--downloads", str(downloads), "--output", str(output), *SIZES, *more])


@pytest.fixture(scope="module")
def made(downloads, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "sets"
    assert run(downloads, output) == 0
    return output


def uids(folder):
    return {question.uid for question in read_questions(folder)}


def test_two_sets_of_their_sizes_with_nothing_in_common(made):
    rl, cold_start = uids(made / "rl_questions"), uids(made / "cold_start")
    assert (len(rl), len(cold_start), rl & cold_start) == (20, 16, set())
    questions = list(read_questions(made / "rl_questions"))
    assert {question.modality for question in questions} == {"multi", "frames", "single"}
    assert {question.source.partition("/")[0] for question in questions} == {"virl39k", "m4_instruct", "video_r1"}
    assert not {"virl39k/q6", "virl39k/q7"} & rl, "always right: nothing to learn for RL"


def test_duplicates_and_benchmark_questions_are_in_neither(made):
    clean = json.loads((made / "clean" / "decontamination.json").read_text())
    assert {match["uid"]: match["reason"] for match in clean["matches"]} == {
        "m4_instruct/boats/again": "duplicate",
        "m4_instruct/boats/taken": "benchmark_image",
    }
    assert sorted(clean["benchmark_questions"]) == sorted(sources.names(sources.BENCHMARK))
    assert set(clean["benchmark_questions"].values()) == {1}


def test_the_parquet_is_what_verl_reads(made):
    files = sorted((made / "rl").glob("*.parquet"))
    assert [file.name for file in files] == ["train-00000.parquet", "val-00000.parquet"]
    tables = [pq.read_table(file) for file in files]
    assert [table.schema.remove_metadata() for table in tables] == [RL_SCHEMA] * 2
    rows = [row for table in tables for row in table.to_pylist()]
    assert {row["extra_info"]["uid"] for row in rows} == uids(made / "rl_questions")
    assert all(Path(cell["image"]).is_file() for row in rows for cell in row["images"])


def test_the_page_says_what_went_in_and_what_was_not_there(made):
    page = (made / "index.html").read_text()
    for name in ("virl39k", "m4_instruct", "video_r1", *sources.names(sources.BENCHMARK)):
        assert f"<td>{name}</td>" in page
    assert "lmms-lab/LLaVA-Video-178K" in page, "where to get what is missing"
    assert "our choice: the paper&#39;s subject" in page
    summary = json.loads((made / "summary.json").read_text())
    assert summary["sets"]["rl"]["questions"] == 20
    assert sum(summary["sets"]["rl"]["by_source"].values()) == 20
    assert {each["name"] for each in summary["missing"]} >= {"llava_video_178k", "mmk12"}
    spec = yaml.safe_load((made / "specs" / "rl.yaml").read_text())
    assert spec["size"] == 20
    assert set(spec["source"]) == {"virl39k", "m4_instruct", "video_r1"}, "without those that are not there"


def contents(folder):
    """Every file but the locks, with the folder's own name left out of what it says."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".jsonl", ".parquet", ".yaml"))
    return {str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"OUT") for path in files}


def same(one, two):
    first, second = contents(one), contents(two)
    parquet = [name for name in first if name.endswith(".parquet")]
    assert sorted(first) == sorted(second)
    assert [name for name in first if name not in parquet and first[name] != second[name]] == []
    for name in parquet:
        ours, theirs = (pq.read_table(folder / name).column("extra_info").to_pylist() for folder in (one, two))
        assert ours == theirs


def test_a_second_run_does_nothing(downloads, made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.jsonl")}
    plan = sets.Plan(downloads, made, Choices.read().resized({RL: 20, COLD_START: 16}))
    assert run(downloads, made) == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.jsonl")} == before
    assert plan.choices.sets[RL]["size"] == 20


def test_stopped_between_steps_it_repeats_none_that_is_done(downloads, made, tmp_path, monkeypatch):
    output = tmp_path / "sets"
    real, calls = sets.mix, Counter()

    def mix(inputs, spec, *arguments, **more):
        calls[Path(spec).stem] += 1
        if calls["cold_start"] == 1:
            raise KeyboardInterrupt
        return real(inputs, spec, *arguments, **more)

    def decontaminate(*arguments, real=sets.decontaminate, **more):
        calls["clean"] += 1
        return real(*arguments, **more)

    monkeypatch.setattr(sets, "mix", mix)
    monkeypatch.setattr(sets, "decontaminate", decontaminate)
    assert run(downloads, output) == 1
    assert not (output / "index.html").exists()
    assert run(downloads, output) == 0
    assert calls == {"clean": 1, "rl": 1, "cold_start": 2}
    same(made, output)


def test_a_source_that_is_added_later_changes_what_depends_on_it(downloads, tmp_path):
    some, output = tmp_path / "downloads", tmp_path / "sets"
    shutil.copytree(downloads, some)
    shutil.move(some / "m4_instruct", tmp_path / "m4_instruct")
    assert run(some, output) == 0
    before = (output / "sources" / "virl39k" / "manifest.json").stat().st_mtime_ns
    assert not any(uid.startswith("m4") for uid in uids(output / "rl_questions"))
    shutil.move(tmp_path / "m4_instruct", some / "m4_instruct")
    assert run(some, output) == 0
    assert any(uid.startswith("m4") for uid in uids(output / "rl_questions"))
    assert (output / "sources" / "virl39k" / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_at_many_moments_it_goes_on_to_the_same_sets(downloads, made, tmp_path):
    output = tmp_path / "sets"
    command = [sys.executable, str(SCRIPT), "--downloads", str(downloads), "--output", str(output), *SIZES]

    def files():
        try:
            return sum(1 for _ in output.rglob("*"))
        except FileNotFoundError:  # a folder went while it was looked through
            return 0

    kills = 0
    while kills < 8:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        before = files()
        while process.poll() is None and files() < before + 12 * (kills % 3 + 1):
            time.sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[0].decode()
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills >= 3, "it was too fast to be killed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"look at {output}/index.html" in done.stdout
    same(made, output)


# --- What is refused ------------------------------------------------------------------------------------------------


def test_a_missing_benchmark_stops_it_unless_it_is_left_out_by_name(downloads, tmp_path, capsys):
    some = tmp_path / "downloads"
    shutil.copytree(downloads, some)
    shutil.rmtree(some / "emma")
    assert run(some, tmp_path / "sets") == 1
    said = capsys.readouterr().err
    assert "emma" in said
    assert "luckychao/EMMA, into DOWNLOADS/emma" in said
    assert "--without NAME" in said
    assert run(some, tmp_path / "sets", "--without", "emma") == 0
    assert "Left out by --without: emma" in (tmp_path / "sets" / "index.html").read_text()


def test_no_source_at_all_is_said_with_where_to_get_them(tmp_path, capsys):
    (tmp_path / "downloads").mkdir()
    assert run(tmp_path / "downloads", tmp_path / "sets") == 1
    said = capsys.readouterr().err
    assert "holds none of the sources" in said
    assert "TIGER-Lab/ViRL39K, into DOWNLOADS/virl39k" in said


def test_too_few_questions_are_the_mixs_own_rule(downloads, made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "sets")
    assert run(downloads, tmp_path / "sets", "--size-rl", "500") == 1
    said = capsys.readouterr().err
    assert re.search(r"rl: size is 500, and there are only \d+ questions .*--size-rl", said)


def test_an_unknown_name_to_leave_out_is_refused(downloads, tmp_path, capsys):
    assert run(downloads, tmp_path / "sets", "--without", "virl39") == 1
    assert "--without virl39: the choices name no such source" in capsys.readouterr().err


# --- The choices ----------------------------------------------------------------------------------------------------


def test_every_value_has_a_reason():
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.match(r"\s+\S+: *[^#\s]|val_fraction", line)]
    assert len(values) > 50
    assert [line for line in values if not re.search(r"  # (paper|our choice): \S", line)] == []


def test_the_shipped_choices_are_of_the_papers_sizes_and_name_every_benchmark():
    choices = Choices.read()
    assert {name: spec["size"] for name, spec in choices.sets.items()} == {"rl": 58_000, "cold_start": 57_000}
    assert [each.name for each in choices.benchmarks] == list(sources.names(sources.BENCHMARK))
    named = {name for spec in choices.sets.values() for name in spec["source"]}
    assert named <= {each.name for each in choices.training}
    for each in (*choices.training, *choices.benchmarks):
        assert each.get_from in adapter(each.name).about, "where it is published, as its adapter says"
    assert tuple(choices.sets) == SETS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sources": {}}, "sources must name at least one"),
        ({"sources": {"emma": {"from": "x"}}}, "sources.emma is not known"),
        ({"sources": {"virl39k": {"at": "x"}}}, "must be {from: NAME"),
        ({"benchmarks": {"emma": {"from": "x", "media": ["../.."]}}}, "media must be a list of folders below"),
        ({"val_fraction": 1}, "val_fraction is 1"),
        ({"sets": {"rl": {"size": 1}}}, "sets must be rl and cold_start"),
        ({"sets": {"rl": {"size": 0}, "cold_start": {"size": 1}}}, "sets.rl: size is 0"),
        ({"more": 1}, "must have exactly"),
    ],
)
def test_choices_that_cannot_be_are_refused(tmp_path, change, says):
    values = {**yaml.safe_load(SHIPPED.read_text(encoding="utf-8")), **change}
    (tmp_path / "choices.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ChoicesError, match=re.escape(says)):
        Choices.read(tmp_path / "choices.yaml")
