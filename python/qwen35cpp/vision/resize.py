"""The size rule and the resampling of the reference.

The published models name the processors of transformers that resize with torchvision, for pictures
(Qwen2VLImageProcessorFast) as for videos (Qwen3VLVideoProcessor). `fit` gives their bytes exactly.
Its filter is Pillow's bicubic one, columns first, but with weights of 16 bits: the processor for
Pillow (Qwen2VLImageProcessorPil) differs by 1 in a few of 1,000 values, and rarely by 2.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageInvalid
from .load import MAX_ASPECT, Pixels

CELL = 32  # pixels along a side of what becomes one token: 16 of a patch, 2 patches merged
MAX_PIXELS = 16_777_216  # of a picture: 16,384 tokens
MAX_VIDEO_PIXELS = 469_762_048  # of the frames of a video: what the model's card advises for hours
_BLOCK = 64  # lines resampled at once, so that sums of them stay in the cache


@dataclass(frozen=True)
class Budget:
    """Least and most pixels after resizing.

    Args:
        min_pixels: of a picture; 1,024 pixels are one token.
        max_pixels: of a picture.
        min_video_pixels: of all frames of a video together; 2,048 are one token, because two frames
            share it.
        max_video_pixels: of all frames of a video together.
    """

    min_pixels: int = 65_536
    max_pixels: int = MAX_PIXELS
    min_video_pixels: int = 4_096
    max_video_pixels: int = 25_165_824

    def __post_init__(self) -> None:
        if not CELL * CELL <= self.min_pixels <= self.max_pixels <= MAX_PIXELS:
            raise ImageInvalid(
                f"min_pixels {self.min_pixels:,}, max_pixels {self.max_pixels:,}: expected "
                f"{CELL * CELL:,} <= min_pixels <= max_pixels <= {MAX_PIXELS:,}"
            )
        if not 0 < self.min_video_pixels <= self.max_video_pixels <= MAX_VIDEO_PIXELS:
            raise ImageInvalid(
                f"min_video_pixels {self.min_video_pixels:,}, max_video_pixels "
                f"{self.max_video_pixels:,}: expected 0 < min_video_pixels <= max_video_pixels <= "
                f"{MAX_VIDEO_PIXELS:,}"
            )

    def of_one(self, min_pixels: int | None, max_pixels: int | None) -> Budget:
        """With limits of one picture in place of its own; a limit that was not given gives way."""
        if min_pixels is None and max_pixels is None:
            return self
        most = max(self.max_pixels, min_pixels or 0) if max_pixels is None else max_pixels
        least = min(self.min_pixels, most) if min_pixels is None else min_pixels
        return dataclasses.replace(self, min_pixels=least, max_pixels=most)


Preset = Literal["fast", "default", "grounding"]

# default: the published limits. fast: at most 256 tokens, for what a picture shows at large, and
# 1,024 for a video. grounding: at least 1,024 tokens, because small pictures give coarse
# coordinates.
BUDGETS: dict[Preset, Budget] = {
    "fast": Budget(65_536, 256 * CELL * CELL, max_video_pixels=1_024 * 2 * CELL * CELL),
    "default": Budget(),
    "grounding": Budget(1024 * CELL * CELL, MAX_PIXELS),
}


def budget_of(choice: Budget | Preset) -> Budget:
    """A budget itself or by the name of a preset."""
    if isinstance(choice, Budget):
        return choice
    if choice not in BUDGETS:
        raise ImageInvalid(f"budget must be one of {', '.join(BUDGETS)}, not {choice!r}")
    return BUDGETS[choice]


def target_size(height: int, width: int, budget: Budget) -> tuple[int, int]:
    """Height and width that a picture is stretched to: multiples of 32 within the budget.

    Rounds half to even, as the reference does; raises ImageInvalid above an aspect of 200.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ImageInvalid(
            f"a picture of {width} x {height} pixels: one side may be at most {MAX_ASPECT} times "
            "the other",
            hint="cut it into parts",
        )
    rows, columns = round(height / CELL) * CELL, round(width / CELL) * CELL
    if rows * columns > budget.max_pixels:
        beta = math.sqrt(height * width / budget.max_pixels)
        rows = max(CELL, math.floor(height / beta / CELL) * CELL)
        columns = max(CELL, math.floor(width / beta / CELL) * CELL)
    elif rows * columns < budget.min_pixels:
        beta = math.sqrt(budget.min_pixels / (height * width))
        rows = math.ceil(height * beta / CELL) * CELL
        columns = math.ceil(width * beta / CELL) * CELL
    return rows, columns


def fit(pixels: Pixels, height: int, width: int) -> Pixels:
    """Stretches a picture [h, w, 3] with the reference's bicubic filter, see above."""
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    across = np.empty((len(pixels), width, 3), np.uint8)
    _resample(pixels.transpose(1, 0, 2), across.transpose(1, 0, 2))
    out = np.empty((height, width, 3), np.uint8)
    _resample(across, out)
    return out


def _resample(lines: Pixels, out: Pixels) -> None:
    """Resamples the first axis, [n, m, 3] to [count, m, 3]."""
    count = len(out)
    if len(lines) == count:
        out[...] = lines
        return
    sources, weights, bits = _taps(len(lines), count)
    for start in range(0, lines.shape[1], _BLOCK):
        block = lines[:, start : start + _BLOCK].reshape(len(lines), -1)
        sums = np.full((count, block.shape[1]), 1 << (bits - 1), np.int32)
        for source, weight in zip(sources, weights, strict=True):
            sums += block[source] * weight[:, None]
        np.right_shift(sums, bits, out=sums)
        out[:, start : start + _BLOCK] = sums.clip(0, 255).reshape(count, -1, 3)


@functools.lru_cache(maxsize=8)  # the frames of a video are of one size
def _taps(inputs: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """Which inputs make an output, and their weights, both [taps, outputs], times 2 ** bits.

    As torch's interpolate does for bytes (bicubic, antialiased): as many bits as the largest weight
    leaves in 16.
    """
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    centres = (np.arange(outputs) + 0.5) * scale
    first = np.maximum(centres - 2 * stretch + 0.5, 0).astype(np.int64)
    last = np.minimum(centres + 2 * stretch + 0.5, inputs).astype(np.int64)
    sources = first + np.arange((last - first).max())[:, None]
    x = np.abs((sources - centres + 0.5) / stretch)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((x - 5) * x + 8) * x * -0.5 + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0)) * (sources < last)
    weights /= weights.sum(axis=0)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * (2 << bits)) < 1 << 15:
        bits += 1
    whole = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int32)
    return np.minimum(sources, inputs - 1), whole, bits
