"""Decode speed and memory at depth, without the hours that reading the tokens would take.

The caches are filled with the entries of a short text, again and again: the time of a step and the
memory depend on how many entries there are, not on what they hold.

    python bench/deep.py MODEL.gguf [--depths 0,8192,32768,131072] [--kv q8_0] [--tokens 8]
    python bench/deep.py 2b.gguf --rope-scaling yarn --depths 1009900 --kv iq4_nl --limit 6
    python bench/deep.py 2b.gguf --depths 32768 --kv q8_0 --batch 128 --limit 1.6

With --limit it fails when the process took more memory than that at its peak.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from pathlib import Path

from process import memory

from qwen35cpp import _handles
from qwen35cpp._load import rope_factor

SEED = 256  # tokens whose entries are repeated
POSITION = 4  # byte of a snapshot where its position and rotary position stand


def fill(session: _handles.Session, depth: int) -> None:
    """Makes a session stand behind `depth` tokens."""
    session.reset()
    n = min(max(depth, 1), SEED)
    session.eval([1 + i % 250 for i in range(n)])
    entries = session.export_entries(0, n)
    for first in range(n, depth, n):
        part = memoryview(entries)[: min(n, depth - first) * session.token_bytes]
        session.import_entries(first, part)
    snapshot = session.snapshot()
    struct.pack_into("=II", snapshot, POSITION, max(depth, 1), max(depth, 1))
    session.restore(snapshot)


def resident() -> tuple[int, int]:
    """Bytes of memory in use by this process, now and at most."""
    return int(memory("VmRSS") * 2**20), int(memory("VmHWM") * 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--depths", default="0,8192,32768,131072,262080")
    parser.add_argument("--kv", choices=tuple(_handles.KV_TYPES), default="auto")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--batch", type=int, default=None, help="tokens of a prefill batch")
    parser.add_argument("--rope-scaling", choices=["yarn"], help="for contexts beyond the native")
    parser.add_argument("--limit", type=float, metavar="GB", help="memory that is allowed")
    args = parser.parse_args()
    depths = [int(n) for n in args.depths.split(",")]
    factor = rope_factor(args.rope_scaling)
    model = _handles.Model(bytes(args.model), n_threads=args.threads, rope_factor=factor)
    settings = {
        "n_ctx": max(depths) + args.tokens + 1,
        "n_batch": args.batch,
        "kv_type": _handles.KV_TYPES[args.kv],
    }
    session = _handles.Session(model, **settings)
    greedy = _handles.Sampler(
        model, _handles.Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={}
    )
    cache_bytes = session.token_bytes
    needs = model.estimate(args.threads, **settings)
    print(
        f"{args.model.name}, {args.kv} cache: {cache_bytes} bytes a token; estimated for a full "
        f"context: cache {needs.kv / 1e9:.3f} GB, state {needs.state / 1e9:.3f}, scratch "
        f"{needs.scratch / 1e9:.3f}; file {args.model.stat().st_size / 1e9:.3f}"
    )
    print("| depth | tokens/s | ms a step | cache GB/s | resident GB | peak GB |")
    print("|---|---|---|---|---|---|")
    for depth in depths:
        fill(session, depth)
        steps = []
        token = 0
        for _ in range(args.tokens):
            start = time.perf_counter()
            token = session.decode((token,), greedy, (), 1)[0][0]
            steps.append(time.perf_counter() - start)
        step = sorted(steps)[len(steps) // 2]
        now, peak = resident()
        rate = depth * cache_bytes / step / 1e9
        print(
            f"| {depth} | {1 / step:.2f} | {1e3 * step:.1f} | {rate:.1f} "
            f"| {now / 1e9:.2f} | {peak / 1e9:.2f} |",
            flush=True,
        )
    session.close()
    model.close()
    if args.limit and resident()[1] > args.limit * 1e9:
        sys.exit(f"more than {args.limit} GB of memory")


if __name__ == "__main__":
    main()
