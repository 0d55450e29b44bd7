"""A video becomes a few frames, each with the time at which it is shown.

The file is read once without decoding. That gives the true time of every frame, also with a variable frame rate, and
the frames at which decoding can start; then only what leads to wanted frames is decoded. A folder of frames, cut at a
known rate, is sampled by the same rule.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from PIL import Image

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.tokens import QWEN2_5_VL
from cinema_verl.prepare.media.images import MAX_SOURCE_PIXELS, shrunk_size
from cinema_verl.prepare.media.paths import resolve

if TYPE_CHECKING:
    from av.codec import CodecContext
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_Size = Callable[[int, int], tuple[int, int]]

# Our choice: containers that say when each frame is shown. Playlists (HLS, DASH, concat) are not among them: they would
# make libav open other files, and URLs.
_OPTIONS: Final = {
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif",
    "protocol_whitelist": "file",
}
_MAY_LACK: Final = 1.0
"""Seconds by which a file may be shorter than it says: durations are rounded, and streams end apart."""
_ROUNDING: Final = 5e-4
"""Seconds by which a frame may come after the time that it is asked for: Matroska rounds to whole milliseconds."""
_MAX_REORDER: Final = 16
"""Frames of H.264 and H.265 that can be decoded before one that is shown earlier."""
_TURNS: Final = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
_FRAME_FILES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a video file.

    Attributes:
        images: RGB, upright.
        times: Seconds from the file's first frame to each.
        fps: Average frames a second of the file.
    """

    images: list[Image.Image]
    times: tuple[float, ...]
    fps: float


@dataclass(frozen=True, slots=True)
class FolderFrames:
    """Frames that are files already: `ImageStore.put` their bytes, so that they are not encoded a second time.

    Attributes:
        paths: The files, in order.
        times: Seconds from the folder's first frame to each.
        fps: The rate of the folder.
    """

    paths: list[Path]
    times: tuple[float, ...]
    fps: float


def sample_frames(
    path: Path,
    *,
    count: int | None = None,
    fps: float | None = None,
    max_frames: int,
    start: float | None = None,
    end: float | None = None,
    to_end: bool = False,
    max_pixels: int | None = None,
    factor: int = QWEN2_5_VL.factor,
) -> Frames:
    """Frames of a video file, by `sample_times`: those that a viewer would see at these times.

    Fewer frames come back where one frame is shown at several of the times.

    Args:
        path: A file that was checked (`cinema_verl.prepare.media.paths.resolve`).
        count, fps, max_frames: As in `sample_times`.
        start, end, to_end: As in `sample_times`; None for the whole file.
        max_pixels: Area that frames are shrunk to while they are converted. It bounds the memory: the frames that are
            returned, and a few that the decoder holds, are all that is ever there.
        factor: As in `images.shrunk_size`.

    Raises:
        Rejected: ``video_format``, ``video_broken``, ``video_no_frames``, or ``image_too_large``.
        OSError: the file cannot be read.
        ImportError: PyAV is not installed.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        shown = _index(container, stream)
    times = sample_times(shown.length, count=count, fps=fps, max_frames=max_frames, start=start, end=end, to_end=to_end)
    # The last frame that is shown at or before each time.
    seconds = (shown.pts - shown.pts[0]) * shown.tick
    picked = np.unique(np.searchsorted(seconds, np.asarray(times) + _ROUNDING, side="right") - 1)
    wanted = [int(shown.pts[i]) for i in picked]

    def to_size(width: int, height: int) -> tuple[int, int]:
        if max_pixels is None:
            return width, height
        columns, rows = shrunk_size(width, height, max_pixels, factor)
        return max(1, columns), max(1, rows)

    images = _decode(path, wanted, shown.keys, to_size)
    if images is None:  # some demuxers seek to another frame than the one asked for: decode from the start
        images = _decode(path, wanted, shown.keys[:1], to_size)
    if images is None:
        raise Rejected("video_broken", f"{path.name}: a frame that the file lists cannot be decoded")
    return Frames(images, tuple(float(seconds[i]) for i in picked), len(shown.pts) / shown.length)


def sample_folder(
    folder: Path,
    *,
    folder_fps: float,
    count: int | None = None,
    fps: float | None = None,
    max_frames: int,
    start: float | None = None,
    end: float | None = None,
    to_end: bool = False,
) -> FolderFrames:
    """Frames of a folder of pictures, in natural order (``2.jpg`` before ``10.jpg``), by `sample_times`.

    Args:
        folder_fps: Frames a second that the folder was cut at.
        count, fps, max_frames, start, end: As in `sample_times`.

    Raises:
        Rejected: ``video_no_frames``: no picture in the folder, or in the part that is asked for; ``path_outside``: a
            picture is a link that points out of the folder.
        OSError: the folder cannot be read.
    """
    names = sorted((entry.name for entry in folder.iterdir() if entry.suffix.lower() in _FRAME_FILES), key=_natural)
    if not names:
        raise Rejected("video_no_frames", f"{folder.name}: no {', '.join(sorted(_FRAME_FILES))} in this folder")
    length = len(names) / folder_fps
    times = sample_times(length, count=count, fps=fps, max_frames=max_frames, start=start, end=end, to_end=to_end)
    picked = sorted({min(len(names) - 1, int(time * folder_fps + 1e-6)) for time in times})
    paths = [resolve(folder, names[i]) for i in picked]
    return FolderFrames(paths, tuple(i / folder_fps for i in picked), folder_fps)


def sample_times(
    length: float,
    *,
    count: int | None = None,
    fps: float | None = None,
    max_frames: int,
    start: float | None = None,
    end: float | None = None,
    to_end: bool = False,
) -> list[float]:
    """Seconds at which to look at a video: evenly spread, or at a rate.

    With `count`, the middles of as many equal parts, so that neither a black first frame nor the very end is taken (our
    choice). With `fps`, from `start` on, one every ``1 / fps`` seconds; where these are more than `max_frames`, that
    many, evenly spread, as qwen_vl_utils does.

    Args:
        length: Seconds of the video.
        count, fps: One of the two.
        max_frames: Upper limit of either.
        start, end: The part to look at; cut to the video's length.
        to_end: Whether the very end is one of the times, for questions about what a video ends with.

    Raises:
        Rejected: ``video_no_frames``: nothing lies between `start` and `end`.
        ValueError: neither or both of `count` and `fps`, or one that is not positive.
    """
    if (count is None) == (fps is None) or min(x for x in (count, fps, max_frames) if x is not None) <= 0:
        raise ValueError(f"give count or fps, and positive: count {count}, fps {fps}, max_frames {max_frames}")
    first, last = max(0.0, start or 0.0), min(length, math.inf if end is None else end)
    if not first < last:
        raise Rejected("video_no_frames", f"nothing from {start} to {end} s of a video of {length:.3f} s")
    if fps is not None:
        number = max(1, math.ceil((last - first) * fps - 1e-6))
        if number + to_end <= max_frames:
            return [first + i / fps for i in range(number)] + [last] * to_end
    number = min(count or max_frames, max_frames) - to_end
    return [first + (i + 0.5) * (last - first) / number for i in range(number)] + [last] * to_end


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """The opened file; errors of libav become rejections."""
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'cinema-verl[data]'") from error
    with open(path, "rb"):
        pass  # a file that may not be opened is no broken video
    try:
        container = av.open(str(path), options=_OPTIONS, metadata_errors="replace")  # tags of any encoding
    except av.FFmpegError as error:
        raise Rejected("video_format", f"{path.name}: {error.strerror}") from error
    with container:
        try:
            yield container
        except av.FFmpegError as error:
            raise Rejected("video_broken", f"{path.name}: {error.strerror}") from error


def _video_stream(container: InputContainer) -> VideoStream:
    from av.stream import Disposition

    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of an audio file
        raise Rejected("video_format", "there is no video in it")
    if cast("CodecContext | None", stream.codec_context) is None:
        raise Rejected("video_format", "nothing here decodes its codec")
    if (
        container.format.name == "avi"
        and stream.codec_context.name in ("h264", "hevc")
        and stream.codec_context.has_b_frames
    ):
        raise Rejected("video_format", "H.264 with B-frames in AVI, which cannot say when they are shown")
    size = stream.codec_context.width, stream.codec_context.height
    if size[0] * size[1] > MAX_SOURCE_PIXELS:
        raise Rejected("image_too_large", f"frames of {size[0]}x{size[1]} px are over {MAX_SOURCE_PIXELS} pixels")
    # One core a file: the pipeline's workers already take them all.
    stream.thread_type = "NONE"
    return stream


@dataclass(frozen=True, slots=True)
class _Index:
    """When the frames of a stream are shown.

    Attributes:
        pts: int64 (N,), ascending, in ticks: one for each frame that can be shown.
        keys: int64 (K,), ascending, in ticks: the frames at which decoding can start.
        tick: Seconds.
        length: Seconds from the first frame to the end of the last.
    """

    pts: np.ndarray
    keys: np.ndarray
    tick: float
    length: float


def _index(container: InputContainer, stream: VideoStream) -> _Index:
    """Read all packets of the file, and decode none."""
    if container.format.name == "gif" and not _is_whole_gif(container.name):
        raise Rejected("video_broken", "a GIF without an end")
    pts, keys = array("q"), array("q")
    shown_until = 0  # ticks
    begin, finish = math.inf, -math.inf  # seconds, over all streams: the file's stated duration is that of the longest
    for packet in container.demux():
        if not packet.size:
            continue  # what demux() ends with, and "the same frame again" in AVI
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None:
            begin = min(begin, float(time * packet.time_base))
            finish = max(finish, float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index or packet.is_discard:
            continue
        if packet.is_corrupt:
            raise Rejected("video_broken", f"truncated or damaged after {len(pts)} frames")
        if packet.pts is None:
            raise Rejected("video_format", f"{container.format.name} without a time for each frame")
        if packet.is_keyframe:
            keys.append(packet.pts)
        if keys:
            pts.append(packet.pts)
            shown_until = max(shown_until, packet.pts + (packet.duration or 0))
    if not pts:
        raise Rejected("video_broken", "no frame at which decoding could start")
    stated, lasts = (container.duration or 0) / 1e6, finish - begin
    if "matroska" in container.format.name:
        lasts = finish  # its stated length begins at 0, whenever its first frame does
    if stated - lasts > _MAY_LACK:
        raise Rejected("video_broken", f"ends after {lasts:.1f} s of the {stated:.1f} s that it states")
    tick = float(stream.time_base or 1)
    ordered = np.unique(np.frombuffer(pts, dtype=np.int64))
    length = (shown_until - int(ordered[0])) * tick
    if shown_until <= ordered[-1]:  # nothing says how long the last frame is shown
        length += float(1 / stream.average_rate) if stream.average_rate else tick
    return _Index(ordered, np.unique(np.frombuffer(keys, dtype=np.int64)), tick, length)


def _is_whole_gif(path: str) -> bool:
    """A GIF does not state its length; it ends with a semicolon, which some writers pad with zeros."""
    with open(path, "rb") as file:
        file.seek(-min(64, file.seek(0, 2)), 2)
        return file.read().rstrip(b"\0").endswith(b";")


def _decode(path: Path, wanted: Sequence[int], keys: np.ndarray, to_size: _Size) -> list[Image.Image] | None:
    """The frames with these times (ascending, in ticks), or None where one of them does not come out.

    Args:
        keys: Frames that may be seeked to; a seek is made only where it skips something.
        to_size: (width, height) to give a frame of (width, height).
    """
    found: dict[int, Image.Image] = {}
    with _open(path) as container:
        stream = _video_stream(container)
        frames = container.decode(stream)
        key = position = int(keys[0])
        for target in wanted:
            nearest = int(keys[max(0, int(np.searchsorted(keys, target, side="right")) - 1)])
            if nearest > position:
                key = position = nearest
                container.seek(key, stream=stream)
                frames = container.decode(stream)
            late = 0
            while target not in found:
                frame = next(frames, None)
                if frame is None or late > _MAX_REORDER:
                    return None
                if frame.pts is None:
                    continue
                if frame.is_corrupt and frame.pts >= key:
                    raise Rejected("video_broken", f"{path.name}: damaged at tick {frame.pts}")
                position = max(position, frame.pts)
                late += frame.pts > target
                if frame.pts in wanted:
                    found[frame.pts] = _to_image(frame, to_size)
    return [found[target] for target in wanted]


def _to_image(frame: VideoFrame, to_size: _Size) -> Image.Image:
    """RGB, upright by the file's display matrix, in the size that `to_size` gives."""
    width, height = frame.width, frame.height
    if width * height > MAX_SOURCE_PIXELS:
        raise Rejected("image_too_large", f"a frame of {width}x{height} px is over {MAX_SOURCE_PIXELS} pixels")
    width, height = to_size(width, height)
    image = frame.to_image(width=width, height=height, interpolation="LANCZOS")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return image.transpose(_TURNS[turns]) if turns else image


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts ``2.jpg`` before ``10.jpg``."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
