"""Pictures, videos and sources that the tests of the data path make up."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _picture(seed: int = 0, width: int = 64, height: int = 48, kind: str = "PNG") -> bytes:
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def _video(path: Path, frames: int = 30, rate: int = 10, width: int = 64, height: int = 48) -> Path:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, width, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., bytes]:
    """`make_picture(seed)`: a file's bytes; no two seeds give pictures that look alike."""
    return _picture


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """`make_video(path)`: three seconds at ten frames a second; frame i is plain grey of level 8 i."""
    pytest.importorskip("av")
    return _video


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """make_source(rows, pictures=4, size=(40, 30)) -> a folder with ``rows.jsonl`` and pictures that rows share.

    Of every ten rows, number 3 names a picture that is not there, number 5 repeats the id of the row before, and number
    7 is not JSON: of ten rows seven become questions.
    """

    def make(rows: int, pictures: int = 4, size: tuple[int, int] = (40, 30), name: str = "source") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(pictures):
            (folder / f"{number}.jpg").write_bytes(_picture(number, *size, "JPEG"))
        with open(folder / "rows.jsonl", "w") as file:
            for number in range(rows):
                row = {"id": f"{number:05d}", "question": f"Which is larger in {number}?", "answer": "yes"}
                row["images"] = [f"{(number + place) % pictures}.jpg" for place in range(2)]
                if number % 10 == 3:
                    row["images"][1] = "nowhere.jpg"
                if number % 10 == 5:
                    row["id"] = f"{number - 1:05d}"
                file.write("{not JSON\n" if number % 10 == 7 else json.dumps(row) + "\n")
        return folder

    return make


def _contents(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(found["manifest.json"])
    manifest.pop("command")
    return found | {"manifest.json": json.dumps(manifest, sort_keys=True).encode()}


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Path, Path], None]:
    """assert_same(one, two): two dataset directories hold the same bytes, but for the command in the manifest."""

    def compare(one: Path, two: Path) -> None:
        first, second = _contents(one), _contents(two)
        assert sorted(first) == sorted(second)
        assert [name for name in first if first[name] != second[name]] == []

    return compare


@pytest.fixture(scope="module")
def ray_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray with two workers, for the tests of a module."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)  # the workers cannot import a test
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    yield
    ray.shutdown()
