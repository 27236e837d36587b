"""Times going back to a long prefix: from memory, and from a file in and out of the page cache.

The cache entries are random: copying them depends on their number alone.

    python bench/restore.py MODEL.gguf [--tokens 20000] [--kv f16,q8_0] [--folder .]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from qwen35cpp import Llama
from qwen35cpp._prefix import Node

PIECE = 1024
clock: Callable[[], float] = time.perf_counter


def fill(llm: Llama, tokens: list[int]) -> Node:
    """Makes the first slot believe that it has read these tokens, and keeps that state."""
    with llm._engine.hold_first() as held, held.slot.alive, held.slot.lock:
        timeline = held.slot.timeline
        session = held.slot.session
        snapshot = session.snapshot()
        entries = os.urandom(PIECE * session.token_bytes)
        for first in range(0, len(tokens), PIECE):
            count = min(PIECE, len(tokens) - first)
            session.import_entries(first, entries[: count * session.token_bytes])
        for place in (4, 8):  # position and rotary position, see csrc/runtime/snapshot.cpp
            snapshot[place : place + 4] = len(tokens).to_bytes(4, "little")
        session.restore(snapshot)
        timeline.held = list(tokens)
        node = timeline.keep(pinned=True)
        assert node is not None
        return node


def go(llm: Llama, node: Node) -> float:
    """Seconds to stand behind a node, when the caches hold something else."""
    with llm._engine.hold_first() as held, held.slot.alive, held.slot.lock:
        timeline = held.slot.timeline
        timeline.reset()
        held.slot.session.eval([5] * 9)
        timeline.held = [5] * 9
        start = clock()
        assert timeline.go(node)
        return clock() - start


def from_file(args: argparse.Namespace, kv: str, path: Path, *, cached: bool) -> float:
    """Seconds to load a state of a file and to stand behind it."""
    if not cached:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with Llama(args.model, n_ctx=args.tokens + 512, kv_type=kv, n_parallel=1) as llm:
        start = clock()
        _header, node = llm._engine.load_node(path)
        return clock() - start + go(llm, node)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--kv", default="f16,q8_0")
    parser.add_argument("--cpu", action="store_true", help="CPU time: for a busy machine")
    parser.add_argument("--folder", type=Path, default=Path())
    args = parser.parse_args()
    global clock
    clock = time.process_time if args.cpu else time.perf_counter
    tokens = [10 + i * 7919 % 5000 for i in range(args.tokens)]
    path = args.folder / "restore-bench.q35state"
    for kv in args.kv.split(","):
        with Llama(args.model, n_ctx=args.tokens + 512, kv_type=kv, n_parallel=1) as llm:
            node = fill(llm, tokens)
            start = clock()
            size = llm._engine.save_node(path, node, {})
            saving = clock() - start
            memory = [go(llm, node) for _ in range(4)]
        warm = min(from_file(args, kv, path, cached=True) for _ in range(2))
        cold = from_file(args, kv, path, cached=False)
        print(
            f"{kv}: {args.tokens} tokens, {size / 1e6:.0f} MB; from memory {min(memory):.3f} s, "
            f"file in the page cache {warm:.3f} s, not in it {cold:.3f} s, saving {saving:.3f} s",
            flush=True,
        )
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
