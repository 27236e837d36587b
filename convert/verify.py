"""Checks a GGUF file against the digests that the converter wrote into it.

GGUF itself has no checksums: a flipped bit in a weight becomes odd text. The digests cover every
tensor's data and the header with all metadata; only padding is not covered.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ._engine import GgufFile, GgufTensor
from .writer import (
    HASH_ALGORITHM,
    KEY_ALGORITHM,
    KEY_HEADER_HASH,
    KEY_TENSOR_HASHES,
    NO_DIGEST,
    header_digest,
)

_CHUNK = 8 << 20


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with the file, one sentence each; empty when all digests agree.

    A file that is no GGUF, or is cut short, raises the reader's error (ModelInvalid, FileError).
    """
    path = Path(path)
    with GgufFile(path) as file:
        missing = [key for key in (KEY_ALGORITHM, KEY_TENSOR_HASHES) if key not in file.metadata]
        if missing:
            return [f"{path}: {missing[0]} is absent: the file was not written by qwen35cpp"]
        algorithm = file.metadata[KEY_ALGORITHM].decode()
        if algorithm != HASH_ALGORITHM:
            return [f"{path}: {KEY_ALGORITHM}: expected {HASH_ALGORITHM}, found {algorithm!r}"]
        problems = _check_header(path, file)
        digests = file.metadata[KEY_TENSOR_HASHES].decode()
        if not isinstance(digests, list) or len(digests) != len(file.tensors):
            return [*problems, f"{path}: {len(file.tensors)} tensors, but not as many digests"]
        for tensor, expected in zip(file.tensors, digests, strict=True):
            if _digest(file, tensor) != expected:
                span = f"{tensor.offset}..{tensor.offset + tensor.bytes}"
                problems.append(f"{tensor.name}: bytes {span} are not what was written")
        return problems


def _digest(file: GgufFile, tensor: GgufTensor) -> str:
    state = hashlib.new(HASH_ALGORITHM)
    for offset in range(0, tensor.bytes, _CHUNK):
        state.update(file.read(tensor, offset, min(_CHUNK, tensor.bytes - offset)).data)
    return state.hexdigest()


def _check_header(path: Path, file: GgufFile) -> list[str]:
    """Hashes the bytes before the first tensor, with the digest's own field blanked."""
    value = file.metadata.get(KEY_HEADER_HASH)
    expected = value.decode() if value is not None else None
    if not isinstance(expected, str) or not file.tensors:
        return [f"{path}: {KEY_HEADER_HASH} is absent"]
    with path.open("rb") as stream:
        header = stream.read(min(tensor.offset for tensor in file.tensors))
    at = header.find(expected.encode(), header.find(KEY_HEADER_HASH.encode()))
    blank = header[:at] + NO_DIGEST.encode() + header[at + len(NO_DIGEST) :]
    if len(expected) == len(NO_DIGEST) and header_digest(blank) == expected:
        return []
    return [f"{path}: the header (metadata and tensor list) is not what was written"]
