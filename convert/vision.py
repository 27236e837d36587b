"""The vision tower's tensors: table and plan for the mmproj file.

Linear layers and LayerNorms keep their values; the Conv3d patch kernel [hidden, 3, 2, 16, 16] is
stored as two kernels, one per frame of a temporal pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from .config import VisionConfig
from .tensor_map import PlannedTensor, Role

PREFIX = "model.visual."


def _linear(
    source: str, target: str, outputs: int, inputs: int, layer: int | None
) -> Iterator[PlannedTensor]:
    """A matrix with its bias."""
    shape = (outputs, inputs)
    yield PlannedTensor(
        f"{target}.weight", (inputs, outputs), Role.VISION_MATRIX, layer, f"{source}.weight", shape
    )
    yield _vector(f"{source}.bias", f"{target}.bias", outputs, layer)


def _norm(source: str, target: str, size: int, layer: int | None) -> Iterator[PlannedTensor]:
    for part in ("weight", "bias"):
        yield _vector(f"{source}.{part}", f"{target}.{part}", size, layer)


def _vector(source: str, target: str, size: int, layer: int | None) -> PlannedTensor:
    return PlannedTensor(target, (size,), Role.VECTOR, layer, source, (size,))


def _patch_kernels(c: VisionConfig) -> Iterator[PlannedTensor]:
    """One kernel per frame: the columns of the flattened Conv3d that see this frame."""
    area = c.patch * c.patch
    shape = (c.hidden, c.channels, c.temporal_patch, c.patch, c.patch)
    columns = np.arange(c.channels * c.temporal_patch * area).reshape(
        c.channels, c.temporal_patch, area
    )
    for frame, suffix in enumerate(("", ".1")):
        yield PlannedTensor(
            name=f"v.patch_embd.weight{suffix}",
            ne=(c.patch, c.patch, c.channels, c.hidden),
            role=Role.VISION_PATCH,
            layer=None,
            source=f"{PREFIX}patch_embed.proj.weight",
            source_shape=shape,
            cols=columns[:, frame].reshape(-1),
        )
    yield _vector(f"{PREFIX}patch_embed.proj.bias", "v.patch_embd.bias", c.hidden, None)


def _block(c: VisionConfig, index: int) -> Iterator[PlannedTensor]:
    source, target = f"{PREFIX}blocks.{index}.", f"v.blk.{index}."
    yield from _norm(source + "norm1", target + "ln1", c.hidden, index)
    yield from _linear(source + "attn.qkv", target + "attn_qkv", 3 * c.hidden, c.hidden, index)
    yield from _linear(source + "attn.proj", target + "attn_out", c.hidden, c.hidden, index)
    yield from _norm(source + "norm2", target + "ln2", c.hidden, index)
    yield from _linear(source + "mlp.linear_fc1", target + "ffn_up", c.ffn, c.hidden, index)
    yield from _linear(source + "mlp.linear_fc2", target + "ffn_down", c.hidden, c.ffn, index)


def is_matrix(name: str) -> bool:
    """Whether a GGUF tensor name is that of one of the tower's matrices."""
    matrices = r"v\.blk\.\d{1,4}\.(attn_qkv|attn_out|ffn_up|ffn_down)|mm\.[02]"
    return re.fullmatch(rf"({matrices})\.weight", name) is not None


def plan_vision(config: VisionConfig) -> list[PlannedTensor]:
    """All tensors of the vision tower in file order."""
    merged = config.hidden * config.merge**2
    positions = (config.positions, config.hidden)
    plan = list(_patch_kernels(config))
    plan.append(
        PlannedTensor(
            name="v.position_embd.weight",
            ne=(config.hidden, config.positions),
            role=Role.VECTOR,  # interpolated in F32
            layer=None,
            source=f"{PREFIX}pos_embed.weight",
            source_shape=positions,
        )
    )
    for index in range(config.depth):
        plan += _block(config, index)
    plan += _norm(f"{PREFIX}merger.norm", "v.post_ln", config.hidden, None)
    plan += _linear(f"{PREFIX}merger.linear_fc1", "mm.0", merged, merged, None)
    plan += _linear(f"{PREFIX}merger.linear_fc2", "mm.2", config.out_hidden, merged, None)
    return plan
