"""Videos: frames with times, sampled and resized as the reference does, shown pair by pair.

Two frames that follow each other make one picture of the tower, and the time of the pair stands
before it as text: `<1.5 seconds>`. The vision markers are around each pair only; transformers 5.23
writes one more pair of them around the whole video, which the models were not trained on. Its
`cap_pixels_per_frame`, which is off unless asked for, is not applied: see `max_pixels`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ImageInvalid
from .load import DEFAULT_LIMITS, MAX_ASPECT, Limits, Pixels, Source, open_picture
from .prompt import Picture, View
from .resize import CELL, MAX_PIXELS, Budget, Preset, budget_of, fit

FPS = 2.0  # frames of a second of video that the model looks at
MIN_FRAMES, MAX_FRAMES = 4, 768


@dataclass(frozen=True)
class Video:
    """Frames, each a picture in any form, and their times in seconds, ascending.

    Frames may differ in size; all are stretched to that of the first. At most 768 are taken.
    `min_pixels` and `max_pixels` are as for VideoFile.
    """

    frames: Sequence[Source]
    times: Sequence[float]
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)
        if len(self.frames) != len(self.times):
            raise ImageInvalid(f"{len(self.frames)} frames and {len(self.times)} times")
        if not 1 <= len(self.frames) <= MAX_FRAMES:
            raise ImageInvalid(
                f"a video of {len(self.frames)} frames: expected 1 to {MAX_FRAMES}",
                hint="sample fewer frames a second",
            )
        ascending = all(a <= b for a, b in zip(self.times, self.times[1:], strict=False))
        if not ascending or not all(math.isfinite(t) and t >= 0 for t in self.times):
            raise ImageInvalid("times of frames must be seconds from 0 on, ascending")


@dataclass(frozen=True)
class VideoFile:
    """A video file (needs the extra `video`) and how closely to look at it.

    Args:
        path: the file.
        fps: frames to look at in a second of video. At least 4 and at most 768 are taken, evenly
            spread, so that of long videos fewer are seen.
        min_pixels: of a frame after resizing, within what the budget leaves to all together.
        max_pixels: likewise.
    """

    path: str | os.PathLike[str]
    fps: float = FPS
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)
        if not 0 < self.fps <= 1000:
            raise ImageInvalid(f"fps must be above 0 and at most 1000, not {self.fps!r}")


def _check_sizes(video: Video | VideoFile) -> None:
    least, most = video.min_pixels, video.max_pixels
    given = [size for size in (least, most) if size is not None]
    if any(size < CELL * CELL for size in given) or given != sorted(given):
        raise ImageInvalid(
            f"frames of {least} to {most} pixels: expected {CELL * CELL:,} <= min_pixels <= "
            "max_pixels"
        )


@dataclass(frozen=True)
class Volume:
    """Least and most pixels of the frames of a video: of all together, and of each if given."""

    least: int
    most: int
    min_pixels: int | None = None
    max_pixels: int | None = None

    @classmethod
    def of(cls, budget: Budget, video: Video | VideoFile) -> Volume:
        """What a budget leaves to a video."""
        least, most = budget.min_video_pixels, budget.max_video_pixels
        return cls(least, most, video.min_pixels, video.max_pixels)

    def of_all(self, frames: int) -> tuple[int, int]:
        """Of a number of frames together."""
        each = MAX_PIXELS if self.max_pixels is None else min(MAX_PIXELS, self.max_pixels)
        most = min(self.most, frames * each)
        return min(most, max(self.least, frames * (self.min_pixels or 0))), most


def frame_size(frames: int, height: int, width: int, volume: Volume) -> tuple[int, int]:
    """Height and width that every frame is stretched to; the reference's rule for videos."""
    least, most = volume.of_all(frames)
    if height < CELL or width < CELL:
        scale = max(CELL / height, CELL / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ImageInvalid(f"frames of {width} x {height} pixels: too long and thin")
    rows, columns = round(height / CELL) * CELL, round(width / CELL) * CELL
    even = round(frames / 2) * 2
    if even * rows * columns > most:
        beta = math.sqrt(frames * height * width / most)
        rows = max(CELL, math.floor(height / beta / CELL) * CELL)
        columns = max(CELL, math.floor(width / beta / CELL) * CELL)
    elif even * rows * columns < least:
        beta = math.sqrt(least / (frames * height * width))
        rows, columns = (math.ceil(side * beta / CELL) * CELL for side in (height, width))
    return rows, columns


def sample(total: int, video_fps: float, fps: float = FPS) -> list[int]:
    """Indices of the frames to look at, of `total` frames at `video_fps` a second."""
    count = int(total / video_fps * fps)
    count = min(max(count, MIN_FRAMES), MAX_FRAMES, total)
    return [int(i) for i in np.linspace(0, total - 1, count).round()]


def video_parts(
    source: Any, budget: Budget | Preset = "default", limits: Limits = DEFAULT_LIMITS
) -> list[tuple[str, View]]:
    """What a video is shown as: the time of each pair of frames as text, and the pair.

    Frames of a file are decoded when the tower needs them, so a file that is damaged further on
    raises ImageInvalid only there.

    Args:
        source: a Video, a VideoFile or the path of one, or a sequence of pictures, which count as
            two a second.
        budget: how many pixels all frames together may have, see Budget.
        limits: of each frame.
    """
    sizes = budget_of(budget)
    video = as_video(source)
    if isinstance(video, VideoFile):
        from .film import Film, FilmPair

        film = Film(video.path, Volume.of(sizes, video), video.fps)
        return [(_stamp(film.time(i)), FilmPair(film, i)) for i in range(len(film))]
    frames, times = _opened(video, Volume.of(sizes, video), limits)
    if len(frames) % 2:
        frames, times = [*frames, frames[-1]], [*times, times[-1]]
    return [
        (_stamp((times[i] + times[i + 1]) / 2), Picture(frames[i], frames[i + 1]))
        for i in range(0, len(frames), 2)
    ]


def _stamp(seconds: float) -> str:
    return f"<{seconds:.1f} seconds>"


def as_video(
    source: Any,
    *,
    fps: float | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Video | VideoFile:
    """A video in any form of video_parts, with some of its settings replaced.

    fps: frames to look at in a second of a file, or those that a second of a sequence has.
    """
    video = _any_video(source, fps)
    least = video.min_pixels if min_pixels is None else min_pixels
    most = video.max_pixels if max_pixels is None else max_pixels
    return dataclasses.replace(video, min_pixels=least, max_pixels=most)


def _any_video(source: Any, fps: float | None) -> Video | VideoFile:
    if isinstance(source, str | os.PathLike):
        return VideoFile(source, FPS if fps is None else fps)
    if isinstance(source, VideoFile):
        return source if fps is None else dataclasses.replace(source, fps=fps)
    if isinstance(source, Video):
        if fps is not None:
            raise ImageInvalid("fps: a vision.Video has times of its own")
        return source
    if isinstance(source, bytes | bytearray | memoryview) or not isinstance(source, Sequence):
        raise ImageInvalid(
            f"a video cannot be made from {type(source).__name__}",
            hint="pass a path, a vision.VideoFile, a vision.Video or a list of pictures, two for "
            "each second",
        )
    return Video(source, [index / (fps or FPS) for index in range(len(source))])


def _opened(video: Video, volume: Volume, limits: Limits) -> tuple[list[Pixels], list[float]]:
    first = open_picture(video.frames[0], limits)
    height, width, _ = first.shape
    size = frame_size(max(2, len(video.frames)), height, width, volume)
    frames = [fit(first, *size)]
    frames += [fit(open_picture(frame, limits), *size) for frame in video.frames[1:]]
    return frames, [float(time) for time in video.times]
