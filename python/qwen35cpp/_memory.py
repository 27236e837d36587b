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
    """Bytes that a model takes with full contexts."""

    n_ctx: int
    kv_type: str
    weights: int
    kv: int  # keys and values, of all contexts
    state: int  # recurrent states, of all contexts
    scratch: int  # shared, and that of each context
    contexts: int = 1
    vision: int = 0  # weights of the tower
    encoding: int = 0  # scratch of the largest picture
    pictures: int = 0  # kept rows of pictures, at most
    cache: int = 0  # states of the prefix cache and of snapshots, at most
    process: int = 0  # interpreter and vocabulary

    @property
    def total(self) -> int:
        """All together."""
        parts = (self.weights, self.kv, self.state, self.scratch, self.vision, self.encoding)
        return sum(parts) + self.pictures + self.cache + self.process

    def with_context(self, n_ctx: int) -> Needs:
        """The same with another context."""
        return replace(self, n_ctx=n_ctx, kv=self.kv * n_ctx // self.n_ctx)


def memory() -> tuple[int, int]:
    """Bytes of memory in total and available to this process; 0 where unknown."""
    total, available = 0, 0
    fields = _meminfo()
    if fields:
        total = fields["MemTotal"]
        available = fields.get("MemAvailable", fields["MemFree"])
    elif sys.platform != "win32":
        total = available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = group_limit()
    if not limit:
        return total, available
    return min(total, limit), min(available, max(limit - used, 0))


def swap() -> tuple[int, int]:
    """Bytes of swap space in total and free: slow memory, but programs work in it."""
    fields = _meminfo()
    return fields.get("SwapTotal", 0), fields.get("SwapFree", 0)


def _meminfo() -> dict[str, int]:
    """The fields of /proc/meminfo in bytes; none on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {name: 1024 * int(value.split()[0]) for name, value in (x.split(":", 1) for x in lines)}


def group_limit(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> tuple[int, int]:
    """The memory limit of this process's control groups and what they use; 0, 0 without one.

    Of the groups around the process (`own`: its path below `root`) the one that leaves least
    counts. Cached pages of files do not count as used: the system gives them up first.
    """
    tightest = (0, 0)
    group = Path(_own_group() if own is None else own)
    for folder in (group, *group.parents):
        found = _limit_of(root / str(folder).lstrip("/"))
        if found[0] and (not tightest[0] or found[0] - found[1] < tightest[0] - tightest[1]):
            tightest = found
    return tightest


def _own_group() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    paths = [line.split("::", 1)[1] for line in lines if line.startswith("0::")]
    return paths[0] if paths and ".." not in paths[0] else "/"


def _limit_of(folder: Path) -> tuple[int, int]:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return 0, 0
    if not limit.isdigit():
        return 0, 0
    fields = dict(line.split(" ", 1) for line in lines if " " in line)
    cached = sum(int(fields.get(name, 0)) for name in ("inactive_file", "active_file"))
    return int(limit), max(used - cached, 0)


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


def refuse(
    needs: Needs,
    have: int,
    of: Callable[[str], Needs],
    otherwise: str = "take a file of fewer bits",
) -> NotEnoughMemory:
    """The error for what does not fit, with the choices that do; `of` estimates a kv_type.

    `otherwise`: what to do when there is none.
    """
    choices = []
    others = [of(kind) for kind in KV_CHOICES]
    smaller = [each for each in others if each.kv < needs.kv]
    choices += [f"kv_type={each.kv_type!r}" for each in smaller if each.total <= have][:1]
    if n_ctx := largest_context(needs, have):
        choices.append(f"n_ctx={n_ctx}")
    if contexts := _most_contexts(needs, have):
        choices.append(f"n_parallel={contexts}")
    if not choices:
        longest = [(each.kv_type, largest_context(each, have)) for each in smaller]
        choices += [f"kv_type={kind!r} with n_ctx={n}" for kind, n in longest if n][:1]
    hint = f"what fits: {' or '.join(choices)}" if choices else otherwise
    return NotEnoughMemory(
        f"{_described(needs)} needs {needs.total / 1e9:.2f} GB with the model, "
        f"there are {have / 1e9:.2f} GB",
        hint=hint,
    )


def _described(needs: Needs) -> str:
    several = f", {needs.contexts} times," if needs.contexts > 1 else ""
    return f"a context of {needs.n_ctx} tokens with kv_type={needs.kv_type!r}{several}"


def _most_contexts(needs: Needs, have: int) -> int:
    """How many contexts fit, when fewer do; 0 when not one does."""
    each = (needs.kv + needs.state) // needs.contexts
    fewer = needs.contexts - -(-(needs.total - have) // max(each, 1))
    return fewer if 0 < fewer < needs.contexts else 0


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
