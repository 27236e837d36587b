"""Time of one step of 1 to 8 tokens, relative to one token: what drafts and parallel requests pay.

    python bench/few_tokens.py model.gguf [more.gguf] --rounds 40

Every round takes one step of each count in turn, all logits included; the shortest time of each
counts, for everything that another process does adds to it. Prints a Markdown table, with the
share of the read bandwidth measured just before that a step of one token reaches.
"""

from __future__ import annotations

import argparse

from qwen35cpp._handles import DRAFTS, Model, Sampler, Sampling, Session
from qwen35cpp._native import lib, measure

COUNTS = (1, 2, 3, 4, 6, 8)
DEPTH = 16  # tokens before the first step
LAST = 256  # tokens of context


def shortest_steps(model: Model, rounds: int) -> dict[int, float]:
    """The shortest time in seconds of a step of each count: a drawn token and drafts behind it.

    Given tokens are read another way where the CPU has matrix tiles. All logits are computed, and
    nobody cares whether the drafts, found by lookups in a text that repeats itself, are right.
    """
    session = Session(model, n_ctx=LAST, draft=DRAFTS["lookup"] | lib.QWEN35_DRAFT_ALWAYS)
    every = Sampler(  # a bias that raises something: then all logits matter
        model, Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={0: 1e-6}
    )
    best = dict.fromkeys(COUNTS, float("inf"))
    cycle = [(i * 7919) % 50_000 for i in range(1, DEPTH + 1)]
    for _ in range(rounds):
        for n in COUNTS:
            session.reset()
            session.draft_context(cycle * 2)
            session.eval(cycle)
            before = session.draft_statistics()
            session.decode([cycle[0]], every, (), n)
            after = session.draft_statistics()
            if after.rows[n - 1] != before.rows[n - 1] + 1:
                raise RuntimeError(f"no step of {n} tokens was made")
            best[n] = min(best[n], after.row_seconds[n - 1] - before.row_seconds[n - 1])
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
