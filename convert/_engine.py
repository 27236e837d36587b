"""The C library as the converter needs it: read GGUF files, encode and decode tensor data.

F32, F16 and BF16 are converted here with numpy; block formats by the C quantiser. cffi releases the
interpreter lock during calls, so row blocks can be encoded in parallel threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen35cpp import _native as native

from . import metadata as md
from .ggml_types import TensorType, row_bytes

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


# ---- types -------------------------------------------------------------------------------------


def encode(kind: TensorType, values: Floats, importance: Floats | None = None) -> Bytes:
    """Rows [n, cols] of float32 to the bytes of `kind`, [n, row_bytes].

    importance: [cols] weights >= 0 of the columns, used by the block formats only.
    """
    rows, cols = values.shape
    values = np.ascontiguousarray(values, np.float32)
    if kind is TensorType.F32:
        return values.astype("<f4", copy=False).view(np.uint8)
    if kind is TensorType.F16:
        with np.errstate(over="ignore"):
            return values.astype("<f2").view(np.uint8)
    if kind is TensorType.BF16:
        return _round_bf16(values).view(np.uint8)
    out = np.empty((rows, row_bytes(kind, cols)), np.uint8)
    weight = native.ffi.NULL
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        weight = native.ffi.from_buffer("float[]", importance)
    native.check(
        native.lib.qwen35_quantize(
            int(kind),
            native.ffi.from_buffer("float[]", values),
            rows,
            cols,
            weight,
            native.ffi.from_buffer(out, require_writable=True),
        )
    )
    return out


def _round_bf16(values: Floats) -> NDArray[np.uint16]:
    """The upper halves, rounded to nearest even. Values are finite, so none becomes NaN."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def decode(kind: int, data: Bytes, rows: int, cols: int) -> Floats:
    """The inverse of encode(), for every type that the engine reads."""
    out = np.empty((rows, cols), np.float32)
    native.check(
        native.lib.qwen35_dequantize(
            kind,
            native.ffi.from_buffer(data),
            rows,
            cols,
            native.ffi.from_buffer("float[]", out, require_writable=True),
        )
    )
    return out


@dataclass(frozen=True)
class TypeTraits:
    """Block layout of a tensor type."""

    name: str
    block_size: int
    block_bytes: int


def type_traits(kind: int) -> TypeTraits:
    """Layout of any type that the engine knows; ModelUnsupported otherwise."""
    traits = native.ffi.new("qwen35_type_traits *")
    native.check(native.lib.qwen35_type_info(kind, traits))
    return TypeTraits(native.text(traits.name), traits.block_size, traits.block_bytes)


# ---- files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of an opened file."""

    index: int
    name: str
    type: int
    ne: tuple[int, ...]
    offset: int  # from the start of its file
    bytes: int
    shard: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return int(np.prod(self.ne, dtype=np.int64))


class GgufFile:
    """A GGUF file, or all shards of one, opened by the C reader. Context manager."""

    def __init__(self, path: Path) -> None:
        handle = native.ffi.new("qwen35_gguf **")
        native.check(native.lib.qwen35_gguf_open(str(path).encode(), handle))
        self._file = native.ffi.gc(handle[0], native.lib.qwen35_gguf_close)
        self.metadata: md.Metadata = dict(self._values())
        self.tensors: list[GgufTensor] = list(self._tensors())

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the reader; the metadata and the list of tensors stay."""
        if self._file is not None:
            native.ffi.release(self._file)
            self._file = None

    def read(self, tensor: GgufTensor, offset: int, count: int) -> Bytes:
        """Bytes [offset, offset + count) of a tensor's data."""
        out = np.empty(count, np.uint8)
        target = native.ffi.from_buffer(out, require_writable=True)
        lib = native.lib
        native.check(lib.qwen35_gguf_read(self._file, tensor.index, offset, target, count))
        return out

    def _values(self) -> Iterator[tuple[str, md.Value]]:
        ffi, lib = native.ffi, native.lib
        value = ffi.new("qwen35_gguf_value *")
        for index in range(lib.qwen35_gguf_value_count(self._file)):
            native.check(lib.qwen35_gguf_get_value(self._file, index, value))
            key = ffi.unpack(value.key, value.key_length).decode("utf-8", "replace")
            payload = bytes(ffi.buffer(value.data, value.bytes)) if value.bytes else b""
            element = md.ValueType(value.element_type) if value.element_type >= 0 else None
            yield key, md.Value(md.ValueType(value.type), payload, element, value.count)

    def _tensors(self) -> Iterator[GgufTensor]:
        ffi, lib = native.ffi, native.lib
        tensor = ffi.new("qwen35_gguf_tensor *")
        for index in range(lib.qwen35_gguf_tensor_count(self._file)):
            native.check(lib.qwen35_gguf_get_tensor(self._file, index, tensor))
            name = ffi.unpack(tensor.name, tensor.name_length).decode("utf-8", "replace")
            yield GgufTensor(
                index=index,
                name=name,
                type=tensor.type,
                ne=tuple(tensor.ne[dim] for dim in range(tensor.n_dims)),
                offset=tensor.offset,
                bytes=tensor.bytes,
                shard=tensor.shard,
            )
