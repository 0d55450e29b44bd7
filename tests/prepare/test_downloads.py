"""Each benchmark as its download lies on the disk: the input folder alone is enough, and no row is read twice."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cinema_verl.data import sources
from cinema_verl.data.directory import read_questions
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.pipeline import prepare
from cinema_verl.prepare.sources import adapter


def _picture(number):
    return f"\0picture {number}"


def _row(name, **changes):
    return {**adapter(name).example, **changes}


def _embedded(number):
    return {"bytes": _picture(number), "path": ""}


def _emma(subject):
    return _row("emma", pid=subject, subject=subject, **{f"image_{n}": _embedded(n) for n in (1, 2, 3)})


MVBENCH = [_row("mvbench", video="7.mp4", start=40.0, end=42.0)]
VIDEOMMMU = _row("videommmu", image=None, question="Which entry is wrong?")
VIDEOMMMU.pop("qa_type")
MV_MATH = [_row("mv_math")]
# Per benchmark: files by their place (rows, or the mark of a picture or a video), and what becomes of them by source.
DOWNLOADS = {
    "muirbench": (
        {"data/test-00000-of-00001.parquet": [_row("muirbench", image_list=[_embedded(n) for n in range(3)])]},
        {"muirbench/Visual_Retrieval": 1},
    ),
    "mmiu": (
        {
            "all.parquet": [_row("mmiu")],
            "spot/before.jpg": 0,
            "spot/after.jpg": 1,
            "spot/notes.json": [{"colour": "red"}],
        },
        {"mmiu/spot_the_diff": 1},
    ),
    "mv_math": (
        {
            "data/MV-MATH.json": MV_MATH,
            "data/MV-MATH-choice.json": MV_MATH,
            "data/caption-example.json": [{"caption": "a cube"}],
            **{f"images/31_{n}.png": n for n in (1, 2, 3)},
        },
        {"mv_math/Solid_Geometry": 1},
    ),
    "emma": (
        {f"{subject}/test-00000-of-00001.parquet": [_emma(subject)] for subject in ("Math", "Physics")},
        {"emma/Math": 1, "emma/Physics": 1},
    ),
    "mirb": (
        {
            "count.json": [_row("mirb")],
            "analogy.json": [_row("mirb", answers="soft", questions="What is the third?")],
            "count_concat.json": [_row("mirb", images=["count/harbour.jpg"])],
            "count/harbour.jpg": 0,
            "count/lake.jpg": 1,
        },
        {"mirb/count": 1, "mirb/analogy": 1},
    ),
    "mvbench": (
        {
            "json/action_sequence.json": MVBENCH,  # a segment of three seconds, to which start and end are not applied
            "json/action_count.json": [_row("mvbench", video="7.mp4", start=1.0, end=2.0)],
            "video/star/Charades_segment/7.mp4": "video",
            "video/perception/videos/7.mp4": "video",
        },
        {"mvbench/action_sequence": 1, "mvbench/action_count": 1},
    ),
    "video_mme": (
        {"videomme/test-00000-of-00001.parquet": [_row("video_mme")], "data/aB3_xyz.mp4": "video"},
        {"video_mme/short": 1},
    ),
    "videommmu": (
        {
            **{f"{track}/test-00000-of-00001.parquet": [VIDEOMMMU] for track in ("Perception", "Comprehension")},
            "Adaptation/test-00000-of-00001.parquet": [
                {**VIDEOMMMU, "question": "Which entry of <image 1>?", "image": _embedded(1)}
            ],
            "Business/dev_Accounting_9.mp4": "video",
        },
        {"videommmu/Perception": 1, "videommmu/Comprehension": 1, "videommmu/Adaptation": 1},
    ),
    "mathvista": (
        {
            "data/testmini.json": {"12": _row("mathvista"), "13": _row("mathvista", pid="13", answer="2.5")},
            "images/12.jpg": 0,
        },
        {"mathvista": 2},
    ),
    "mathvision": (
        {
            "data/test-00000-of-00001.parquet": [_row("mathvision", decoded_image=_embedded(1))],
            "data/testmini-00000-of-00001.parquet": [_row("mathvision")],
            "test.jsonl": [_row("mathvision")],
        },
        {"mathvision/combinatorial_geometry": 1},
    ),
}


@pytest.fixture
def download(tmp_path, make_picture, make_video):
    def with_pictures(value):
        if isinstance(value, dict):
            return {key: with_pictures(item) for key, item in value.items()}
        if isinstance(value, list):
            return [with_pictures(item) for item in value]
        return make_picture(int(value.split()[1])) if isinstance(value, str) and value[:1] == "\0" else value

    def download(name):
        for place, content in DOWNLOADS[name][0].items():
            path = tmp_path / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if content == "video":
                make_video(path)
            elif isinstance(content, int):
                path.write_bytes(make_picture(content, kind="JPEG" if path.suffix == ".jpg" else "PNG"))
            elif path.suffix == ".parquet":
                pq.write_table(pa.Table.from_pylist(with_pictures(content)), path)
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in content))
            else:
                path.write_text(json.dumps(content, indent=1))
        return tmp_path / name

    return download


def test_every_benchmark_is_tried():
    assert set(DOWNLOADS) == set(sources.names(sources.BENCHMARK))


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_needs_no_option_but_its_folder(download, tmp_path, name):
    folder, out = download(name), tmp_path / "out"
    manifest = prepare(adapter(name), folder, out, ConvertSettings(media_root=str(folder))).manifest
    assert manifest["rejected"] == 0, (out / "rejected.jsonl").read_text()
    found = [question.source for question in read_questions(out)]
    assert {source: found.count(source) for source in found} == DOWNLOADS[name][1]


def test_the_end_of_a_lecture_and_its_picture_are_shown(download, tmp_path):
    folder = download("videommmu")
    prepare(adapter("videommmu"), folder, tmp_path / "out", ConvertSettings(media_root=str(folder)))
    shown = {question.source: question for question in read_questions(tmp_path / "out")}
    adaptation, other = shown["videommmu/Adaptation"], shown["videommmu/Perception"]
    assert adaptation.video.frame_times[-1] == pytest.approx(2.9)  # the last of three seconds at ten frames a second
    assert other.video.frame_times[-1] < 2.9
    assert (len(adaptation.images), len(adaptation.video.frame_times)) == (9, 8)
    assert adaptation.question.splitlines()[7:] == ["Frame 8: <image>", "Which entry of Image 1?", "Image 1: <image>"]
