"""What states depend on, in a few characters."""

from __future__ import annotations

import os
from pathlib import Path

_SAMPLES, _SAMPLE = 64, 4096


def fingerprint(path: Path, *settings: object) -> str:
    """A digest of a model's file (its size, and samples of its bytes) and of settings."""
    import hashlib  # loads OpenSSL: only for who keeps states in files

    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for index in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * index // (_SAMPLES - 1))
            state.update(file.read(_SAMPLE))
    state.update(repr((size, *settings)).encode())
    return state.hexdigest()
