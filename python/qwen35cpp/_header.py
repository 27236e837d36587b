"""What the header of a model's file says about memory, before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ._handles import Gguf, Tensor
from ._native import system_info

_INTEGERS = frozenset({0, 2, 4, 10})  # GGUF's unsigned types
_F16, _F32, _BF16 = 1, 0, 30  # tensor types
_HEAD_FIRST, _HEAD_USED = 16_384, 2048  # rows of the draft head, see csrc/runtime/draft_head.h

_PACKED_ROWS, _PACKED_KEYS = 2048, 8 << 20  # see csrc/backend/cpu/scratch.h and vision.cpp


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


@dataclass(frozen=True)
class TowerShape:
    """What the memory of a vision tower depends on."""

    bytes: int  # of its weights in memory
    n_embd: int
    head_dim: int
    n_ff: int
    merged: int  # width of four patches side by side
    n_out: int
    quantized: bool  # so that activations are kept in 8 bits too

    def scratch(self, n_patches: int) -> int:
        """Bytes that encoding a picture takes, but for less than a megabyte of each thread.

        See VisionForward::scratch_floats and CpuBackend::vision_bytes.
        """
        floats = 4 * n_patches * (6 * self.n_embd + self.head_dim)
        if system_info()["isa"] == "amx":
            return floats + self._packed(n_patches)
        wide = max(self.n_ff, self.n_embd, self.merged // 4)
        return floats + (n_patches * wide * 13 // 4 if self.quantized else 0)

    def _packed(self, n_patches: int) -> int:
        """Bytes of what is multiplied as bf16: inputs in two parts, or keys and values."""
        inputs = (
            (n_patches, self.n_ff),
            (n_patches, self.n_embd),
            (n_patches // 4, self.merged),
        )
        rows = max(_up(min(n, _PACKED_ROWS), 16) * _up(k, 32) for n, k in inputs)
        head = _up(n_patches, 256) * 2 * _up(self.head_dim, 32)
        heads = max(1, min(self.n_embd // self.head_dim, _PACKED_KEYS // (2 * head)))
        return 2 * max(2 * rows, heads * head)


@dataclass(frozen=True)
class Header:
    """Sizes of the text model and of the tower in a file."""

    weights: int  # bytes of the text model's tensors
    cache_values: int  # keys and values that a token leaves, those of the MTP layer included
    draft_head: int  # bytes of the copies that a session with an MTP drafter makes
    n_ctx_train: int  # 0 where the file does not say
    float32: bool  # its matrices are F32
    tower: TowerShape | None

    @classmethod
    def read(cls, path: bytes) -> Header:
        """The header of a file; the errors of the reader for what is none."""
        file = Gguf(path)
        try:
            numbers = {
                key.decode("utf-8", "replace"): int.from_bytes(data, "little")
                for key, kind, data in file.values()
                if kind in _INTEGERS
            }
            return cls.of(file.tensors(), numbers)
        finally:
            file.close()

    @classmethod
    def of(cls, tensors: Sequence[Tensor], numbers: Mapping[str, int]) -> Header:
        """The header of a file with these tensors and numbers in its metadata."""
        named = {tensor.name: tensor for tensor in tensors}
        text = [tensor for tensor in tensors if not _of_tower(tensor)]
        by_type: dict[int, int] = {}
        for tensor in text:
            if tensor.name.startswith("blk.") and tensor.ne[1] > 1:
                by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.bytes
        return cls(
            weights=sum(tensor.bytes for tensor in text),
            cache_values=sum(
                tensor.ne[1]
                for tensor in text
                if tensor.name.endswith((".attn_k.weight", ".attn_v.weight"))
            ),
            draft_head=_draft_head(named.get("output.weight") or named.get("token_embd.weight")),
            n_ctx_train=numbers.get("qwen35.context_length", 0),
            float32=bool(by_type) and max(by_type, key=lambda kind: by_type[kind]) == _F32,
            tower=_tower(named, numbers),
        )


def _of_tower(tensor: Tensor) -> bool:
    return tensor.name.startswith(("v.", "mm."))


def _draft_head(output: Tensor | None) -> int:
    """Copied rows, their marks and the logits; nothing is copied of a small vocabulary."""
    if output is None or output.ne[1] < _HEAD_FIRST + 16:
        return 0
    rows = output.ne[1]
    return _HEAD_USED * output.bytes // rows + rows + 4 * (_HEAD_FIRST + 2 * _HEAD_USED)


def _tower(named: Mapping[str, Tensor], numbers: Mapping[str, int]) -> TowerShape | None:
    parts = [named.get(f"{name}.weight") for name in ("v.patch_embd", "v.blk.0.ffn_up", "mm.2")]
    patch, up, out = parts
    if patch is None or up is None or out is None:
        return None
    own = [tensor for tensor in named.values() if _of_tower(tensor)]
    kernel = 4 * math.prod(patch.ne)
    # Vectors and kernels are kept as floats; one made of both kernels for stills, one for pairs.
    floats = [each for each in own if each.ne[1] == 1 or "_embd" in each.name]
    matrices = [each for each in own if each not in floats]
    heads = numbers.get("clip.vision.attention.head_count", 0)
    return TowerShape(
        bytes=sum(each.bytes for each in matrices)
        + sum(4 * math.prod(each.ne) for each in floats)
        + 3 * kernel,
        n_embd=up.ne[0],
        head_dim=up.ne[0] // max(heads, 1),
        n_ff=up.ne[1],
        merged=out.ne[0],
        n_out=out.ne[1],
        quantized=any(each.type not in (_F32, _F16, _BF16) for each in matrices),
    )
