"""How many rows the head of drafts should have: what tokens of texts it covers, and its time.

    python bench/draft_head.py MODEL --program BUILD/tests/bench_draft_head TEXTS...

A draft can only be right when its id is among the head's: the first of the file's order, and the
ids that the text has used before. For each size: the share of the tokens of the texts whose id is
among them, milliseconds of a draft's head, and tokens/s of rounds of three drafts relative to the
whole head, with the acceptance of --rates times that share and the times of --pass-ms (of four
rows) and --step-ms (of the MTP layer without its head). The model must have the real vocabulary.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import deque
from pathlib import Path

from qwen35cpp import Llama

SIZES = (2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 248_320)
USED = 2_048  # ids of the text, see runtime/draft_head.h
PIECE = 8_192  # tokens of a text: ids are remembered within it


def covered(pieces: list[list[int]], size: int) -> tuple[float, float]:
    """The shares of tokens below `size`, and below it or used before in their piece."""
    first = either = total = 0
    for ids in pieces:
        known: set[int] = set()
        order: deque[int] = deque()
        for token in ids:
            total += 1
            first += token < size
            either += token < size or token in known
            if token >= size and token not in known:
                known.add(token)
                order.append(token)
                if len(order) > USED:
                    known.remove(order.popleft())
    return first / total, either / total


def speed(rates: list[float], share: float, ms: float, args: argparse.Namespace) -> float:
    """Tokens a millisecond of rounds that draft as many as there are rates."""
    tokens = 1 + sum(rate * share ** (i + 1) for i, rate in enumerate(rates))
    return tokens / (args.pass_ms + len(rates) * (args.step_ms + ms))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--program", required=True, help="bench_draft_head of a build with tests")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rates", default=".85,.70,.55", help="that the first 1, 2, .. are right")
    parser.add_argument("--pass-ms", type=float, default=63.5)
    parser.add_argument("--step-ms", type=float, default=2.0)
    args = parser.parse_args()
    command = [args.program, args.model, str(args.threads), *map(str, SIZES)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    times = {int(size): float(ms) for size, ms in (line.split() for line in said.splitlines())}
    rates = [float(rate) for rate in args.rates.split(",")]
    with Llama(args.model, n_ctx=64) as llama:
        texts = {path: llama.tokenize(path.read_text(errors="replace")) for path in args.texts}
    pieces = {
        path.name: [ids[i : i + PIECE] for i in range(0, len(ids), PIECE)]
        for path, ids in texts.items()
    }
    names = list(pieces)
    print("| rows | ms | speed | " + " | ".join(names) + " |")
    print("|---:|---:|---:|" + "---:|" * len(names))
    whole = speed(rates, 1.0, times[SIZES[-1]], args)
    for size in SIZES:
        shares = [covered(pieces[name], size) for name in names]
        mean = sum(either for _first, either in shares) / len(shares)
        cells = [f"{first:.1%}, {either:.1%}" for first, either in shares]
        gain = speed(rates, mean, times[size], args) / whole
        print(f"| {size:,} | {times[size]:.2f} | {gain:.3f} | {' | '.join(cells)} |", flush=True)
    print(f"\nTokens: {', '.join(f'{name} {sum(map(len, pieces[name])):,}' for name in names)}")


if __name__ == "__main__":
    main()
