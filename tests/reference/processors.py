"""What the processors of transformers make of pictures and clips: the record processors.json.

    pip install --no-deps --target FOLDER torchvision==0.28.0     # as many as torch 2.13
    PYTHONPATH=FOLDER python tests/reference/processors.py [--write]

The video processor needs torchvision, whose wheels want a torch with CUDA: so the tests compare
with the record. This program says whether the record still holds, or writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECORD = Path(__file__).with_suffix(".json")
VOLUMES = {"default": 25_165_824, "fast": 2_097_152}
QUESTION = "What moves?"
Pixels = NDArray[np.uint8]


def blotches(seed: int, *shape: int) -> Pixels:
    """Squares of colours with noise, [..., height, width, 3]; equal on every machine."""
    rng = np.random.default_rng(seed)
    *outer, height, width = shape
    squares = rng.integers(20, 236, (*outer, height // 8 + 1, width // 8 + 1, 3))
    squares = squares.repeat(8, axis=-3).repeat(8, axis=-2)[..., :height, :width, :]
    return (squares + rng.integers(-20, 21, squares.shape)).astype(np.uint8)


# Height and width: larger, smaller, one pixel, long and thin, odd.
PICTURES = [(480, 640), (50, 100), (1, 1), (9, 1500), (1000, 31), (333, 777), (700, 448), (31, 33)]


@dataclass(frozen=True)
class Clip:
    """A video: how many frames, how many a second, their size."""

    total: int
    fps: Fraction
    height: int
    width: int
    budget: str = "default"

    def frames(self) -> Pixels:
        """[total, height, width, 3]."""
        return blotches(self.total, self.total, self.height, self.width)


# Sampled frames: 6; 4, the least; 5, so that the last stands alone; low frames, which are enlarged
# first; and more pixels than the budget has.
CLIPS = [
    Clip(45, Fraction(15), 100, 170),
    Clip(7, Fraction(5), 65, 33),
    Clip(75, Fraction(30_000, 1001), 96, 128),
    Clip(20, Fraction(10), 24, 300),
    Clip(24, Fraction(4), 300, 533, "fast"),
]


def digest(frames: Pixels) -> str:
    """Of frames [n, height, width, 3]."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


def shortened(text: str) -> str:
    """A prompt with runs of placeholders counted."""
    return re.sub(r"(?:<\|video_pad\|>)+", lambda run: f"[{len(run[0]) // 13}]", text)


def unpatched(patches: NDArray[np.float32], grid: list[int]) -> NDArray[np.float32]:
    """Frames [2 * steps, height, width, 3] from 0 to 255 of a reference's patch rows."""
    steps, rows, columns = grid
    blocks = patches.reshape(steps, rows // 2, columns // 2, 2, 2, 3, 2, 16, 16)
    frames = blocks.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return frames.reshape(2 * steps, rows * 16, columns * 16, 3) * 127.5 + 127.5


def _torchvision() -> None:
    """Imports it also where its compiled part, which is not needed here, cannot be loaded."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        globals()["_library"] = library  # it goes with its last reference


def _whole(patches: Any, grid: list[int]) -> Pixels:
    pixels = unpatched(patches.numpy(), grid)
    whole = np.rint(pixels).astype(np.uint8)
    assert np.abs(pixels - whole).max() < 1e-3
    return whole


def record() -> dict[str, Any]:
    """What the reference says about each picture and clip."""
    _torchvision()
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    import checkpoints

    common: dict[str, Any] = {
        "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    limits = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    images = Qwen2VLImageProcessor(size=limits, **common)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.build())
    pictures, clips = [], []
    for size in PICTURES:
        pixels = blotches(sum(size), *size).transpose(2, 0, 1)
        out = images(images=[pixels], input_data_format="channels_first", return_tensors="pt")
        grid = out["image_grid_thw"][0].tolist()
        frames = _whole(out["pixel_values"], grid)
        pictures.append({"grid": grid, "pixels": digest(frames[0])})
    for clip in CLIPS:
        sizes = {"shortest_edge": 4_096, "longest_edge": VOLUMES[clip.budget]}
        videos = Qwen3VLVideoProcessor(size=sizes, cap_pixels_per_frame=False, **common)
        out = Qwen3VLProcessor(images, tokenizer, videos)(
            text=f"<|vision_start|><|video_pad|><|vision_end|>{QUESTION}",
            videos=[clip.frames().transpose(0, 3, 1, 2)],
            video_metadata=[VideoMetadata(total_num_frames=clip.total, fps=float(clip.fps))],
            do_sample_frames=True, return_metadata=True, return_tensors="pt",
        )  # fmt: skip
        grid = out["video_grid_thw"][0].tolist()
        clips.append({
            "indices": [int(i) for i in out["video_metadata"][0].frames_indices],
            "grid": grid,
            "text": shortened(tokenizer.decode(out["input_ids"][0])),
            "frames": digest(_whole(out["pixel_values_videos"], grid)),
        })  # fmt: skip
    return {"pictures": pictures, "clips": clips}


if __name__ == "__main__":
    now = record()
    if "--write" in sys.argv:
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
    elif now != json.loads(RECORD.read_text()):
        sys.exit(f"the record does not hold any more: {json.dumps(now, indent=1)}")
    print(f"{len(PICTURES)} pictures and {len(CLIPS)} clips: as recorded")
