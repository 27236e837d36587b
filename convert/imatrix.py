"""Importance matrices: per matrix, the mean squared input of each column.

Reads both forms that llama.cpp writes: GGUF (`<tensor>.in_sum2`, `<tensor>.counts`) and the older
binary one (entry count; per entry name, calls, values).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._engine import GgufFile
from ._errors import ConversionError
from .ggml_types import TensorType

Importance = dict[str, NDArray[np.float32]]
_MAX_LEGACY_BYTES = 1 << 30


def read_imatrix(path: Path) -> Importance:
    """Weights of the columns, by tensor name."""
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error
    result = _read_gguf(path) if is_gguf else _read_legacy(path)
    for name, weights in result.items():
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ConversionError(f"{path}: {name}: expected finite values of at least 0")
    if not result:
        raise ConversionError(f"{path}: no importance values in the file")
    return result


def _read_gguf(path: Path) -> Importance:
    result = {}
    with GgufFile(path) as file:
        tensors = {tensor.name: tensor for tensor in file.tensors}
        for name, sums in tensors.items():
            base, _, kind = name.rpartition(".")
            counts = tensors.get(f"{base}.counts")
            if kind != "in_sum2":
                continue
            if counts is None or {sums.type, counts.type} != {int(TensorType.F32)}:
                raise ConversionError(f"{path}: {name}: expected F32 sums with counts")
            if counts.elements != 1:
                continue  # one per expert: no such tensors here
            total = file.read(sums, 0, sums.bytes).view(np.float32)
            count = file.read(counts, 0, counts.bytes).view(np.float32)[0]
            if count > 0:
                result[base] = total / count
    return result


def _read_legacy(path: Path) -> Importance:
    if path.stat().st_size > _MAX_LEGACY_BYTES:
        raise ConversionError(f"{path}: not an importance matrix")
    data, at, result = path.read_bytes(), 0, {}

    def take(size: int) -> bytes:
        nonlocal at
        if size < 0 or at + size > len(data):
            raise ConversionError(f"{path}: not an importance matrix: cut short at byte {at}")
        at += size
        return data[at - size : at]

    def integer() -> int:
        return int(struct.unpack("<i", take(4))[0])

    for _ in range(integer()):
        name = take(integer()).decode("utf-8", "replace")
        calls, count = integer(), integer()
        values = np.frombuffer(take(4 * count), "<f4")
        if calls > 0 and count > 0:
            result[name] = (values / np.float32(calls)).astype(np.float32)
    return result
