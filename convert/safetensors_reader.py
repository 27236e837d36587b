"""Reader of safetensors checkpoints, one file or several: nothing but data, every number checked.

The header (u64 length, JSON of names to dtype, shape and byte range) is validated as a whole before
any tensor is read: ranges must tile the data exactly, as the format demands. Values are read with
plain reads in the row blocks that are asked for and returned as float32, so memory use is the
caller's choice and a file that shrinks meanwhile is an error instead of a signal.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import CheckpointError
from .config import read_json

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 8
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
# Stored by other checkpoints; named to give a clear refusal instead of "unknown".
_FOREIGN = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_FOREIGN |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1)
_PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint: where its values lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int  # from the start of the file
    bytes: int


class _File:
    """One opened safetensors file. Several threads may read."""

    def __init__(self, path: Path) -> None:
        try:
            self._handle = path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
        self._lock = Lock()
        self.path = path
        self.size = os.fstat(self._handle.fileno()).st_size

    def read(self, offset: int, count: int) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        with self._lock:
            try:
                self._handle.seek(offset)
                while done < count and (got := self._handle.readinto(view[done:])):
                    done += got
            except OSError as error:
                raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
        if done < count:
            raise CheckpointError(f"{self.path}: ends at byte {offset + done}")
        return data

    def close(self) -> None:
        self._handle.close()


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file; CheckpointError when anything about the header is not right."""
    file = _File(path)
    try:
        if file.size < 8:
            raise CheckpointError(f"{path}: {file.size} bytes are no safetensors file")
        (length,) = struct.unpack("<Q", file.read(0, 8))
        limit = min(MAX_HEADER_BYTES, file.size - 8)
        if not 2 <= length <= limit:
            raise CheckpointError(
                f"{path}: header length at byte 0: expected 2..{limit}, found {length}"
            )
        header = _parse(path, bytes(file.read(8, length)))
        return _tensors(path, header, 8 + length, file.size)
    finally:
        file.close()


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CheckpointError(f"{path}: header: a name occurs twice")
        return result

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: header is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: header: expected an object")
    header.pop("__metadata__", None)
    return header


def _tensors(path: Path, header: dict[str, Any], start: int, end: int) -> dict[str, StoredTensor]:
    tensors = [_tensor(path, name, entry, start) for name, entry in header.items()]
    at = start
    for tensor in sorted(tensors, key=lambda item: (item.offset, item.bytes)):
        if tensor.offset != at:
            raise CheckpointError(
                f"{path}: {tensor.name}: data_offsets: expected {at - start}, "
                f"found {tensor.offset - start} (gap or overlap)"
            )
        at += tensor.bytes
    if at != end:
        raise CheckpointError(
            f"{path}: expected {at:,} bytes, found {end:,}",
            hint="the download is incomplete: fetch the file again",
        )
    return {tensor.name: tensor for tensor in tensors}


def _tensor(path: Path, name: str, entry: object, start: int) -> StoredTensor:
    where = f"{path}: {name[:200]}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTHS | _FOREIGN:
        raise CheckpointError(f"{where}: dtype: expected F32, F16 or BF16, found {str(dtype)[:40]}")
    if not _is_counts(shape) or len(shape) > MAX_DIMS:
        raise CheckpointError(f"{where}: shape: expected up to {MAX_DIMS} sizes")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets: expected two ascending numbers")
    size = math.prod(shape) * (_WIDTHS | _FOREIGN)[dtype]
    if size != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"{where}: {dtype} {shape}: expected {size} bytes, found {offsets[1] - offsets[0]}"
        )
    return StoredTensor(name, dtype, tuple(shape), path, start + offsets[0], size)


def _is_counts(value: object) -> bool:
    """A list of integers that any file can hold; bool is no integer here."""
    if not isinstance(value, list):
        return False
    return all(type(item) is int and 0 <= item < 1 << 48 for item in value)


class Checkpoint:
    """All tensors of a folder. Context manager; reading is safe from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        for path in _find_files(folder):
            for name, tensor in read_header(path).items():
                if name in self.tensors:
                    raise CheckpointError(f"{path}: {name}: also in {self.tensors[name].file.name}")
                self.tensors[name] = tensor
        self._check_index()
        self._files: dict[Path, _File] = {}

    def __enter__(self) -> Checkpoint:
        for path in {tensor.file for tensor in self.tensors.values()}:
            self._files[path] = _File(path)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _check_index(self) -> None:
        path = self.folder / _INDEX
        if not path.exists():
            return
        for name, shard in _weight_map(path).items():
            tensor = self.tensors.get(name)
            if tensor is None or tensor.file.name != shard:
                raise CheckpointError(f"{path}: {name}: not in {shard}")

    def rows(self, tensor: StoredTensor, cols: int, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of the tensor seen as a matrix of `cols` columns, as float32."""
        width = _WIDTHS.get(tensor.dtype)
        if width is None:
            raise CheckpointError(
                f"{tensor.name}: dtype: expected F32, F16 or BF16, found {tensor.dtype}",
                hint="convert the original BF16 checkpoint",
            )
        step = cols * width
        offset, count = tensor.offset + start * step, (stop - start) * step
        if not 0 <= start <= stop or offset + count > tensor.offset + tensor.bytes:
            raise ValueError(f"{tensor.name}: rows {start}..{stop} are outside the tensor")
        raw = self._files[tensor.file].read(offset, count)
        return _widen(raw, tensor.dtype).reshape(stop - start, cols)


def _widen(raw: bytearray, dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, "<f4")
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    wide = np.frombuffer(raw, "<u2").astype(np.uint32)  # BF16 is the upper half of a float32
    wide <<= 16
    return wide.view(np.float32)


_INDEX = "model.safetensors.index.json"


def _weight_map(path: Path) -> dict[str, str]:
    data = read_json(path)
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{path}: weight_map: expected an object of tensor names")
    for name, shard in names.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise CheckpointError(
                f"{path}: {name[:200]}: expected the name of a .safetensors file in this folder, "
                f"found {str(shard)[:80]!r}"
            )
    return names


def _is_plain(name: str) -> bool:
    """A file name without any way out of the folder."""
    is_shard = name.endswith(".safetensors") and len(name) < 256
    return is_shard and not any(char in name for char in "/\\:\0")


def _find_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: not a folder", hint="give the folder with config.json and *.safetensors"
        )
    if (folder / _INDEX).exists():
        return [folder / name for name in sorted(set(_weight_map(folder / _INDEX).values()))]
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise CheckpointError(f"{folder}: {len(found)} .safetensors files but no {_INDEX}")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE)
    if pickles:
        raise CheckpointError(
            f"{folder}: {pickles[0]} is a pickle file, which can run code when opened: refused",
            hint="use the .safetensors files of the same model",
        )
    raise CheckpointError(f"{folder}: no .safetensors file")
