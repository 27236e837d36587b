"""Memory of the machine, and what a model takes of it."""

from __future__ import annotations

import os
from pathlib import Path

_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_CACHE = 512 << 20  # bytes of the prefix cache where nothing else is said


def physical() -> int:
    """Bytes of memory of the machine, or of the control group that limits this process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_limit(path) for path in _LIMITS]
    return min([total, *(limit for limit in limits if limit is not None)])


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # "max": no limit
        return None


def default_cache() -> int:
    """Bytes of the prefix cache by default."""
    return min(_CACHE, physical() // 16)
