"""A run that is killed, short of disk or of workers goes on, and ends in the same bytes as one that nothing befell."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest

from cinema_verl.data.canonical import SourceError
from cinema_verl.data.directory import WORK
from cinema_verl.prepare import pipeline
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.pipeline import Stopped, prepare, summary
from cinema_verl.prepare.sources import adapter

OWN = adapter("own")

PROGRAM = """
import sys
from cinema_verl.prepare import pipeline
from cinema_verl.prepare.sources import adapter
from cinema_verl.prepare.convert import ConvertSettings

source, output, workers, rows_per_shard, *limit = sys.argv[1:]
pipeline.ROWS_PER_SHARD = int(rows_per_shard)
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))
try:
    pipeline.prepare(adapter("own"), source, output, ConvertSettings(media_root=source), workers=int(workers))
except pipeline.Stopped as stopped:
    sys.exit(f"Stopped: {stopped}")
"""


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(pipeline, "ROWS_PER_SHARD", 5)


def run(source, output, own=OWN, **options):
    return prepare(own, source, output, ConvertSettings(media_root=str(source)), **options)


def start(source, output, workers, rows_per_shard, *limit):
    command = [sys.executable, "-c", PROGRAM, *map(str, (source, output, workers, rows_per_shard, *limit))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finished(output):
    """Finished shards, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / WORK).glob("shard-*.jsonl")}


def interrupted(source, output, last=lambda *_: None):
    """A run that ends where its shards would be joined; `last` is what it did."""

    def join(*arguments):
        last(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "join", join)
        with pytest.raises(KeyboardInterrupt):
            run(source, output)


# --- What is made ---------------------------------------------------------------------------------------------------


def test_rows_are_questions_or_rejected(make_source, tmp_path, small_shards):
    manifest = run(make_source(30), tmp_path / "out", command=["python", "own.py"]).manifest
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["input_rows"], manifest["questions"], manifest["rejected"]) == (30, 21, 9)
    assert manifest["rejected_by_reason"] == {"bad_record": 3, "duplicate_uid": 3, "path_missing": 3}
    assert manifest["command"] == ["python", "own.py"]
    assert [(file["name"], file["bytes"]) for file in manifest["inputs"]] == [
        ("rows.jsonl", (tmp_path / "source" / "rows.jsonl").stat().st_size)
    ]
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 9
    assert len(list((tmp_path / "out" / "images").rglob("*.jpg"))) == 4
    assert not (tmp_path / "out" / WORK).exists()
    lines = summary(manifest).splitlines()
    assert lines[0] == "30 rows = 21 questions + 9 rejected"
    assert sum(int(line.split()[1]) for line in lines if line.startswith("  rejected")) == 9


@pytest.mark.parametrize("limit", [1, 5, 13, 30, 99])
def test_a_limit_takes_the_first_rows(make_source, tmp_path, small_shards, limit):
    manifest = run(make_source(30), tmp_path / "out", limit=limit).manifest
    assert manifest["input_rows"] == manifest["questions"] + manifest["rejected"] == min(limit, 30)


def test_the_same_bytes_by_any_number_of_workers(make_source, tmp_path, small_shards, assert_same):
    source = make_source(40)
    results = {workers: run(source, tmp_path / str(workers), workers=workers) for workers in (0, 1, 2)}
    assert_same(tmp_path / "0", tmp_path / "1")
    assert_same(tmp_path / "0", tmp_path / "2")
    pids = {workers: {int(worker.split(":")[1]) for worker in result.workers} for workers, result in results.items()}
    assert pids[0] == {os.getpid()}
    assert os.getpid() not in pids[1] | pids[2]


def test_the_same_bytes_by_ray(make_source, tmp_path, small_shards, ray_here, assert_same):
    source = make_source(40)
    assert {worker.split(":")[0] for worker in run(source, tmp_path / "ray", workers=2).workers} != {"here"}
    run(source, tmp_path / "here")
    assert_same(tmp_path / "here", tmp_path / "ray")


# --- Where it goes on -----------------------------------------------------------------------------------------------


def test_killed_it_goes_on_and_redoes_no_finished_shard(make_source, tmp_path, assert_same):
    source = make_source(40, size=(1400, 1000))
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    before = {}
    for shards in (2, 4, 6):  # of 10: killed when so many are there
        process = start(source, killed, 0, 4)
        while len(finished(killed)) < shards:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
        process.communicate()
        now = finished(killed)
        assert shards <= len(now) < 10
        assert before.items() <= now.items(), "a finished shard was made again"
        before = now
    for output in (killed, calm):
        start(source, output, 0, 4).communicate()
    assert_same(calm, killed)


@pytest.mark.slow
def test_killed_at_random_moments_with_workers(make_source, tmp_path, assert_same):
    """While Ray starts, among the shards, and while they are joined: wherever chance has it."""
    source = make_source(200, size=(1400, 1000))
    dice, killed = random.Random(1), tmp_path / "killed"
    kills, before = 0, {}
    while kills < 6:
        process = start(source, killed, 2, 5)
        wanted = len(before) + dice.randrange(10)  # of 40 shards; so that every run gets somewhere
        while process.poll() is None and len(finished(killed)) < wanted:
            time.sleep(0.01)
        time.sleep(dice.random())
        process.kill()
        process.communicate()
        kills += 1
        if (killed / "manifest.json").exists():
            break
        now = finished(killed)
        assert before.items() <= now.items(), "a finished shard was made again"
        before = now
    for output in (killed, tmp_path / "calm"):
        start(source, output, 2, 5).communicate()
    assert kills > 2
    assert_same(tmp_path / "calm", killed)


def test_killed_while_joining(make_source, tmp_path, small_shards, assert_same):
    source = make_source(30)
    run(source, tmp_path / "calm")

    def half(*_):
        (tmp_path / "out" / "questions").mkdir()
        (tmp_path / "out" / "questions" / ".part-00000.jsonl.ab.tmp").write_text('{"half')

    interrupted(source, tmp_path / "out", half)
    assert run(source, tmp_path / "out").workers == frozenset(), "all shards were there"
    assert_same(tmp_path / "calm", tmp_path / "out")


def test_a_finished_run_is_not_done_again(make_source, tmp_path, small_shards):
    source = make_source(10)
    first = run(source, tmp_path / "out", command=["first"])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = run(source, tmp_path / "out", command=["second"])
    assert again.manifest == first.manifest
    assert again.workers == frozenset()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == written


# --- What is refused ------------------------------------------------------------------------------------------------


def test_an_output_inside_the_input_is_no_input(make_source, tmp_path, small_shards):
    source = make_source(7)
    anywhere = replace(OWN, patterns=("**/*.jsonl",))
    first = run(source, source / "out", anywhere)
    assert run(source, source / "out", anywhere).manifest == first.manifest


@pytest.mark.parametrize("state", ["interrupted", "finished"])
def test_other_settings_are_not_mixed_in(make_source, tmp_path, state):
    source, output = make_source(10), tmp_path / "out"
    if state == "finished":
        run(source, output)
    else:
        interrupted(source, output)
    settings = ConvertSettings(media_root=str(source), max_pixels=100_000, fps=1.0, frames=None)
    with pytest.raises(Stopped) as stopped:
        prepare(OWN, source, output, settings)
    for difference in ("max_pixels was 602112 and is 100000", "fps was None and is 1.0", "frames was 8 and is None"):
        assert f"settings.{difference}" in str(stopped.value)
    with pytest.raises(Stopped, match="limit was None and is 3"):
        run(source, output, limit=3)
    (source / "rows.jsonl").open("a").write("{}\n")
    with pytest.raises(Stopped, match=r"input file rows\.jsonl has changed"):
        run(source, output)
    shutil.copy(source / "rows.jsonl", source / "more.jsonl")
    with pytest.raises(Stopped, match=r"input file more\.jsonl is new"):
        run(source, output)


def test_a_directory_with_something_else_is_left_alone(make_source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"spec": "of a mix"}')
    with pytest.raises(Stopped, match="source was None and is 'own'"):
        run(make_source(10), tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_text() == '{"spec": "of a mix"}'


def test_one_run_at_a_time(make_source, tmp_path, small_shards):
    source = make_source(10)

    def second(*_):
        with pytest.raises(Stopped, match=r"another run is writing to .*out: wait for it"):
            run(source, tmp_path / "out")

    interrupted(source, tmp_path / "out", second)
    run(source, tmp_path / "out")


def test_an_input_that_changes_while_it_is_read_is_refused(make_source, tmp_path, small_shards, monkeypatch):
    source = make_source(10)
    convert = pipeline._convert

    def changing(*arguments):
        done = convert(*arguments)
        rows = (source / "rows.jsonl").read_text()
        (source / "rows.jsonl").write_text(rows.replace("Which is larger", "Which is bigger"))
        return done

    monkeypatch.setattr(pipeline, "_convert", changing)
    with pytest.raises(Stopped, match=r"rows\.jsonl changed while it was read: start over with another --output"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_file_that_is_only_touched_has_not_changed(make_source, tmp_path, small_shards, monkeypatch):
    source = make_source(10)
    convert = pipeline._convert
    monkeypatch.setattr(pipeline, "_convert", lambda *given: (convert(*given), os.utime(source / "rows.jsonl"))[0])
    assert run(source, tmp_path / "out").manifest["questions"] == 7


def test_a_source_of_another_kind_stops_at_once(make_source, tmp_path):
    source = make_source(10)
    (source / "rows.jsonl").write_text('{"id": 1, "problem": "Which?", "images": ["0.jpg"], "answer": "yes"}\n')
    with pytest.raises(SourceError, match="no field 'question'"):
        run(source, tmp_path / "out")


def test_a_wrong_media_root_stops_at_once(make_source, tmp_path):
    source = make_source(40)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SourceError, match=r"none of the first 20 .* no '0\.jpg' below .*\. Is --media-root right\?"):
        prepare(OWN, source, tmp_path / "out", ConvertSettings(media_root=str(tmp_path / "elsewhere")))
    with pytest.raises(Stopped, match=r"No such file or directory: .*/nowhere"):
        prepare(OWN, source, tmp_path / "out", ConvertSettings(media_root=str(tmp_path / "nowhere")))
    row = {"question": "Which?", "answer": "yes", "image": str(source / "0.jpg")}
    (source / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 30)
    with pytest.raises(SourceError, match=r"0\.jpg' is absolute and not below --media-root .* --allow-root"):
        prepare(OWN, source, tmp_path / "out", ConvertSettings(media_root=str(tmp_path / "elsewhere")))


# --- What fails -----------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up(make_source, tmp_path, assert_same):
    """As far as a process can tell: no file may grow over some kB."""
    source = make_source(20, size=(600, 400))
    largest = max(path.stat().st_size for path in source.glob("*.jpg"))
    process = start(source, tmp_path / "out", 0, 5, largest // 2)
    _, errors = process.communicate()
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("Stopped: ")
    assert "the picture cannot be stored: File too large: " in last
    assert last.endswith("Finished shards are kept: mend it and run the same command again")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    for output in ("out", "calm"):
        start(source, tmp_path / output, 0, 5).communicate()
    assert_same(tmp_path / "calm", tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB; root alone can mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("rows", "pictures"), [(100, 100), (600, 4)])  # the pictures do not fit; the questions do not
def test_a_full_disk(make_source, tmp_path, small_shards, small_disk, assert_same, rows, pictures):
    source = make_source(rows, pictures)
    with pytest.raises(Stopped, match=r"No space left on device: .*/disk/out.* Finished shards are kept"):
        run(source, small_disk / "out")
    assert finished(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,size=16M", str(small_disk)], check=True)
    run(source, small_disk / "out")
    run(source, tmp_path / "calm")
    assert_same(tmp_path / "calm", small_disk / "out")


def test_a_folder_that_may_not_be_written(make_source, tmp_path):
    source = make_source(20)
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    command = [sys.executable, "-c", PROGRAM, str(source), str(locked / "out"), "0", "5"]
    if os.geteuid() == 0:  # root heeds no mode, unless it gives up that power
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv may write anywhere")
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1].startswith(f"Stopped: Permission denied: {locked}/out")
    locked.chmod(0o755)
    assert subprocess.run(command, check=False).returncode == 0


def test_a_file_where_a_folder_should_be(make_source, tmp_path, small_shards):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Stopped, match=r"/file/out can be no folder: .* Give another --output$"):
        run(make_source(10), tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def deadly(row, *, number, trace=None):
    """The adapter, but for a row that kills whoever converts it; once only if `trace` is where to note it."""
    if row["id"] == f"{number:05d}" and not (trace and trace.exists()):
        if trace:
            trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return OWN.convert(row)


def test_a_worker_that_is_killed_costs_nothing(make_source, tmp_path, small_shards, assert_same):
    source = make_source(40)
    own = replace(OWN, convert=partial(deadly, number=21, trace=tmp_path / "died"))
    run(source, tmp_path / "out", own, workers=2)
    assert (tmp_path / "died").exists()
    run(source, tmp_path / "calm")
    assert_same(tmp_path / "calm", tmp_path / "out")


def test_a_row_that_kills_every_worker_is_named(make_source, tmp_path, small_shards, assert_same):
    source = make_source(40)
    own = replace(OWN, convert=partial(deadly, number=12))
    with pytest.raises(Stopped, match=r"3 workers died over .*rows\.jsonl, at line 13\. .* Finished shards are kept"):
        run(source, tmp_path / "out", own, workers=2)
    assert "shard-000002.jsonl" not in finished(tmp_path / "out")
    run(source, tmp_path / "out")  # mended
    run(source, tmp_path / "calm")
    assert_same(tmp_path / "calm", tmp_path / "out")


@pytest.mark.slow
def test_a_cluster_of_several_nodes(make_source, tmp_path, assert_same):
    """Two nodes on this machine, each with a core and an object store of its own."""
    from ray.cluster_utils import Cluster

    source = make_source(120, size=(700, 500))
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "ROWS_PER_SHARD", 5)
            result = run(source, tmp_path / "cluster", ray_address=cluster.address)
            run(source, tmp_path / "here")
    finally:
        cluster.shutdown()
    assert len({worker.split(":")[0] for worker in result.workers}) == 2, result.workers
    assert_same(tmp_path / "here", tmp_path / "cluster")
