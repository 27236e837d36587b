"""What a GGUF file contains: metadata, tensors, and how the bytes are spread over types."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import metadata as md
from ._engine import GgufFile, type_traits
from .ggml_types import FileType
from .writer import KEY_TENSOR_HASHES

_LONG = 16  # arrays beyond this length are summarised


@dataclass(frozen=True)
class TensorInfo:
    """One tensor; `shape` is in GGUF order, fastest dimension first."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    offset: int


@dataclass(frozen=True)
class FileInfo:
    """Contents of a file, or of all shards of one."""

    path: str
    architecture: str
    name: str
    file_type: str
    file_bytes: int  # of the shard given
    tensor_bytes: int
    parameters: int
    has_mtp: bool
    has_vision: bool
    has_digests: bool  # verify() can check it
    types: dict[str, tuple[int, int]]  # tensors and bytes per tensor type
    metadata: dict[str, Any]  # long arrays as "[248320 strings]"
    tensors: list[TensorInfo]

    @property
    def bits_per_weight(self) -> float:
        """Average over all tensors."""
        return 8 * self.tensor_bytes / max(1, self.parameters)


def info(path: str | os.PathLike[str]) -> FileInfo:
    """Reads the header of any GGUF file; raises the reader's errors."""
    path = Path(path)
    with GgufFile(path) as file:
        tensors = [
            TensorInfo(item.name, type_traits(item.type).name, item.ne, item.bytes, item.offset)
            for item in file.tensors
        ]
        parameters = sum(item.elements for item in file.tensors)
        values = file.metadata
    types: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        count, size = types.get(tensor.type, (0, 0))
        types[tensor.type] = (count + 1, size + tensor.bytes)
    return FileInfo(
        path=str(path),
        architecture=_text(values, "general.architecture"),
        name=_text(values, "general.name"),
        file_type=_file_type(values),
        file_bytes=path.stat().st_size,
        tensor_bytes=sum(tensor.bytes for tensor in tensors),
        parameters=parameters,
        has_mtp=any(".nextn." in tensor.name for tensor in tensors),
        has_vision=any(tensor.name.startswith("v.") for tensor in tensors),
        has_digests=KEY_TENSOR_HASHES in values,
        types=types,
        metadata={key: _shown(value) for key, value in values.items()},
        tensors=tensors,
    )


def _text(values: md.Metadata, key: str) -> str:
    value = values.get(key)
    return value.decode() if value is not None and value.type is md.ValueType.STRING else ""


def _file_type(values: md.Metadata) -> str:
    value = values.get("general.file_type")
    if value is None or value.type is not md.ValueType.U32:
        return ""
    number = value.decode()
    known = number in FileType.__members__.values()
    return FileType(number).name if known else f"file type {number}"


def _shown(value: md.Value) -> Any:
    if value.element is not None and value.count > _LONG:
        kind = "strings" if value.element is md.ValueType.STRING else value.element.name.lower()
        return f"[{value.count} {kind}]"
    decoded = value.decode()
    if value.type is md.ValueType.F32:
        return float(str(np.float32(decoded)))  # 1e-06, not 9.999999974752427e-07
    return decoded
