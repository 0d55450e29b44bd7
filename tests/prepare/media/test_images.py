"""Pictures from anywhere: made here, stored, and looked at pixel by pixel."""

import hashlib
import io
import os
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.tokens import smart_resize
from cinema_verl.prepare.media.images import MAX_SOURCE_PIXELS, ImageStore, shrunk_size
from cinema_verl.prepare.media.phash import phash

MAX_PIXELS = 100 * 100
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(width=60, height=40):
    """Four plain quarters: which is where says how a picture was turned."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return Image.fromarray(pixels)


def quarters(image):
    """The colours in the middle of the quarters: left top, right top, left bottom, right bottom."""
    width, height = image.size
    image = image.convert("RGB")
    return [image.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images", MAX_PIXELS)


def stored(store, data):
    """The reference, and the picture as a reader finds it."""
    ref = store.put(data)
    with Image.open(ref.path) as image:
        image.load()
    assert image.size == (ref.width, ref.height)
    assert image.mode in ("RGB", "L")
    assert image.getexif() == {}
    return ref, image


def outcome(store, data):
    try:
        store.put(data)
    except Rejected as rejected:
        return rejected.reason
    return "stored"


def reason_of(store, data):
    reason = outcome(store, data)
    assert reason == "stored" or not list(store.directory.rglob("*.*")), "nothing may be stored"
    return reason


# --- Upright, 8 bits, opaque ----------------------------------------------------------------------------------------

# What a viewer shows of the quarters R G / B grey, worked out from the orientation's definition in EXIF: where the
# 0th row and the 0th column of the file are on the screen.
UPRIGHT = {
    1: [RED, GREEN, BLUE, GREY],  # top, left
    2: [GREEN, RED, GREY, BLUE],  # top, right
    3: [GREY, BLUE, GREEN, RED],  # bottom, right
    4: [BLUE, GREY, RED, GREEN],  # bottom, left
    5: [RED, BLUE, GREEN, GREY],  # left, top
    6: [BLUE, RED, GREY, GREEN],  # right, top
    7: [GREY, GREEN, BLUE, RED],  # right, bottom
    8: [GREEN, GREY, RED, BLUE],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_stored_upright(store, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    ref = store.put(encoded(corners(), kind, exif=exif, **lossless))
    assert (ref.width, ref.height) == ((60, 40) if orientation < 5 else (40, 60))
    with Image.open(ref.path) as image:
        assert image.getexif().get(0x0112, 1) == 1
        np.testing.assert_allclose(quarters(image), UPRIGHT[orientation], atol=6)


def test_a_large_photograph_is_turned_after_it_was_shrunk(store):
    exif = Image.Exif()
    exif[0x0112] = 6
    ref, image = stored(store, encoded(corners(900, 300), "JPEG", exif=exif, quality=95))
    assert ref.width * ref.height <= MAX_PIXELS
    assert ref.height / ref.width == pytest.approx(3, rel=0.03)
    np.testing.assert_allclose(quarters(image), UPRIGHT[6], atol=6)


def test_an_orientation_that_is_none_is_upright(store):
    exif = Image.Exif()
    exif[0x0112] = 77
    assert quarters(stored(store, encoded(corners(), "WEBP", lossless=True, exif=exif))[1])[0][0] > 240


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0XX\0\1\2\3\4\5", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_exif_that_cannot_be_read_turns_nothing(store, exif):
    ref = store.put(encoded(corners(), "JPEG", exif=exif))
    assert (ref.width, ref.height) == (60, 40)


def test_palettes_lose_nothing(store):
    palette = corners().convert("P", palette=Image.Palette.ADAPTIVE)
    ref, image = stored(store, encoded(palette, "PNG"))
    assert ref.path.endswith(".png")
    assert quarters(image) == [RED, GREEN, BLUE, GREY]
    assert quarters(stored(store, encoded(palette, "GIF"))[1]) == [RED, GREEN, BLUE, GREY]


def test_cmyk(store):
    """Pure cyan takes away the red and nothing else."""
    ref, image = stored(store, encoded(Image.new("CMYK", (40, 40), (255, 0, 0, 0)), "JPEG", quality=100))
    assert ref.path.endswith(".jpg")
    np.testing.assert_allclose(image.getpixel((20, 20)), (0, 255, 255), atol=4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_16_bits_the_upper_8_are_kept(store, kind):
    values = np.linspace(0, 65535, 40 * 40).astype(np.uint16).reshape(40, 40)
    _, image = stored(store, encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(np.asarray(image), values >> 8)


def test_a_transparent_value_of_16_bits_is_white(store):
    values = np.full((40, 40), 0x8000, np.uint16)
    values[:, 20:] = 0x8001
    data = encoded(Image.fromarray(values), "PNG")
    chunk = b"tRNS\x80\x01"
    header_ends = 8 + 25  # signature, IHDR
    data = data[:header_ends] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[header_ends:]
    _, image = stored(store, data)
    assert (image.getpixel((9, 9)), image.getpixel((29, 9))) == (0x80, 255)


def test_one_bit(store):
    bits = Image.fromarray(np.indices((40, 40)).sum(axis=0) % 2 == 0)
    assert bits.mode == "1"
    _, image = stored(store, encoded(bits, "PNG"))
    np.testing.assert_array_equal(np.asarray(image) == 255, np.asarray(bits))


def test_32_bits_have_no_known_range(store):
    assert reason_of(store, encoded(Image.new("I", (40, 40), 70_000), "TIFF")) == "image_format"
    assert reason_of(store, encoded(Image.new("F", (40, 40), 0.5), "TIFF")) == "image_format"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (40, 40), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (40, 40), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (40, 40), (0, 0, 0, 51)), (204, 204, 204)),  # a fifth of black on white
        (Image.new("LA", (40, 40), (0, 0)), (255, 255, 255)),
        (Image.new("LA", (40, 40), (0, 255)), (0, 0, 0)),
    ],
)
def test_transparency_is_laid_on_white(store, image, expected):
    assert stored(store, encoded(image, "PNG"))[1].convert("RGB").getpixel((20, 20)) == expected


def test_a_transparent_palette_entry_is_white(store):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert stored(store, encoded(image, "PNG", transparency=1))[1].getpixel((5, 5)) == (255, 255, 255)
    assert stored(store, encoded(image, "PNG"))[1].getpixel((5, 5)) == (10, 20, 30)


def test_a_transparent_colour_is_white(store):
    data = encoded(Image.new("RGB", (40, 40), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert stored(store, data)[1].getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["BMP", "JPEG2000", "WEBP", "AVIF"])
def test_other_kinds_become_the_two(store, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    ref, image = stored(store, encoded(corners(), kind, **({"quality": 100} if kind in ("AVIF", "WEBP") else {})))
    assert Path(ref.path).suffix == (".png" if kind == "BMP" else ".jpg")
    np.testing.assert_allclose(quarters(image), [RED, GREEN, BLUE, GREY], atol=12)


def test_a_stereo_photograph_is_its_first_picture(store):
    data = encoded(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))], quality=95)
    np.testing.assert_allclose(quarters(stored(store, data)[1]), [RED, GREEN, BLUE, GREY], atol=12)


def test_what_is_encoded_again_has_no_metadata(store):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(corners(), "WEBP", icc_profile=profile, xmp=b"<secret/>")
    ref, image = stored(store, data)
    assert "icc_profile" not in image.info
    assert b"secret" not in Path(ref.path).read_bytes()


# --- Within the pixel cap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(100, 100), (28, 28), (28, 300), (50, 200)])
def test_a_file_that_needs_no_change_is_stored_byte_for_byte(store, kind, size):
    data = encoded(noise(*size), kind)
    ref = store.put(data)
    assert Path(ref.path).read_bytes() == data
    assert (ref.width, ref.height) == size
    assert ref.sha256 == hashlib.sha256(data).hexdigest() == Path(ref.path).stem
    assert Path(ref.path) == store.directory / ref.sha256[:2] / Path(ref.path).name


@given(width=st.integers(28, 700), height=st.integers(28, 700))
def test_larger_pictures_are_shrunk_to_the_cap(tmp_path_factory, width, height):
    store, data = ImageStore(tmp_path_factory.mktemp("shrunk"), MAX_PIXELS), Image.new("L", (width, height), 9)
    scale = min(1, (MAX_PIXELS / (width * height)) ** 0.5)
    if min(width, height) * scale < 28:
        assert outcome(store, encoded(data, "PNG")) == "image_too_thin"
        return
    ref = store.put(encoded(data, "PNG"))
    assert ref.width * ref.height <= MAX_PIXELS


@given(width=st.integers(28, 4000), height=st.integers(28, 4000), factor=st.sampled_from([28, 32]))
def test_what_was_shrunk_is_not_resampled_again(width, height, factor):
    """By qwen_vl_utils and the processor, which `smart_resize` equals (test_tokens)."""
    size = shrunk_size(width, height, 602_112, factor)
    if width * height <= 602_112:
        assert size == (width, height)
    elif 0 not in size:
        assert smart_resize(size[1], size[0], factor, 3_136, 602_112) == (size[1], size[0])
        assert smart_resize(height, width, factor, 3_136, 602_112) == (size[1], size[0])


def test_shrinking_a_common_photograph():
    assert shrunk_size(1600, 1200, 602_112) == (896, 672)
    assert shrunk_size(4000, 3000, 602_112) == (896, 672)
    assert shrunk_size(1000, 1000, 602_112) == (27 * 28, 27 * 28)
    assert shrunk_size(1000, 1000, 602_112, 32) == (24 * 32, 24 * 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_shrinking_is_that_of_a_good_filter(store, kind):
    """JPEG is shrunk in its own transform first: within a level of the plain way on a smooth picture."""
    x, y = np.meshgrid(np.linspace(0, 6, 800), np.linspace(0, 6, 600))
    smooth = Image.fromarray((127 + 60 * np.sin(x) + 60 * np.cos(y)).astype(np.uint8))
    ref, image = stored(store, encoded(smooth, kind, **({"quality": 98} if kind == "JPEG" else {})))
    plain = smooth.resize((ref.width, ref.height), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(image, int) - np.asarray(plain, int)).mean() < 1


def test_a_cap_under_one_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no room for sides of 28 px"):
        ImageStore(tmp_path, 28 * 28 - 1)


# --- Stored once ----------------------------------------------------------------------------------------------------


def test_the_same_picture_is_stored_once(store):
    data = encoded(noise(90, 90), "PNG")
    first = store.put(data)
    written = os.stat(first.path)
    assert store.put(data) == first
    assert os.stat(first.path).st_mtime_ns == written.st_mtime_ns
    store.put(encoded(noise(90, 90, seed=1), "PNG"))
    assert len([path for path in store.directory.rglob("*") if path.is_file()]) == 2


def test_half_a_file_is_written_again(store):
    data = encoded(noise(90, 90), "PNG")
    path = Path(store.put(data).path)
    path.write_bytes(data[:100])
    store.put(data)
    assert path.read_bytes() == data


def _put_all(directory, seeds):
    store = ImageStore(directory, MAX_PIXELS)
    return [store.put(encoded(noise(200, 150, seed), "PNG")).sha256 for seed in seeds]


def test_any_number_of_processes_store_into_one_folder(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        found = list(pool.map(partial(_put_all, tmp_path), [range(8), range(8), reversed(range(8)), range(4, 8)]))
    assert found[0] == found[1] == found[2][::-1]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.stem for path in files) == sorted(set(found[0]))
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in files)


def test_equal_pixels_in_other_files_become_one(store):
    image = corners()
    refs = {store.put(encoded(image, kind)).sha256 for kind in ("BMP", "TIFF")}
    assert len(refs) == 1


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_row(tmp_path):
    (tmp_path / "images").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="the picture cannot be stored"):
        ImageStore(tmp_path / "images", MAX_PIXELS).put(encoded(corners(), "PNG"))


def test_frames_are_stored_as_jpeg(store):
    ref = store.put_image(corners(300, 200))
    assert ref.path.endswith(".jpg")
    assert ref.width * ref.height <= MAX_PIXELS
    with pytest.raises(Rejected, match="image_too_thin"):
        store.put_image(Image.new("RGB", (2, 402)))


# --- Rejected by name -----------------------------------------------------------------------------------------------


def animated(kind):
    return encoded(corners(), kind, save_all=True, append_images=[Image.new("RGB", (60, 40), GREY)], duration=50)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_or_pages(store, kind):
    assert reason_of(store, animated(kind)) == "image_animated"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files(store, kind, share):
    data = encoded(noise(90, 90), kind)
    assert reason_of(store, data[: int(len(data) * share)]) in ("image_broken", "image_format")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_picture_that_would_be_shrunk(store, kind):
    data = encoded(noise(600, 500), kind)
    assert reason_of(store, data[: len(data) * 3 // 4]) == "image_broken"


def test_damage_in_the_middle_of_a_png(store):
    data = bytearray(encoded(noise(90, 90), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason_of(store, bytes(data)) == "image_broken"


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"not a picture" * 9]
)
def test_what_is_no_picture(store, data):
    assert reason_of(store, data) in ("image_format", "image_broken")


def test_kinds_that_pillow_hands_to_other_programs_are_not_opened(store):
    assert reason_of(store, encoded(corners(), "EPS")) == "image_format"


def test_what_the_bytes_are_counts_and_not_the_name(store):
    """A row's path may say .jpg; the store sees bytes, and names the file by what they are."""
    assert store.put(encoded(corners(), "PNG")).path.endswith(".png")
    lying = encoded(corners(), "PNG").replace(b"\x89PNG", b"\xff\xd8\xff\xe0", 1)
    assert reason_of(ImageStore(store.directory / "other", MAX_PIXELS), lying) in ("image_format", "image_broken")


def claiming(width, height):
    """A PNG whose header claims a size that its data do not have."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [header, data, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


@pytest.mark.parametrize("side", [9_500, 30_000])
@pytest.mark.parametrize("warnings", ["error", "ignore"])
def test_decompression_bombs(store, side, warnings):
    """Whether Pillow's warning is an error or not."""
    assert side**2 > MAX_SOURCE_PIXELS
    with catch_warnings():
        simplefilter(warnings)
        assert reason_of(store, claiming(side, side)) == "image_too_large"


def test_a_header_that_claims_more_than_there_is(store):
    assert reason_of(store, claiming(2_000, 2_000)) == "image_broken"


@pytest.mark.parametrize("size", [(309, 24), (24, 309), (27, 100), (1, 1)])
def test_what_the_processor_enlarges_is_stored_as_it_is(store, size):
    ref = store.put(encoded(Image.new("RGB", size), "PNG"))
    assert (ref.width, ref.height) == size


def test_a_picture_of_which_shrinking_leaves_no_side(store):
    assert reason_of(store, encoded(Image.new("RGB", (28, 3000)), "PNG")) == "image_too_thin"


def test_an_aspect_ratio_that_processors_refuse(tmp_path):
    store = ImageStore(tmp_path / "images", 28 * 28 * 16384)
    assert reason_of(store, encoded(Image.new("RGB", (28, 28 * 200 + 1)), "PNG")) == "image_too_thin"
    assert store.put(encoded(Image.new("RGB", (28, 28 * 200)), "PNG")).height == 5600


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@given(data=st.binary(max_size=300), kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_bytes_that_nobody_made_are_stored_or_rejected(tmp_path_factory, data, kind):
    store = ImageStore(tmp_path_factory.mktemp("fuzz"), MAX_PIXELS)
    start = encoded(corners(), kind)[:200]
    for attempt in (data, start + data, start[:20] + data):
        assert outcome(store, attempt).startswith(("image_", "stored"))


# --- The perceptual hash --------------------------------------------------------------------------------------------


def distance(first, second):
    return (int(first, 16) ^ int(second, 16)).bit_count()


def blobs(seed):
    grid = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8))
    return grid.resize((240, 240), Image.Resampling.BICUBIC).convert("RGB")


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_survives_resizing_and_encoding(seed):
    picture = blobs(seed)
    smaller = picture.resize((100, 90), Image.Resampling.LANCZOS)
    again = Image.open(io.BytesIO(encoded(picture, "JPEG", quality=40)))
    brighter = picture.point(lambda value: min(255, int(value * 1.1)))
    for changed in (smaller, again, brighter):
        assert distance(phash(picture), phash(changed)) <= 8
    assert distance(phash(picture), phash(blobs(seed + 100))) > 16


def test_a_flat_picture_hashes_to_its_mean_alone():
    assert phash(Image.new("RGB", (50, 50), GREY)) == phash(Image.new("L", (90, 30), 7)) == "8000000000000000"
    assert phash(Image.new("L", (50, 50), 0)) == "0000000000000000"
