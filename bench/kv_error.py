"""What 16-, 8- and 4-bit caches cost in quality: KL divergence on texts of the package's model.

    python bench/kv_error.py [--texts 8] [--tokens 500]

The model writes the texts itself, at temperature 1. Its distributions with a cache of floats are
compared with those of the other types, for texts read at once and, the first of them, token by
token: a few tokens and many go through different attention.
"""

from __future__ import annotations

import argparse
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwen35cpp import Llama

START = "Once there was a"
TYPES: tuple[Literal["f16", "q8_0", "iq4_nl"], ...] = ("f16", "q8_0", "iq4_nl")
Floats = NDArray[np.float64]


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(truth: Floats, other: Floats) -> Floats:
    """KL(truth || other) of each row, in nats."""
    return (np.exp(truth) * (truth - other)).sum(-1)


def at_once(llm: Llama, texts: list[list[int]]) -> Floats:
    rows = []
    for text in texts:
        llm.reset()
        rows.append(log_softmax(llm.eval(text, all_logits=True)))
    return np.concatenate(rows)


def by_steps(llm: Llama, text: list[int]) -> Floats:
    llm.reset()
    return log_softmax(np.stack([llm.eval([token]) for token in text]))


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=500)
    arguments = parser.parse_args()
    with Llama.tiny(kv_type="f32") as llm:
        texts = [
            llm.tokenize(START)
            + llm.generate(
                START, max_tokens=arguments.tokens, temperature=1.0, seed=seed, ignore_eos=True
            ).tokens
            for seed in range(arguments.texts)
        ]
        prompt, steps = at_once(llm, texts), by_steps(llm, texts[0])
    print("| cache | read at once: mean, 99 % | token by token: mean |")
    print("|---|---|---|")
    for kv in TYPES:
        with Llama.tiny(kv_type=kv) as llm:
            read = divergence(prompt, at_once(llm, texts))
            made = divergence(steps, by_steps(llm, texts[0]))
        print(f"| {kv} | {read.mean():.1e}, {np.quantile(read, 0.99):.1e} | {made.mean():.1e} |")


if __name__ == "__main__":
    main()
