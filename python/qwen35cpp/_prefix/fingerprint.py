"""What states depend on, in a few characters."""

from __future__ import annotations

from pathlib import Path

from .._handles import Gguf

_SAMPLE = 4096  # bytes


def fingerprint(path: Path, *settings: object) -> str:
    """A digest of a model, in all its shards, and of settings.

    It covers the metadata with the vocabulary, name, type, shape and size of every tensor, and of
    each tensor's data the first, the middle and the last 4 KiB: reading all of a large file would
    take seconds. A change to all of a matrix, as by training or another quantiser, does not escape
    it, a change to a few rows within one may. Files of our converter hold a SHA-256 of each tensor
    in their metadata, so that of these nothing does.
    """
    import hashlib  # loads OpenSSL: only for who keeps states in files

    state = hashlib.blake2b(digest_size=16)
    file = Gguf(bytes(path))
    try:
        for key, kind, data in file.values():
            state.update(repr((key, kind, len(data))).encode())
            state.update(data)
        for index, tensor in enumerate(file.tensors()):
            state.update(repr(tensor).encode())
            size = min(_SAMPLE, tensor.bytes)
            last = tensor.bytes - size
            for offset in sorted({0, last // 2, last}):
                state.update(file.read(index, offset, size))
    finally:
        file.close()
    state.update(repr(settings).encode())
    return state.hexdigest()
