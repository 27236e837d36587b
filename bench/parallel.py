"""Decodes in several sessions at once and prints the speed of all together.

Sessions that decode at the same time share the reading of the weights (csrc/runtime/batcher.h).

    python bench/parallel.py MODEL.gguf [--streams 1,2,4,8] [--tokens 64] [--rounds 3]
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

from qwen35cpp import _handles

PROMPT = 32  # tokens evaluated before the clock starts


def decode(model: _handles.Model, streams: int, tokens: int) -> float:
    """Seconds that `streams` sessions take for `tokens` greedy steps each."""
    sessions = [_handles.Session(model, n_ctx=PROMPT + tokens) for _ in range(streams)]
    barrier = threading.Barrier(streams + 1)

    def work(session: _handles.Session) -> None:
        greedy = _handles.Sampler(
            model, _handles.Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={}
        )
        session.eval(list(range(1, PROMPT + 1)))
        token = 0
        barrier.wait()
        for _ in range(tokens):
            token = session.decode((token,), greedy, (), 1)[0][0]
        barrier.wait()

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="the fastest round counts")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    model = _handles.Model(bytes(args.model), n_threads=args.threads)
    counts = [int(n) for n in args.streams.split(",")]
    best = dict.fromkeys(counts, float("inf"))
    for _ in range(args.rounds):
        for n in counts:
            best[n] = min(best[n], decode(model, n, args.tokens))
    print("| streams | tokens/s together | each | against one |")
    print("|---|---|---|---|")
    alone = args.tokens / best[counts[0]]
    for n in counts:
        rate = n * args.tokens / best[n]
        print(f"| {n} | {rate:.1f} | {rate / n:.1f} | {rate / alone:.2f} |")
    model.close()


if __name__ == "__main__":
    main()
