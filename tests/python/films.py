"""Short video files for tests."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def film(path: Path, seconds: int = 6, rate: int = 10, key_every: int = 12) -> None:
    """A video whose frames tell their number by their brightness."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.bit_rate, stream.gop_size = 4_000_000, key_every
        for index in range(seconds * rate):
            pixels = np.full((64, 96, 3), min(40 + 3 * index, 255), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
