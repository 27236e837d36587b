"""Videos: frames with times, sampled and resized as the reference does, shown pair by pair.

Two frames that follow each other make one picture of the tower, and the time of the pair stands
before it as text: `<1.5 seconds>`. The vision markers are around each pair only; transformers 5.23
writes one more pair of them around the whole video, which the models were not trained on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ImageInvalid
from .load import DEFAULT_LIMITS, MAX_ASPECT, Limits, Pixels, Source, open_picture
from .prompt import Picture, View
from .resize import CELL, Preset, fit

FPS = 2.0  # frames of a second of video that the model looks at
MIN_FRAMES, MAX_FRAMES = 4, 768
MIN_VOLUME = 4_096  # pixels of all frames together
# Most pixels of all frames together: 2,048 are one token, because two frames share it.
VOLUMES: dict[Preset, int] = {
    "fast": 1_024 * 2 * CELL * CELL,
    "default": 25_165_824,
    "grounding": 25_165_824,
}


@dataclass(frozen=True)
class Video:
    """Frames, each a picture in any form, and their times in seconds, ascending.

    Frames may differ in size; all are stretched to that of the first. At most 768 are taken.
    """

    frames: Sequence[Source]
    times: Sequence[float]

    def __post_init__(self) -> None:
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
    """

    path: str | os.PathLike[str]
    fps: float = FPS

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise ImageInvalid(f"fps must be above 0 and at most 1000, not {self.fps!r}")


def frame_size(frames: int, height: int, width: int, max_volume: int) -> tuple[int, int]:
    """Height and width that every frame is stretched to; the reference's rule for videos."""
    if height < CELL or width < CELL:
        scale = max(CELL / height, CELL / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ImageInvalid(f"frames of {width} x {height} pixels: too long and thin")
    rows, columns = round(height / CELL) * CELL, round(width / CELL) * CELL
    even = round(frames / 2) * 2
    if even * rows * columns > max_volume:
        beta = math.sqrt(frames * height * width / max_volume)
        rows = max(CELL, math.floor(height / beta / CELL) * CELL)
        columns = max(CELL, math.floor(width / beta / CELL) * CELL)
    elif even * rows * columns < MIN_VOLUME:
        beta = math.sqrt(MIN_VOLUME / (frames * height * width))
        rows, columns = (math.ceil(side * beta / CELL) * CELL for side in (height, width))
    return rows, columns


def sample(total: int, video_fps: float, fps: float = FPS) -> list[int]:
    """Indices of the frames to look at, of `total` frames at `video_fps` a second."""
    count = int(total / video_fps * fps)
    count = min(max(count, MIN_FRAMES), MAX_FRAMES, total)
    return [int(i) for i in np.linspace(0, total - 1, count).round()]


def video_parts(
    source: Any, budget: Preset = "default", limits: Limits = DEFAULT_LIMITS
) -> list[tuple[str, View]]:
    """What a video is shown as: the time of each pair of frames as text, and the pair.

    Frames of a file are decoded when the tower needs them, so a file that is damaged further on
    raises ImageInvalid only there.

    Args:
        source: a Video, a VideoFile or the path of one, or a sequence of pictures, which count as
            two a second.
        budget: how many pixels all frames together may have.
        limits: of each frame.
    """
    if isinstance(source, str | os.PathLike):
        source = VideoFile(source)
    if isinstance(source, VideoFile):
        from .film import Film, FilmPair

        film = Film(source.path, VOLUMES[budget], source.fps)
        return [(_stamp(film.time(i)), FilmPair(film, i)) for i in range(len(film))]
    frames, times = _opened(_as_video(source), VOLUMES[budget], limits)
    if len(frames) % 2:
        frames, times = [*frames, frames[-1]], [*times, times[-1]]
    return [
        (_stamp((times[i] + times[i + 1]) / 2), Picture(frames[i], frames[i + 1]))
        for i in range(0, len(frames), 2)
    ]


def _stamp(seconds: float) -> str:
    return f"<{seconds:.1f} seconds>"


def _as_video(source: Any) -> Video:
    if isinstance(source, Video):
        return source
    if isinstance(source, bytes | bytearray | memoryview) or not isinstance(source, Sequence):
        raise ImageInvalid(
            f"a video cannot be made from {type(source).__name__}",
            hint="pass a path, a vision.VideoFile, a vision.Video or a list of pictures, two for "
            "each second",
        )
    return Video(source, [index / FPS for index in range(len(source))])


def _opened(video: Video, max_volume: int, limits: Limits) -> tuple[list[Pixels], list[float]]:
    first = open_picture(video.frames[0], limits)
    height, width, _ = first.shape
    size = frame_size(max(2, len(video.frames)), height, width, max_volume)
    frames = [fit(first, *size)]
    frames += [fit(open_picture(frame, limits), *size) for frame in video.frames[1:]]
    return frames, [float(time) for time in video.times]
