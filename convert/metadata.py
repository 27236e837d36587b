"""GGUF metadata values in their stored form: build, take apart, serialise.

A value keeps its payload as the bytes of the file, so copying the metadata of a model
(500,000 strings) is a copy of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ValueType(IntEnum):
    """GGUF value types."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


_FORMAT = {
    ValueType.U8: "B",
    ValueType.I8: "b",
    ValueType.U16: "H",
    ValueType.I16: "h",
    ValueType.U32: "I",
    ValueType.I32: "i",
    ValueType.F32: "f",
    ValueType.BOOL: "?",
    ValueType.U64: "Q",
    ValueType.I64: "q",
    ValueType.F64: "d",
}


@dataclass(frozen=True)
class Value:
    """One metadata value. `payload`: scalars little-endian; strings as u64 length and bytes."""

    type: ValueType
    payload: bytes
    element: ValueType | None = None  # of an array
    count: int = 1

    def serialise(self) -> bytes:
        """The value as it follows its key in a file."""
        if self.type is not ValueType.ARRAY:
            return struct.pack("<I", self.type) + self.payload
        assert self.element is not None
        return struct.pack("<IIQ", self.type, self.element, self.count) + self.payload

    def decode(self) -> Any:
        """The Python value: int, float, bool, str, or a list of these."""
        if self.type is not ValueType.ARRAY:
            return _decode_items(self.type, self.payload, 1)[0]
        assert self.element is not None
        return _decode_items(self.element, self.payload, self.count)


Metadata = dict[str, Value]


def _decode_items(kind: ValueType, payload: bytes, count: int) -> list[Any]:
    if kind is ValueType.STRING:
        items, at = [], 0
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", payload, at)
            items.append(payload[at + 8 : at + 8 + length].decode("utf-8", "replace"))
            at += 8 + length
        return items
    if kind not in _FORMAT:
        raise ValueError(f"arrays of {kind.name} are not supported")
    return list(struct.unpack(f"<{count}{_FORMAT[kind]}", payload))


def encode_string(text: str) -> bytes:
    """A GGUF string: u64 length and UTF-8 bytes."""
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _scalar(kind: ValueType, value: float) -> Value:
    return Value(kind, struct.pack("<" + _FORMAT[kind], value))


def _array(kind: ValueType, values: Sequence[Any]) -> Value:
    payload = struct.pack(f"<{len(values)}{_FORMAT[kind]}", *values)
    return Value(ValueType.ARRAY, payload, kind, len(values))


def u32(value: int) -> Value:
    """An unsigned 32-bit number."""
    return _scalar(ValueType.U32, value)


def f32(value: float) -> Value:
    """A 32-bit float."""
    return _scalar(ValueType.F32, value)


def boolean(value: bool) -> Value:
    """A truth value."""
    return _scalar(ValueType.BOOL, value)


def string(value: str) -> Value:
    """A UTF-8 string."""
    return Value(ValueType.STRING, encode_string(value))


def i32s(values: Sequence[int]) -> Value:
    """An array of signed 32-bit numbers."""
    return _array(ValueType.I32, values)


def f32s(values: Sequence[float]) -> Value:
    """An array of 32-bit floats."""
    return _array(ValueType.F32, values)


def booleans(values: Sequence[bool]) -> Value:
    """An array of truth values."""
    return _array(ValueType.BOOL, values)


def strings(values: Iterable[str]) -> Value:
    """An array of strings."""
    items = [encode_string(value) for value in values]
    return Value(ValueType.ARRAY, b"".join(items), ValueType.STRING, len(items))
