"""Tensor types and file types of GGUF: numbers, names and block sizes."""

from __future__ import annotations

from enum import IntEnum


class TensorType(IntEnum):
    """Numbers as stored in GGUF files; only the types that the converter writes."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_XS = 23
    BF16 = 30


class FileType(IntEnum):
    """`general.file_type`: what most matrices of a file are."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q8_0 = 7
    Q4_K_M = 15
    Q5_K_M = 17
    Q6_K = 18
    IQ4_XS = 30
    BF16 = 32


# (values, bytes) of one block. A K block holds 256 values: Q4_K is two F16 scales, 12 bytes of
# packed 6-bit group scales and 128 bytes of nibbles; Q5_K adds 32 bytes of fifth bits; Q6_K is
# 128 + 64 bytes of values, 16 scales, one F16; IQ4_XS one F16, 6 bytes of scales, 128 of nibbles.
BLOCKS: dict[TensorType, tuple[int, int]] = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.BF16: (1, 2),
    TensorType.Q4_0: (32, 18),
    TensorType.Q8_0: (32, 34),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
    TensorType.IQ4_XS: (256, 136),
}

FLOAT_TYPES = (TensorType.F32, TensorType.F16, TensorType.BF16)


def row_bytes(tensor_type: TensorType, cols: int) -> int:
    """Bytes of one row of `cols` values; `cols` must be a multiple of the block."""
    values, size = BLOCKS[tensor_type]
    if cols % values:
        raise ValueError(f"{cols} values do not fill blocks of {values} ({tensor_type.name})")
    return cols // values * size


def parse_file_type(name: str) -> FileType:
    """`q4_k_m` or `Q4_K_M` to the number; ValueError names the choices."""
    try:
        return FileType[name.upper()]
    except KeyError:
        choices = ", ".join(member.name.lower() for member in FileType)
        raise ValueError(f"unknown type {name!r}: choose one of {choices}") from None
