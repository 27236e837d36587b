"""The size rule and the resampling of the reference (Qwen2VLImageProcessor of transformers)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ..errors import ImageInvalid
from .load import MAX_ASPECT, Pixels

CELL = 32  # pixels along a side of what becomes one token: 16 of a patch, 2 patches merged


@dataclass(frozen=True)
class Budget:
    """Least and most pixels of a picture after resizing; 1,024 pixels are one token."""

    min_pixels: int = 65_536
    max_pixels: int = 16_777_216

    def __post_init__(self) -> None:
        if not CELL * CELL <= self.min_pixels <= self.max_pixels <= 16_777_216:
            raise ImageInvalid(
                f"min_pixels {self.min_pixels:,}, max_pixels {self.max_pixels:,}: expected "
                f"{CELL * CELL:,} <= min_pixels <= max_pixels <= 16,777,216"
            )


Preset = Literal["fast", "default", "grounding"]

# default: the published limits. fast: at most 256 tokens, for what a picture shows at large.
# grounding: at least 1,024 tokens, because small pictures give coarse coordinates.
BUDGETS: dict[Preset, Budget] = {
    "fast": Budget(65_536, 256 * CELL * CELL),
    "default": Budget(),
    "grounding": Budget(1024 * CELL * CELL, 16_777_216),
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
    """Stretches a picture with Pillow's bicubic filter, which the reference uses."""
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels), "RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
