"""Video files on their way to the tower: pairs of frames that are decoded when they are encoded.

A process apart decodes (decode.py) and waits in its pipe until the next pair is wanted. So a long
video costs the memory of a few frames, and its next frames are decoded while the tower works on
those before.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import FileError, ImageInvalid, MissingExtra
from .load import Pixels
from .prompt import View
from .resize import CELL
from .video import Volume

MAX_BYTES = 1 << 30  # of a file
DEADLINE = 600.0  # seconds that may be spent waiting for the frames of a video
_PIPE_BYTES = 1 << 20  # that the decoder may be ahead
_HINT = "the file may be cut short or damaged"


class Film:
    """The sampled frames of a video file, all of one size, in pairs.

    Pairs are read in ascending order as the prompt is evaluated; going back starts the decoder
    again. May be used by any thread.

    Args:
        path: the file.
        volume: pixels of the sampled frames.
        fps: frames to sample for each second of video.
        deadline: seconds that may be spent waiting for the decoder.

    Raises:
        ImageInvalid: the file is no video, is damaged or exceeds a limit.
        FileError: the file cannot be read.
        MissingExtra: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        volume: Volume,
        fps: float,
        deadline: float = DEADLINE,
    ) -> None:
        file = Path(path)
        self._arguments = [str(file.resolve()), json.dumps(asdict(volume)), repr(fps)]
        self._deadline = deadline
        self._digest = _digest_of(file)
        self._lock = threading.Lock()
        self._decoder = self._start()
        head = self._decoder.head
        # Of the frames: seconds, and height and width in pixels.
        self.times: list[float] = [float(seconds) for seconds in head["times"]]
        self.size = int(head["height"]), int(head["width"])

    def _start(self) -> _Decoder:
        decoder = _Decoder(self._arguments, self._deadline)
        weakref.finalize(self, decoder.close)
        return decoder

    def __len__(self) -> int:
        """Pairs of frames; an odd last frame is its own partner."""
        return (len(self.times) + 1) // 2

    def time(self, index: int) -> float:
        """The middle of a pair in seconds."""
        return (self.times[2 * index] + self.times[self._second(index)]) / 2

    def _second(self, index: int) -> int:
        return min(2 * index + 1, len(self.times) - 1)

    def digest(self, index: int) -> bytes:
        """Tells a pair from every other picture: by the file's bytes, not by its pixels."""
        place = f"{self.size} {self.times[2 * index]} {self.times[self._second(index)]}"
        return hashlib.blake2b(self._digest + place.encode(), digest_size=16).digest()

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        """Decodes up to a pair and returns its frames, uint8 [height, width, 3].

        Raises ImageInvalid when the video turns out to be damaged there.
        """
        with self._lock:
            if self._decoder.taken > 2 * index or self._decoder.closed:
                self._decoder.close()
                self._decoder = self._start()
            decoder = self._decoder
            try:
                while decoder.taken <= 2 * index:
                    first = decoder.frame()
                second = first
                if self._second(index) != 2 * index:
                    second = decoder.frame()
            except BaseException:
                decoder.close()  # the pipe may stand in the middle of a frame
                raise
            if decoder.taken == len(self.times):
                decoder.close()
            return first, second


@dataclass(frozen=True)
class FilmPair(View):
    """Two frames of a video file, decoded when they are asked for."""

    film: Film
    index: int

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        """See Film.digest."""
        return self.film.digest(self.index)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.film.size[0] // CELL, self.film.size[1] // CELL

    def frames(self) -> tuple[Pixels, Pixels]:
        """The pixels, which nobody keeps."""
        return self.film.pair(self.index)


def _digest_of(file: Path) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ImageInvalid(f"the video has {size:,} bytes, at most {MAX_BYTES:,} are taken")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageInvalid):
            raise
        raise FileError(f"no video at {file}: {error}") from None
    return state.digest()


class _Decoder:
    """The decoding process: its first answer, and the frames that it has given so far."""

    def __init__(self, arguments: list[str], deadline: float) -> None:
        self._left = self._deadline = deadline
        self.taken, self.closed = 0, False
        self._pid = os.getpid()
        package = str(Path(__file__).resolve().parents[2])
        paths = filter(None, [os.environ.get("PYTHONPATH"), package])
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.decode", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing is imported from the current folder, which may hold anybody's files.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
        )
        assert self._child.stdout is not None
        self._pipe: IO[bytes] = self._child.stdout
        _widen(self._pipe)
        try:
            self.head = self._message(self._waiting(lambda: self._pipe.readline(1 << 20)))
        except BaseException:
            self.close()
            raise
        self._bytes = int(self.head["height"]) * int(self.head["width"]) * 3

    def frame(self) -> Pixels:
        """The next frame."""
        kind = self._waiting(lambda: self._pipe.read(1))
        if kind != b"F":
            self._message(self._waiting(lambda: self._pipe.readline(1 << 20)))
        data = self._waiting(lambda: self._pipe.read(self._bytes))
        if len(data) < self._bytes:
            raise self._invalid("the decoder ended without an answer")
        self.taken += 1
        shape = int(self.head["height"]), int(self.head["width"]), 3
        return np.frombuffer(data, np.uint8).reshape(shape)

    def _waiting(self, read: Any) -> bytes:
        """A read from the pipe that ends when the time is over."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._child.kill()

        clock = threading.Timer(self._left, give_up)
        clock.daemon = True
        started = time.monotonic()
        clock.start()
        try:
            data: bytes = read()
        finally:
            clock.cancel()
            self._left = max(0.0, self._left - (time.monotonic() - started))
        if late.is_set():
            raise ImageInvalid(f"decoding the video took more than {self._deadline:.0f} seconds")
        return data

    def _message(self, line: bytes) -> dict[str, Any]:
        """What a line of JSON says; raises when it says what went wrong."""
        try:
            said = json.loads(line)
        except ValueError:
            raise self._invalid("the decoder ended without an answer") from None
        if "error" not in said:
            return dict(said)
        if said.get("kind") == "extra":
            raise MissingExtra(said["error"], hint='pip install "qwen35cpp[video]"')
        raise self._invalid(said["error"])

    def _invalid(self, reason: str) -> ImageInvalid:
        if self.taken:
            total = len(self.head["times"])
            return ImageInvalid(
                f"the video breaks off after {self.taken} of {total} frames: {reason}",
                hint="cut it before the damage, or pass its frames as a vision.Video",
            )
        return ImageInvalid(f"the video cannot be decoded: {reason}", hint=_HINT)

    def close(self) -> None:
        """Ends the process, which a forked child leaves to its parent."""
        self.closed = True
        if os.getpid() != self._pid:
            return
        self._child.kill()
        self._child.wait()
        self._pipe.close()


def _widen(pipe: IO[bytes]) -> None:
    """Lets the decoder be further ahead, where the system can."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        return
