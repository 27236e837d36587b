"""The estimate of `qwen35cpp fit` against the peak of a process that fills its contexts.

The caches are filled without reading, as in deep.py; then a prompt is read, an answer drawn with
drafts, and with --side a picture encoded.

    python bench/memory.py MODEL.gguf [--ctx 32768] [--kv q8_0] [--parallel 2] [--side 1024]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from process import memory

PARTS = ("weights", "kv", "state", "scratch", "process")
PIECE = 256  # tokens whose entries are written at once


def fill(args: argparse.Namespace) -> int:
    """Does what the estimate is about; returns the peak of this process in bytes."""
    from qwen35cpp import Llama

    llm = Llama(
        args.model,
        n_ctx=args.ctx,
        kv_type=args.kv,
        draft=args.draft,
        n_parallel=args.parallel,
        mmproj=args.mmproj,
        prefix_cache=False,  # its states are counted apart
    )
    for slot in llm._engine.slots:
        session = slot.session
        for first in range(0, args.ctx, PIECE):
            session.import_entries(first, bytes(min(PIECE, args.ctx - first) * session.token_bytes))
        session.eval(list(range(10, min(600, args.ctx))))
    llm.generate("One, two, three. " * 20, max_tokens=12)
    if args.side:
        import numpy as np

        from qwen35cpp.vision import Picture

        llm._engine.tower().rows(Picture(np.zeros((args.side, args.side, 3), np.uint8)))
    return int(memory("VmHWM") * 2**20)


def estimate(args: argparse.Namespace) -> dict[str, Any]:
    """The report of `qwen35cpp fit`."""
    options = ["--ctx", str(args.ctx), "--kv", args.kv, "--draft", args.draft]
    options += ["--parallel", str(args.parallel), *(["--mmproj", args.mmproj] * bool(args.mmproj))]
    command = [sys.executable, "-m", "qwen35cpp", "fit", args.model, "--json", *options]
    report: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True).stdout)
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--ctx", type=int, default=32_768)
    parser.add_argument("--kv", default="f16", choices=("f16", "q8_0", "iq4_nl"))
    parser.add_argument("--draft", default="auto")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--mmproj")
    parser.add_argument("--side", type=int, default=0, help="pixels of a square picture to encode")
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fill:
        print(fill(args))
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--fill"]
    peak = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    needs = estimate(args)
    parts = (*PARTS, "vision", "encoding") if args.side else PARTS
    total = sum(needs[name] for name in parts)
    for name in parts:
        print(f"{name:10} {needs[name] / 1e6:10.1f} MB")
    print(f"estimate   {total / 1e6:10.1f} MB")
    print(f"peak       {peak / 1e6:10.1f} MB, estimate {100 * (total / peak - 1):+.1f} %")


if __name__ == "__main__":
    main()
