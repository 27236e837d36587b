"""Time of one step of 1 to 8 tokens, relative to one token: what drafts and parallel requests pay.

    python bench/few_tokens.py model.gguf [more.gguf] --rounds 40

Every round takes one step of each count in turn, all logits included; the shortest time of each
counts, for everything that another process does adds to it. With one thread it is processor time,
which leaves out when others had the core. Prints a Markdown table, with the share of the read
bandwidth measured just before that a step of one token reaches.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from qwen35cpp._handles import Model, Outputs, Session
from qwen35cpp._native import measure

COUNTS = (1, 2, 3, 4, 6, 8)
DEPTH = 16  # tokens before the first step
LAST = 256  # position at which the session starts anew, so that attention stays cheap


def shortest_steps(model: Model, rounds: int) -> dict[int, float]:
    """The shortest time in seconds of a step of each count."""
    clock = time.thread_time if model.n_threads == 1 else time.perf_counter
    session = Session(model, n_ctx=LAST)
    logits = np.zeros((max(COUNTS), model.info.n_vocab), np.float32)
    best = dict.fromkeys(COUNTS, float("inf"))
    ids = [(i * 7919) % 50_000 for i in range(1, DEPTH + max(COUNTS) + 1)]
    session.eval(ids[:DEPTH])
    for _ in range(rounds):
        for n in COUNTS:
            if session.position + n > LAST:
                session.reset()
                session.eval(ids[:DEPTH])
            outputs = Outputs(want=b"\1" * n, logits=logits[:n])
            start = clock()
            session.eval(ids[DEPTH : DEPTH + n], outputs)
            best[n] = min(best[n], clock() - start)
    session.close()
    return best


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    print("| file | " + " | ".join(f"{n}" for n in COUNTS) + " | one token | of read limit |")
    print("| --- |" + " ---: |" * (len(COUNTS) + 2))
    for path in args.files:
        model = Model(path.encode(), n_threads=args.threads)
        limit = measure(model.n_threads).read_bytes_per_second
        best = shortest_steps(model, args.rounds)
        share = model.info.step_bytes / best[1] / limit
        model.close()
        ratios = " | ".join(f"{best[n] / best[1]:.2f}" for n in COUNTS)
        name = path.rsplit("/", 1)[-1]
        print(f"| {name} | {ratios} | {1e3 * best[1]:.1f} ms | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
