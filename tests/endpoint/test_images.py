"""Data URLs: the stored bytes where the limits allow, smaller where they do not, and a reason where nothing helps."""

import asyncio
import base64
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.data.canonical import ImageRef
from cinema_verl.endpoint import images as module
from cinema_verl.endpoint.images import DataURLs, ImageLimits, ImageProblem, data_url


@pytest.fixture
def store(tmp_path):
    """`store(width, height, "PNG")`: an image of noise, which does not compress."""

    def make(width: int = 60, height: int = 40, kind: str = "PNG", mode: str = "RGB", seed: int = 0) -> ImageRef:
        bands = len(Image.new(mode, (1, 1)).getbands())
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
        file = io.BytesIO()
        Image.frombytes(mode, (width, height), noise.tobytes()).save(file, kind)
        sha256 = hashlib.sha256(file.getvalue()).hexdigest()
        path = tmp_path / sha256
        path.write_bytes(file.getvalue())
        return ImageRef(str(path), width, height, sha256, "0" * 16)

    return make


def opened(url: bytes) -> tuple[str, bytes, Image.Image]:
    head, _, data = url.partition(b";base64,")
    content = base64.b64decode(data, validate=True)
    return head.decode(), content, Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("kind", "name"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif")])
def test_what_fits_is_sent_as_it_is_stored(store, kind, name):
    image = store(kind=kind, mode="L" if kind == "GIF" else "RGB")
    head, content, _ = opened(data_url(image))
    assert head == f"data:image/{name}"
    assert hashlib.sha256(content).hexdigest() == image.sha256


def test_a_kind_that_endpoints_do_not_read_becomes_jpeg(store):
    head, _, image = opened(data_url(store(kind="BMP")))
    assert (head, image.format, image.size) == ("data:image/jpeg", "JPEG", (60, 40))


def test_too_many_pixels_are_made_fewer_and_keep_their_shape(store):
    _, _, image = opened(data_url(store(600, 400), ImageLimits(max_pixels=60_000)))
    assert image.size == (300, 200)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 50_000), st.integers(800, 100_000))
def test_limits_are_kept_or_the_reason_is_given(store, width, height, pixels, size):
    limits = ImageLimits(pixels, size)
    try:
        _, content, image = opened(data_url(store(width, height), limits))
        assert limits.admit(image.width * image.height, len(content))
    except ImageProblem:
        assert size < 2_000  # after the tries there are few pixels left, and a JPEG of one has 600 bytes


def test_nothing_helps_an_image_that_is_too_large(store):
    with pytest.raises(ImageProblem, match="still over the endpoint's limit of 100 bytes") as problem:
        data_url(store(), ImageLimits(max_bytes=100))
    assert problem.value.outcome == "image_too_large"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "CMYK"])
def test_every_mode_can_be_shrunk(store, mode):
    image = store(mode=mode, kind="JPEG" if mode == "CMYK" else "PNG")
    assert opened(data_url(image, ImageLimits(max_pixels=600)))[2].mode == "RGB"


def test_what_is_transparent_becomes_white(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    ref = ImageRef(str(path), 40, 40, hashlib.sha256(path.read_bytes()).hexdigest(), "0" * 16)
    assert opened(data_url(ref, ImageLimits(max_pixels=100)))[2].getpixel((5, 5)) == (255, 255, 255)


def test_files_that_are_none(store, tmp_path):
    image = store()
    text = tmp_path / "text"
    text.write_bytes(b"no picture")
    text_ref = replace(image, path=str(text), sha256=hashlib.sha256(b"no picture").hexdigest())
    for ref, said in (
        (replace(image, path=str(tmp_path / "gone.png")), "gone.png: No such file"),
        (replace(image, path=str(tmp_path)), "Is a directory"),
        (replace(image, sha256="0" * 64), "its digest differs"),
        (text_ref, "cannot be decoded"),
    ):
        with pytest.raises(ImageProblem, match=said) as problem:
            data_url(ref)
        assert problem.value.outcome == "bad_image"


def test_an_image_cut_in_half_that_must_be_shrunk(store):
    whole = store(200, 200, "JPEG")
    half = Path(whole.path).read_bytes()[:3000]
    Path(whole.path).write_bytes(half)
    with pytest.raises(ImageProblem, match="cannot be decoded"):
        data_url(replace(whole, sha256=hashlib.sha256(half).hexdigest()), ImageLimits(max_pixels=100))


# --- What is kept -------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Names of the images that were read, in order."""
    names: list[str] = []

    def counted(image: ImageRef, limits: ImageLimits) -> bytes:
        names.append(image.sha256)
        return data_url(image, limits)

    monkeypatch.setattr(module, "data_url", counted)
    return names


def test_an_image_is_read_once_for_all_who_ask(store, reads):
    image = store()

    async def run() -> list[bytes]:
        urls = DataURLs()
        first = await asyncio.gather(*(urls.get(image) for _ in range(5)))
        return [*first, await urls.get(image)]

    assert {*asyncio.run(run())} == {data_url(image)}
    assert len(reads) == 1


def test_the_latest_used_are_kept(store, reads):
    a, b, c = (store(seed=seed) for seed in range(3))
    size = len(data_url(a))

    async def run() -> None:
        urls = DataURLs(kept_bytes=2 * size + size // 2)
        for image in (a, b, a, c, a, b):  # c drives b out, for a was used since
            await urls.get(image)

    asyncio.run(run())
    assert reads == [a.sha256, b.sha256, c.sha256, b.sha256]


def test_a_failure_is_not_kept_and_who_stops_waiting_does_not_stop_others(store, tmp_path):
    image = store()
    content = (tmp_path / image.sha256).read_bytes()

    async def run() -> None:
        urls = DataURLs()
        (tmp_path / image.sha256).unlink()
        with pytest.raises(ImageProblem):
            await urls.get(image)
        (tmp_path / image.sha256).write_bytes(content)
        impatient, patient = asyncio.ensure_future(urls.get(image)), asyncio.ensure_future(urls.get(image))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient == data_url(image)

    asyncio.run(run())
