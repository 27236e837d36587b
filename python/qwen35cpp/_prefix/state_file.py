"""The file of a state: tokens, cache entries of the last of them, a snapshot, and checksums.

    "Q35STATE", u32 version, u32 bytes of the header, u32 CRC-32 of the header
    header      JSON: what the state belongs to, notes, and of each section its size and the CRC-32
                of each 8 MiB
    sections    tokens (i64 each, negative for pictures), entries, snapshot

Little-endian. A file is written under another name, brought to the disk and then renamed: after a
power failure there is the old one or the new one. Parts are read and checked by several threads:
one core checks about 1 GB/s.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._handles import Buffer
from ..errors import StateInvalid

MAGIC = b"Q35STATE"
VERSION = 2
_FIXED = struct.Struct("<8sIII")
_SECTIONS = ("tokens", "entries", "snapshot")
_MAX_HEADER = 1 << 26
_PART = 8 << 20  # bytes of a checksum
_PIECE = 1 << 20  # bytes read and checked at once, while they are in the processor's cache


@dataclass(frozen=True)
class Header:
    """The beginning of a file, checked."""

    path: Path
    model: str  # fingerprint of what the state belongs to
    start: int  # the first token that it has entries of
    logits: bool
    notes: Mapping[str, Any]
    places: Mapping[str, tuple[int, int, list[int]]]  # section: offset, bytes, CRC-32 of its parts

    def size(self, section: str) -> int:
        """Bytes of a section."""
        return self.places[section][1]


def write(
    path: Path,
    *,
    model: str,
    start: int,
    tokens: Sequence[int],
    entries: Buffer,
    snapshot: Buffer | None,
    logits: bool,
    notes: Mapping[str, Any] | None = None,
) -> int:
    """Writes a state file atomically and returns its size."""
    numbers = array("q", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    parts: list[Buffer] = [numbers.tobytes(), entries, snapshot or b""]
    header = json.dumps(
        {
            "model": model,
            "start": start,
            "logits": logits,
            "notes": notes or {},
            "sections": {
                name: [len(part), _sums(part)] for name, part in zip(_SECTIONS, parts, strict=True)
            },
        }
    ).encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(_FIXED.pack(MAGIC, VERSION, len(header), zlib.crc32(header)))
            file.write(header)
            for part in parts:
                file.write(part)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return size


def _sync_folder(folder: Path) -> None:
    """Brings the new name to the disk, where the system can: Windows opens no folders."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def read_header(path: Path) -> Header:
    """The header of a state file.

    Raises:
        StateInvalid: it is none, it is damaged, or of another version.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        fixed = file.read(_FIXED.size)
        if len(fixed) < _FIXED.size or not fixed.startswith(MAGIC):
            raise StateInvalid(f"{path} is not a saved state of qwen35cpp")
        _, version, length, crc = _FIXED.unpack(fixed)
        if version != VERSION:
            raise StateInvalid(f"{path} has version {version}, this package reads {VERSION}")
        if length > min(_MAX_HEADER, size):
            raise StateInvalid(f"{path} is damaged: its header has {length} bytes")
        data = file.read(length)
    if len(data) != length or zlib.crc32(data) != crc:
        raise StateInvalid(f"{path} is damaged: the checksum of its header is wrong")
    try:
        return _parsed(path, json.loads(data), _FIXED.size + length, size)
    except (KeyError, TypeError, ValueError) as error:
        raise StateInvalid(f"{path} is damaged: {error!r} in its header") from None


def _parsed(path: Path, fields: Any, offset: int, size: int) -> Header:
    places = {}
    for name in _SECTIONS:
        length, sums = fields["sections"][name]
        if len(sums) != len(range(0, length, _PART)):
            raise ValueError(f"{len(sums)} checksums for {length} bytes")
        places[name] = (offset, int(length), [int(each) for each in sums])
        offset += length
    if offset != size:
        raise StateInvalid(f"{path} is cut short: {size} bytes, its header says {offset}")
    start, notes = int(fields["start"]), dict(fields["notes"])
    return Header(path, str(fields["model"]), start, bool(fields["logits"]), notes, places)


def read_section(header: Header, name: str) -> bytearray:
    """One section, its checksums compared."""
    offset, length, sums = header.places[name]
    data = bytearray(length)
    view = memoryview(data)

    def read(first: int) -> int:
        found = 0
        with header.path.open("rb", buffering=0) as file:
            file.seek(offset + first)
            for at in range(first, min(first + _PART, length), _PIECE):
                piece = view[at : min(at + _PIECE, first + _PART)]
                if file.readinto(piece) != len(piece):
                    raise StateInvalid(f"{header.path} became shorter while it was read")
                found = zlib.crc32(piece, found)
        return found

    if _in_parts(length, read) != sums:
        raise StateInvalid(f"{header.path} is damaged: the checksum of its {name} is wrong")
    return data


def _sums(data: Buffer) -> list[int]:
    """The CRC-32 of each part of a section."""
    view = memoryview(data).cast("B")
    return _in_parts(len(view), lambda first: zlib.crc32(view[first : first + _PART]))


def _in_parts(length: int, work: Callable[[int], int]) -> list[int]:
    """What `work` makes of the beginning of each part, in order."""
    starts = range(0, length, _PART)
    if len(starts) < 2:
        return [work(first) for first in starts]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, starts))


def read_tokens(header: Header) -> list[int]:
    """The tokens of a state file."""
    numbers = array("q")
    numbers.frombytes(read_section(header, "tokens"))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
