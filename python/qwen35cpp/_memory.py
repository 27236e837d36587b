"""Memory: what the machine has, what a model takes of it, and what to choose when it is too little.

`qwen35cpp fit` shows the estimate; Llama uses it for `memory_limit` and to refuse what cannot fit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import NotEnoughMemory

_CACHE = 512 << 20  # bytes of the prefix cache where nothing else is said
_STATES = 4096  # tokens of long text between two states of the prefix cache
KV_CHOICES = ("f16", "q8_0", "iq4_nl")  # from exact to small
SMALLEST = 512  # tokens of a context worth offering


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes with a full context."""

    n_ctx: int
    kv_type: str
    weights: int
    kv: int  # keys and values, of all contexts
    state: int  # recurrent states, of all contexts
    scratch: int
    vision: int = 0  # weights of the tower
    cache: int = 0  # states of the prefix cache, at most
    process: int = 0  # interpreter and vocabulary

    @property
    def total(self) -> int:
        """All together."""
        parts = (self.weights, self.kv, self.state, self.scratch, self.vision, self.cache)
        return sum(parts) + self.process

    def with_context(self, n_ctx: int) -> Needs:
        """The same with another context."""
        return replace(self, n_ctx=n_ctx, kv=self.kv * n_ctx // self.n_ctx)


def memory() -> tuple[int, int]:
    """Bytes of memory in total and available to this process; 0 where unknown."""
    total, available = 0, 0
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        total = 1024 * int(fields["MemTotal"].split()[0])
        available = 1024 * int(fields.get("MemAvailable", fields["MemFree"]).split()[0])
    elif sys.platform != "win32":
        total = available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _group_limit()
    return (min(total, limit), min(available, limit - used)) if limit else (total, available)


def _group_limit() -> tuple[int, int]:
    """The memory limit of a container and what it uses; 0, 0 without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 0, 0
    return (int(limit), used) if limit.isdigit() else (0, 0)


def resident() -> int:
    """Bytes of memory that this process takes now; 0 where unknown."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def default_cache(n_ctx: int, state: int) -> int:
    """Bytes of the prefix cache by default: never more than the states of some full contexts."""
    total = memory()[0] or _CACHE * 16
    return min(_CACHE, total // 16, 4 * state * (16 + n_ctx // _STATES))


def largest_context(needs: Needs, have: int) -> int:
    """The longest context that fits, a multiple of 256; 0 when not even a short one does."""
    rest = have - (needs.total - needs.kv)
    n_ctx = max(rest, 0) * needs.n_ctx // max(needs.kv, 1) // 256 * 256
    return min(n_ctx, needs.n_ctx) if n_ctx >= SMALLEST else 0


def refuse(needs: Needs, have: int, of: Callable[[str], Needs]) -> NotEnoughMemory:
    """The error for what does not fit, with the choices that do; `of` estimates a kv_type."""
    choices = []
    for kind in KV_CHOICES:
        other = of(kind)
        if other.kv < needs.kv and other.total <= have:
            choices.append(f"kv_type={kind!r}")
            break
    n_ctx = largest_context(needs, have)
    if n_ctx:
        choices.append(f"n_ctx={n_ctx}")
    hint = f"what fits: {' or '.join(choices)}" if choices else None
    return NotEnoughMemory(
        f"a context of {needs.n_ctx} tokens with kv_type={needs.kv_type!r} needs "
        f"{needs.total / 1e9:.2f} GB with the model, there are {have / 1e9:.2f} GB",
        hint=hint,
    )


def choose(
    limit: int,
    n_ctx: int | None,
    native: int,
    kinds: tuple[str, ...],
    of: Callable[[str, int], Needs],
) -> Needs:
    """The kv_type and context within a limit: the most exact type that holds the whole context.

    Where none does and no context was asked for, the second most exact with the longest that fits.
    """
    for kind in kinds:
        needs = of(kind, n_ctx or native)
        if needs.total <= limit:
            return needs
    if n_ctx is None:
        needs = of(kinds[min(1, len(kinds) - 1)], native)
        longest = largest_context(needs, limit)
        if longest:
            return needs.with_context(longest)
    needs = of(kinds[0], n_ctx or native)
    raise refuse(needs, limit, lambda kind: of(kind, needs.n_ctx))
