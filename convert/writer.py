"""Streaming GGUF writer: the target appears complete, or not at all.

Data goes to `<target>.part` in the same folder; closing writes the hashes into the header, syncs
the file, renames it over the target and syncs the folder. A killed run leaves the old target
untouched and a `.part` that the next run takes over; a lock keeps two runs apart. Only the header
and the chunk at hand are in memory.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from . import metadata as md
from ._errors import ConversionError, DiskSpaceError
from .ggml_types import TensorType, row_bytes

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; the rename is still atomic
    fcntl = None  # type: ignore[assignment]

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
ALIGNMENT = 32  # of tensor data; the default of the format
_MAGIC, _VERSION = b"GGUF", 3

# SHA-256 rather than BLAKE2b: where the CPU has SHA instructions it is the faster one
# (1.67 against 0.67 GB/s on the development machine), and every tool can recompute it.
HASH_ALGORITHM = "sha256"
KEY_ALGORITHM = "qwen35cpp.tensor_hash.algorithm"
KEY_TENSOR_HASHES = "qwen35cpp.tensor_hash.digests"
KEY_HEADER_HASH = "qwen35cpp.header_hash"
HASH_KEYS = (KEY_ALGORITHM, KEY_TENSOR_HASHES, KEY_HEADER_HASH)
NO_DIGEST = "0" * 64  # same length as any hex SHA-256, so that the header keeps its size


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (GGUF order, fastest dimension first) and type of a tensor to be written."""

    name: str
    ne: tuple[int, ...]
    type: TensorType

    @property
    def rows(self) -> int:
        """Product of all dimensions but the first."""
        return math.prod(self.ne[1:])

    @property
    def bytes(self) -> int:
        """Size of the data without padding."""
        return self.rows * row_bytes(self.type, self.ne[0])


def _pad(size: int) -> int:
    return -size % ALIGNMENT


def build_header(metadata: md.Metadata, tensors: Sequence[TensorSpec]) -> bytes:
    """Everything before the tensor data, padded to the alignment."""
    parts = [_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [md.encode_string(key), value.serialise()]
    offset = 0
    for tensor in tensors:
        parts.append(md.encode_string(tensor.name))
        parts.append(struct.pack(f"<I{len(tensor.ne)}Q", len(tensor.ne), *tensor.ne))
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset += tensor.bytes + _pad(tensor.bytes)
    header = b"".join(parts)
    return header + bytes(_pad(len(header)))


def header_digest(header: bytes) -> str:
    """Digest of a header whose own digest field holds NO_DIGEST."""
    return hashlib.new(HASH_ALGORITHM, header).hexdigest()


@dataclass
class GgufWriter:
    """Context manager: `write()` the data of every tensor in order, in chunks of any size."""

    path: Path
    metadata: md.Metadata
    tensors: Sequence[TensorSpec]
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        if self.path.is_dir():
            raise ConversionError(f"{self.path} is a folder", hint="give the name of a file")
        self._digests: list[str] = []
        self._index = 0
        self._left = 0
        self._hash = hashlib.new(HASH_ALGORITHM)
        self._header_bytes = len(self._build(NO_DIGEST))
        data = sum(tensor.bytes + _pad(tensor.bytes) for tensor in self.tensors)
        self.total_bytes = self._header_bytes + data
        self._fd = -1

    # -- life -------------------------------------------------------------------------------

    def __enter__(self) -> GgufWriter:
        self._part = self.path.with_name(self.path.name + ".part")
        self._fd = _open_part(self._part)
        try:
            os.ftruncate(self._fd, 0)  # what a killed run left counts as free space
            check_free_space(self.path.parent, self.total_bytes)
            self._put(self._build(NO_DIGEST))
            self._start_tensor()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise

    def _finish(self) -> None:
        if self._index != len(self.tensors):
            missing = self.tensors[self._index]
            raise ConversionError(f"{missing.name}: {self._left} bytes were not written")
        header = self._build(header_digest(self._build(NO_DIGEST)))
        assert len(header) == self._header_bytes
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._put(header)
        os.fsync(self._fd)
        if os.name == "nt":  # an open file cannot be renamed there
            self._close()
        self._part.replace(self.path)
        self._close()
        _sync_folder(self.path.parent)

    def _abandon(self) -> None:
        if self._fd >= 0:
            if os.name == "nt":
                self._close()
            self._part.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- data -------------------------------------------------------------------------------

    def write(self, chunk: Any) -> None:
        """Appends bytes (or any buffer) to the current tensor; may not reach into the next one."""
        view = memoryview(chunk).cast("B")
        if self._index >= len(self.tensors) or view.nbytes > self._left:
            raise ConversionError("more bytes written than the tensors declared")
        self._hash.update(view)
        self._put(view)
        self._left -= view.nbytes
        if self._left == 0:
            self._end_tensor()

    def _start_tensor(self) -> None:
        if self._index < len(self.tensors):
            self._left = self.tensors[self._index].bytes
            self._hash = hashlib.new(HASH_ALGORITHM)

    def _end_tensor(self) -> None:
        self._digests.append(self._hash.hexdigest())
        self._put(bytes(_pad(self.tensors[self._index].bytes)))
        self._index += 1
        self._start_tensor()

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view.nbytes:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            full = error.errno in _DISK_FULL
            kind = DiskSpaceError if full else ConversionError
            hint = f"{self.total_bytes:,} bytes are needed in {self.path.parent}" if full else None
            message = f"{self._part}: writing stopped: {error.strerror}"
            raise kind(message, hint=hint) from error

    def _build(self, own_digest: str) -> bytes:
        missing = len(self.tensors) - len(self._digests)
        metadata = {key: val for key, val in self.metadata.items() if key not in HASH_KEYS}
        metadata[KEY_ALGORITHM] = md.string(HASH_ALGORITHM)
        metadata[KEY_TENSOR_HASHES] = md.strings(self._digests + [NO_DIGEST] * missing)
        metadata[KEY_HEADER_HASH] = md.string(own_digest)
        return build_header(metadata, self.tensors)


def check_free_space(folder: Path, needed: int) -> None:
    """Raises DiskSpaceError when `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskSpaceError(
            f"{folder}: {needed:,} bytes needed, {free:,} free",
            hint=f"free {needed - free:,} bytes or write to another disk",
        )


def _open_part(part: Path) -> int:
    """Opens and locks the temporary file; retries when it was renamed between the two steps."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        try:
            fd = os.open(part, flags | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise ConversionError(
                f"{part}: cannot be created: {error.strerror}", hint="choose another output folder"
            ) from error
        if _lock(fd, part):
            return fd
        os.close(fd)


def _lock(fd: int, part: Path) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConversionError(f"{part} exists and is not a file", hint="remove it")
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ConversionError(
            f"{part}: another conversion is writing this file", hint="wait for it or stop it"
        ) from None
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(part))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable; folders cannot be opened on Windows, which needs no such step."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
