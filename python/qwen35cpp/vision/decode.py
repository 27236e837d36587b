"""Reads the frames of a video file in a process of its own.

Video decoders are large and parse whatever a file holds; one that crashes, hangs or eats memory
must not take the caller's process along. So film.py starts this module as a program, which samples,
decodes and resizes, and writes to a pipe:

    one line of JSON: {"height": ..., "width": ..., "times": [...]}, then for each frame a byte F
    and its RGB bytes; instead of either, {"error": ...} on a line, behind a byte E after the first
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import IO, Any

from ..errors import ImageInvalid

MAX_SECONDS = 2 * 3600  # of video
MAX_SIDE = 8192  # pixels of a frame before resizing
_MEMORY = 4 << 30  # address space of the decoding process
_SEEK = 4.0  # without an index of key frames: seconds ahead from which on seeking beats decoding
_REORDERED = 4  # frames by which an index of decoding times may be off the times of showing


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


class _KeyFrames:
    """Where decoding may start."""

    def __init__(self, stream: Any) -> None:
        self._entries = stream.index_entries
        self._base = float(stream.time_base)
        self._indexed = len(self._entries) > 0

    def helps(self, now: float, wanted: float) -> bool:
        """Whether to seek instead of decoding on from `now`; both in the stream's seconds."""
        if not self._indexed:
            return wanted - now > _SEEK
        at = self._entries.search_timestamp(int(wanted / self._base))
        return at >= 0 and float(self._entries[at].timestamp) * self._base > now


def _frames(container: Any, stream: Any, times: list[float]) -> Iterator[Any]:
    """The frame shown at each of the times, ascending."""
    start = float((stream.start_time or 0) * stream.time_base)
    period = 1 / float(stream.average_rate)
    keys = _KeyFrames(stream)
    decoded = container.decode(stream)
    frame = next(decoded)
    for time in times:
        before = time + start - _REORDERED * period
        if keys.helps(float(frame.time or 0), before):
            container.seek(int(before / stream.time_base), stream=stream, backward=True)
            decoded = container.decode(stream)
        while float(frame.time or 0) < time + start - period / 2:
            following = next(decoded, None)
            if following is None:
                break
            frame = following
        yield frame


def _total_frames(container: Any, stream: Any) -> int:
    rate = float(stream.average_rate)
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1e6
    else:
        seconds = stream.frames / rate
    if seconds > MAX_SECONDS:
        raise ImageInvalid(f"the video lasts {seconds:,.0f} seconds, at most {MAX_SECONDS:,}")
    return int(stream.frames or round(seconds * rate))


def _send(path: str, limits: dict[str, Any], fps: float, out: IO[bytes]) -> Iterator[None]:
    """Writes the answer; yields after each frame."""
    import av

    from .resize import fit
    from .video import Volume, frame_size, sample

    with av.open(path) as container:
        if not container.streams.video:
            raise ImageInvalid("the file has no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not 0 < rate <= 1000:
            raise ImageInvalid(f"the video has {rate:g} frames a second")
        if not 0 < stream.width <= MAX_SIDE or not 0 < stream.height <= MAX_SIDE:
            raise ImageInvalid(f"frames of {stream.width} x {stream.height} pixels")
        total = _total_frames(container, stream)
        if total < 1:
            raise ImageInvalid("the video has no frames")
        indices = sample(total, rate, fps)
        times = [index / rate for index in indices]
        volume = Volume(**limits)
        size = frame_size(max(2, len(indices)), stream.height, stream.width, volume)
        head = {"height": size[0], "width": size[1], "times": times}
        for number, frame in enumerate(_frames(container, stream, times)):
            pixels = fit(frame.to_ndarray(format="rgb24"), *size)
            if not number:
                out.write(json.dumps(head).encode() + b"\n")
            out.write(b"F" + pixels.tobytes())
            out.flush()
            yield


def main() -> None:
    """`python -m qwen35cpp.vision.decode PATH VOLUME FPS`; see the head of the file."""
    path, limits, fps = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
    _limit_memory()
    out = sys.stdout.buffer
    answer: dict[str, str] = {}
    sent = 0
    try:
        for _ in _send(path, limits, fps, out):
            sent += 1
    except ImportError as error:
        answer = {"error": f"reading video files needs PyAV: {error}", "kind": "extra"}
    except BrokenPipeError:
        return
    except Exception as error:  # a decoder's errors are of many kinds
        answer = {"error": str(error)[:500] or type(error).__name__}
    if answer:
        out.write((b"E" if sent else b"") + json.dumps(answer).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
