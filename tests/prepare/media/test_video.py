"""Videos written here, whose frame i is plain grey of level 8 i: what was sampled can be read off the pictures."""

import struct
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.media.video import sample_folder, sample_frames, sample_times

av = pytest.importorskip("av")

STEP = 8  # grey levels between frames: above what codecs lose
WIDTH, HEIGHT = 64, 48


def write(path, codec="libx264", frames=30, *, rate=10, milliseconds=None, paint=None, options=None, b_frames=2):
    """A video of `frames` frames at `rate`, or with the times in `milliseconds`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if milliseconds else rate, options=options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = b_frames
        if codec == "mpeg4":
            stream.codec_context.options = {"qmin": "1", "qmax": "2"}  # or neighbours look alike
        for number in range(frames):
            pixels = paint(number) if paint else np.full((HEIGHT, WIDTH, 3), STEP * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = milliseconds[number] if milliseconds else number
            frame.time_base = Fraction(1, 1000 if milliseconds else rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noise(number):
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def shown(frames):
    """Which frames the pictures are, read off their grey."""
    return [round(float(np.asarray(image).mean()) / STEP) for image in frames.images]


def sample(path, **how):
    return sample_frames(path, **{"max_frames": 64, **how})


def reason_of(path, **how):
    with pytest.raises(Rejected) as rejected:
        sample(path, **({"count": 4} | how))
    return rejected.value.reason


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds, ten frames a second."""
    return write(tmp_path_factory.mktemp("video") / "clip.mp4")


# --- Which frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("x.mp4", "libx264"),
        ("x.mp4", "mpeg4"),
        ("x.mov", "libx264"),
        ("x.mkv", "libx264"),
        ("x.ts", "libx264"),
        ("x.webm", "libvpx"),
        ("x.webm", "libvpx-vp9"),
        ("x.avi", "mpeg4"),
        ("x.avi", "mjpeg"),
        ("x.flv", "flv1"),
        ("x.wmv", "wmv2"),
        ("x.gif", "gif"),
    ],
)
def test_evenly_from_every_container(tmp_path, name, codec):
    """Five equal parts of three seconds have their middles at 0.3, 0.9, 1.5, 2.1 and 2.7 s."""
    frames = sample(write(tmp_path / name, codec), count=5)
    assert shown(frames) == [3, 9, 15, 21, 27]
    assert frames.times == pytest.approx((0.3, 0.9, 1.5, 2.1, 2.7), abs=2e-3)
    assert frames.fps == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("name", ["x.avi", "x.mkv", "x.mp4"])
def test_each_frame_can_be_had(tmp_path, name):
    """Also where a tick of the file is as long as a frame (AVI), or times are rounded to milliseconds (Matroska)."""
    path = write(tmp_path / name, "mpeg4", rate=30, b_frames=0)
    assert shown(sample(path, count=30)) == list(range(30))
    assert shown(sample(path, fps=30)) == list(range(30))
    assert shown(sample(path, fps=15)) == list(range(0, 30, 2))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"fps": 2}, [0, 5, 10, 15, 20, 25]),
        ({"fps": 1}, [0, 10, 20]),
        ({"fps": 0.1}, [0]),
        ({"fps": 10, "max_frames": 3}, [5, 15, 25]),  # too many: as many as allowed, evenly
        ({"count": 64, "max_frames": 3}, [5, 15, 25]),
        ({"count": 1}, [15]),
        ({"count": 2, "start": 1, "end": 2}, [12, 17]),
        ({"fps": 5, "start": 1, "end": 2}, [10, 12, 14, 16, 18]),
        ({"count": 2, "start": 2.0}, [22, 27]),
        ({"count": 2, "end": 1.0}, [2, 7]),
        ({"count": 2, "start": -5, "end": 99}, [7, 22]),  # cut to the video
    ],
)
def test_frames_of_a_part_and_at_a_rate(clip, how, expected):
    frames = sample(clip, **how)
    assert shown(frames) == expected
    assert frames.times == pytest.approx([number / 10 for number in expected])


def test_long_stretches_between_key_frames_and_short_ones(tmp_path):
    for gop in (1, 4, 250):
        path = write(tmp_path / f"{gop}.mp4", options={"g": str(gop)})
        assert shown(sample(path, count=30)) == list(range(30))
        assert shown(sample(path, count=3)) == [5, 15, 25]


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_a_variable_rate_is_sampled_by_time(tmp_path, name):
    """What a viewer sees then; a frame that is still there is not taken twice."""
    path = write(tmp_path / name, frames=6, milliseconds=[0, 100, 200, 1000, 1100, 2000])
    at_rate = sample(path, fps=2, end=2.0)  # at 0, 0.5, 1 and 1.5 s
    assert shown(at_rate) == [0, 2, 3, 4]
    assert at_rate.times == pytest.approx((0.0, 0.2, 1.0, 1.1))
    even = sample(path, count=4, end=2.0)  # at 0.25, 0.75, 1.25 and 1.75 s
    assert shown(even) == [2, 4]
    assert even.times == pytest.approx((0.2, 1.1))


def test_a_file_that_does_not_begin_at_zero(tmp_path):
    path = write(tmp_path / "x.mkv", frames=10, milliseconds=[5000 + 100 * i for i in range(10)])
    frames = sample(path, count=2)
    assert frames.times[0] < 0.4
    assert shown(frames) == [round(time * 10) for time in frames.times]


# --- What the pictures are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [  # (a, b, c, d) of the track's matrix, and where the picture's left top corner is shown
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (1, 0)),  # a quarter clockwise
        ((-1, 0, 0, -1), (1, 1)),
        ((0, -1, 1, 0), (0, 1)),
    ],
)
def test_frames_are_upright(tmp_path, matrix, corner):
    def paint(number):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[: HEIGHT // 2, : WIDTH // 2] = 255
        return pixels

    path = write(tmp_path / "x.mp4", frames=4, paint=paint)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # type, version and flags, five times and ids, two reserved, layer … volume
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    (image,) = sample(path, count=1).images
    assert image.size == ((WIDTH, HEIGHT) if matrix[0] else (HEIGHT, WIDTH))
    quarter = (image.width * (1 + 2 * corner[0]) // 4, image.height * (1 + 2 * corner[1]) // 4)
    bright = np.asarray(image.convert("L")) > 128
    assert bright[quarter[1], quarter[0]]
    assert bright.mean() == pytest.approx(0.25, abs=0.02)


def test_frames_are_shrunk_to_the_cap(clip):
    (image,) = sample(clip, count=1, max_pixels=2400).images
    assert image.size == (56, 28)
    assert image.mode == "RGB"
    assert sample(clip, count=1, max_pixels=2400, factor=16).images[0].size == (48, 32)


# --- What cannot be sampled -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "options"),
    [("x.mp4", {}), ("y.mp4", {"movflags": "faststart"}), ("x.avi", {}), ("x.flv", {}), ("x.gif", {})],
)
def test_truncated_files(tmp_path, name, options, share):
    """An MP4 whose index comes first is a whole file to a careless reader."""
    codec = {"avi": "mpeg4", "flv": "flv1", "gif": "gif"}.get(name[2:], "libx264")
    path = tmp_path / name
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(number), format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert reason_of(path) in ("video_broken", "video_format")


def test_damage_in_the_middle(tmp_path):
    path = write(tmp_path / "x.mp4", paint=noise)
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 4, len(data) * 3 // 4):
        data[position] ^= 0x5A
    path.write_bytes(data)
    assert reason_of(path, count=30) == "video_broken"


def test_frames_above_any_picture(clip, monkeypatch):
    monkeypatch.setattr("cinema_verl.prepare.media.video.MAX_SOURCE_PIXELS", WIDTH * HEIGHT - 1)
    assert reason_of(clip) == "image_too_large"


def test_a_codec_that_nothing_decodes(clip):
    path = clip.with_name("unknown.mp4")
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    assert reason_of(path) == "video_format"


def test_tags_in_another_encoding_are_no_fault(clip, tmp_path):
    """Titles in Latin-1 are common."""
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container, av.open(str(clip)) as source:
        container.metadata["title"] = "caf#"
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    data = path.read_bytes()
    assert data.count(b"caf#") == 1
    path.write_bytes(data.replace(b"caf#", b"caf\xe9"))
    assert shown(sample(path, count=3)) == [5, 15, 25]


def test_a_sound_file(tmp_path):
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert reason_of(path) == "video_format"


def test_a_video_without_frames(tmp_path):
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    assert reason_of(path) == "video_format"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello" * 99,
        b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n",
        b"ffconcat version 1.0\nfile clip.mp4\n",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_no_video_or_names_another_file(clip, content):
    path = clip.with_name("other.mp4")
    path.write_bytes(content)
    assert reason_of(path) == "video_format"


def test_h264_with_b_frames_in_avi_has_no_times(tmp_path):
    assert reason_of(write(tmp_path / "x.avi")) == "video_format"
    assert shown(sample(write(tmp_path / "y.avi", b_frames=0), count=30)) == list(range(30))


@pytest.mark.parametrize("part", [{"start": 3.5}, {"start": 2, "end": 1}, {"end": 0.0}, {"end": -1.0}])
def test_a_part_without_frames(clip, part):
    assert reason_of(clip, **part) == "video_no_frames"


def test_a_file_that_is_not_there_is_no_broken_video(tmp_path):
    with pytest.raises(FileNotFoundError):
        sample(tmp_path / "none.mp4", count=1)


@settings(max_examples=60)
@given(
    name=st.sampled_from(["x.mp4", "x.mkv", "x.avi"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.floats(0.3, 1),
)
def test_damaged_files_are_sampled_or_rejected(tmp_path_factory, name, changes, keep):
    whole = tmp_path_factory.getbasetemp() / f"whole-{name}"
    if not whole.exists():
        write(whole, "mpeg4", frames=12)
    data = bytearray(whole.read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    path = whole.with_name(f"damaged-{name}")
    path.write_bytes(data[: int(keep * len(data))])
    with suppress(Rejected):
        frames = sample(path, count=3)
        assert 1 <= len(frames.images) == len(frames.times) <= 3


# --- Folders of frames ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for number in range(1, 13):  # 1.jpg … 12.jpg, in no order that a file system would keep
        Image.new("L", (WIDTH, HEIGHT), STEP * number).save(tmp_path / f"{number}.jpg")
    (tmp_path / "thumbs.db").write_text("no frame")
    return tmp_path


def test_a_folder_is_sampled_by_the_same_rule(folder):
    """Twelve frames at three a second are four seconds."""
    frames = sample_folder(folder, folder_fps=3, count=4, max_frames=64)
    assert [path.stem for path in frames.paths] == ["2", "5", "8", "11"]
    assert frames.times == pytest.approx((1 / 3, 4 / 3, 7 / 3, 10 / 3))
    assert frames.fps == 3
    part = sample_folder(folder, folder_fps=3, fps=3, start=1.0, end=2.0, max_frames=64)
    assert [path.stem for path in part.paths] == ["4", "5", "6"]
    assert len(sample_folder(folder, folder_fps=3, count=64, max_frames=64).paths) == 12


def test_folders_that_have_nothing(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Rejected, match="video_no_frames"):
        sample_folder(empty, folder_fps=3, count=4, max_frames=64)
    with pytest.raises(Rejected, match="video_no_frames"):
        sample_folder(folder, folder_fps=3, count=4, max_frames=64, start=5.0)


def test_a_frame_that_is_a_link_out_of_the_folder(tmp_path, folder):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "1.jpg").symlink_to(folder / "1.jpg")
    with pytest.raises(Rejected, match="path_outside"):
        sample_folder(inside, folder_fps=3, count=1, max_frames=64)


# --- Times ----------------------------------------------------------------------------------------------------------

seconds = st.floats(0, 1e5, allow_nan=False)


@given(
    length=st.floats(1e-3, 1e5),
    rate=st.one_of(
        st.integers(1, 200).map(lambda count: {"count": count}), st.floats(1e-3, 240).map(lambda fps: {"fps": fps})
    ),
    max_frames=st.integers(1, 200),
    start=st.none() | seconds,
    end=st.none() | seconds,
)
def test_times_are_sorted_inside_and_as_many_as_asked(length, rate, max_frames, start, end):
    first, last = start or 0.0, length if end is None else min(end, length)
    how = {**rate, "max_frames": max_frames, "start": start, "end": end}
    if first >= last:
        with pytest.raises(Rejected, match="video_no_frames"):
            sample_times(length, **how)
        return
    times = sample_times(length, **how)
    assert times == sorted(times)
    assert first <= times[0]
    assert times[-1] <= last
    if "count" in rate:
        assert len(times) == min(rate["count"], max_frames)
        gaps = np.diff([first, *times, last])  # half a part before the first and after the last
        np.testing.assert_allclose(gaps[1:-1], (last - first) / len(times), rtol=1e-6, atol=1e-9)
    else:
        asked = (last - first) * rate["fps"]
        assert len(times) <= max_frames
        assert len(times) == max_frames or asked - 1e-3 <= len(times) <= asked + 1


@pytest.mark.parametrize("how", [{}, {"count": 1, "fps": 1}, {"count": 0}, {"fps": 0}, {"count": 1, "max_frames": 0}])
def test_neither_both_or_none_of_count_and_rate(how):
    with pytest.raises(ValueError, match="give count or fps"):
        sample_times(1.0, **{"max_frames": 8, **how})
