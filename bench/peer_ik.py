"""ik_llama.cpp through `ik-llama-cpp-python`, beside peer_native.py: prefill and decode at depth 0.

    python bench/peer_ik.py MODEL.gguf --threads 2 --prompt 512 --new 64

In an environment with `pip install ik-llama-cpp-python`; files without MTP layers. Prints the same
JSON object as peer_native.py: the best of two readings, then tokens generated one by one.
"""

from __future__ import annotations

import argparse
import json
import time

from ik_llama_cpp import _ctypes_api as api
from ik_llama_cpp._internals import IkContext, IkModel, make_batch_range


def evaluate(context: IkContext, first: int, count: int) -> float:
    """Reads `count` tokens from position `first` on; returns the seconds."""
    batch = make_batch_range(
        [(7 * (first + i) + 11) % 100_000 for i in range(count)], pos_start=first, logits_last=True
    )
    start = time.perf_counter()
    if context.decode(batch) != 0:
        raise SystemExit("ik_llama.cpp: llama_decode failed")
    api.llama_get_logits_ith(context.ctx, -1)
    seconds = time.perf_counter() - start
    api.llama_batch_free(batch)
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    args = parser.parse_args()
    model = IkModel(args.model)
    n_ctx = args.prompt + args.new + 8
    context = IkContext(model, n_ctx=n_ctx, n_threads=args.threads, flash_attn=True)
    evaluate(context, 0, 16)
    spent = []
    for _ in range(2):
        context.kv_cache_clear()
        spent.append(evaluate(context, 0, args.prompt))
    decode = sum(evaluate(context, args.prompt + i, 1) for i in range(args.new))
    found = {"depth": 0, "prefill": args.prompt / min(spent), "decode": args.new / decode}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
