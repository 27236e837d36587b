"""Reads the frames of a video file in a process of its own.

Video decoders are large and parse whatever a file holds; one that crashes, hangs or eats memory
must not take the caller's process along. So `read_video` starts this module as a program, which
samples, decodes and resizes, and reads its frames from a pipe:

    one line of JSON: {"height": ..., "width": ..., "times": [...]}, then the frames as RGB bytes,
    or {"error": ...}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import FileError, ImageInvalid, MissingExtra
from .load import Pixels

MAX_BYTES = 1 << 30  # of a file
MAX_SECONDS = 2 * 3600  # of video
MAX_SIDE = 8192  # pixels of a frame before resizing
DEADLINE = 600.0  # seconds that decoding may take
_MEMORY = 4 << 30  # address space of the decoding process
_SEEK = 4.0  # seconds between wanted frames from which on seeking beats decoding
_ENDED = "the decoder ended without an answer"


def read_video(
    path: str | os.PathLike[str], max_volume: int, deadline: float = DEADLINE
) -> tuple[list[Pixels], list[float]]:
    """Sampled frames, all of one size within `max_volume` pixels together, and their times.

    Raises:
        ImageInvalid: the file is no video, is damaged or exceeds a limit.
        FileError: the file cannot be read.
        MissingExtra: PyAV is not installed.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
    except (OSError, ValueError) as error:
        raise FileError(f"no video at {file}: {error}") from None
    if size > MAX_BYTES:
        raise ImageInvalid(f"the video has {size:,} bytes, at most {MAX_BYTES:,} are taken")
    command = [sys.executable, "-m", __spec__.name, str(file.resolve()), str(max_volume)]
    path_of_package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), path_of_package]))
    }
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as child:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            child.kill()

        clock = threading.Timer(deadline, give_up)
        clock.start()
        try:
            assert child.stdout is not None
            return _receive(child.stdout)
        except ImageInvalid:
            if late.is_set():
                raise ImageInvalid(
                    f"decoding the video took more than {deadline:.0f} seconds"
                ) from None
            raise
        finally:
            clock.cancel()
            child.kill()


def _receive(pipe: IO[bytes]) -> tuple[list[Pixels], list[float]]:
    line = pipe.readline(1 << 20)
    try:
        head = json.loads(line)
    except ValueError:
        raise ImageInvalid(
            f"the video cannot be decoded: {_ENDED}", hint="the file may be damaged"
        ) from None
    if "error" in head:
        if head.get("kind") == "extra":
            raise MissingExtra(head["error"], hint='pip install "qwen35cpp[video]"')
        raise ImageInvalid(head["error"], hint="the file may be cut short or damaged")
    height, width = int(head["height"]), int(head["width"])
    frames = []
    for _ in head["times"]:
        data = pipe.read(height * width * 3)
        if len(data) < height * width * 3:
            break
        frames.append(np.frombuffer(data, np.uint8).reshape(height, width, 3))
    if not frames:
        raise ImageInvalid("no frame of the video could be decoded")
    times = [float(time) for time in head["times"]]
    return frames, times[: len(frames)]


# ---- the program -------------------------------------------------------------------------------


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _frames(container: Any, stream: Any, times: list[float]) -> Iterator[Any]:
    """The frame shown at each of the times, ascending."""
    start = float((stream.start_time or 0) * stream.time_base)
    half = 0.5 / float(stream.average_rate)
    decoded = container.decode(stream)
    frame = next(decoded)
    for time in times:
        if time + start - float(frame.time or 0) > _SEEK:
            container.seek(int((time + start) / stream.time_base), stream=stream, backward=True)
            decoded = container.decode(stream)
        while float(frame.time or 0) < time + start - half:
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


def _send(path: str, max_volume: int, out: IO[bytes]) -> None:
    import av

    from .resize import fit
    from .video import frame_size, sample

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
        indices = sample(total, rate)
        times = [index / rate for index in indices]
        size = frame_size(max(2, len(indices)), stream.height, stream.width, max_volume)
        head = {"height": size[0], "width": size[1], "times": times}
        sent = False
        for frame in _frames(container, stream, times):
            pixels = fit(frame.to_ndarray(format="rgb24"), *size)
            if not sent:
                out.write(json.dumps(head).encode() + b"\n")
                sent = True
            out.write(pixels.tobytes())


def main() -> None:
    """`python -m qwen35cpp.vision.decode PATH MAX_VOLUME`; see the head of the file."""
    path, max_volume = sys.argv[1], int(sys.argv[2])
    _limit_memory()
    out = sys.stdout.buffer
    answer: dict[str, str] = {}
    try:
        _send(path, max_volume, out)
    except ImportError as error:
        answer = {"error": f"reading video files needs PyAV: {error}", "kind": "extra"}
    except Exception as error:  # a decoder's errors are of many kinds
        answer = {"error": f"the video cannot be decoded: {error}"[:500]}
    if answer:
        out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
