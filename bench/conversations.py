"""Random conversations with the prefix cache, each turn compared with a cold run of its prompt.

Five conversations at a time go on, have their last turn edited, branch off from an earlier one, are
asked again, or switch; some turns show a picture. Counted are the tokens read again, turns that
were read from their start although a boundary was known, texts that differ from the cold run, and
log-probabilities that differ in any bit.

    python bench/conversations.py [MODEL.gguf] [--conversations 1000] [--turns 6] [--seed 0]

With --peer FILE the same prompts, without pictures, also go to llama.cpp's server as token ids;
FILE is the same model without a tower.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import peer_server

from qwen35cpp import Llama
from qwen35cpp._prefix.boundaries import GRID, Markers
from qwen35cpp._prefix.tree import common_length
from tiny.skills import SKILLS

AT_ONCE = 5
TEXT_SKILLS = ("passage", "classify", "chat", "extract", "copy")
Messages = list[dict[str, Any]]


@dataclass
class Figures:
    """What was counted, all turns and by kind."""

    turns: int = 0
    prompt_tokens: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    read_tokens: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    full_reads: int = 0  # although a boundary was known
    other_texts: int = 0
    other_logprobs: int = 0
    drawn: int = 0  # tokens of answers
    seconds: float = 0.0
    cold_seconds: float = 0.0
    peer_read: int = 0
    peer_full_reads: int = 0
    peer_seconds: float = 0.0

    def table(self) -> str:
        """The figures for people."""
        rows = [f"{'turn':<8} {'turns':>6} {'prompt':>8} {'read':>8}  (mean tokens)"]
        for kind, prompts in sorted(self.prompt_tokens.items()):
            read = self.read_tokens[kind]
            rows.append(
                f"{kind:<8} {len(prompts):>6} {sum(prompts) / len(prompts):>8.1f} "
                f"{sum(read) / len(read):>8.1f}"
            )
        rows.append(
            f"turns {self.turns}, tokens drawn {self.drawn}, read from the start although a "
            f"boundary was known: {self.full_reads}"
        )
        rows.append(
            f"texts other than cold: {self.other_texts}, answers with a log-probability that "
            f"differs in any bit: {self.other_logprobs}"
        )
        rows.append(f"seconds: {self.seconds:.1f} with the cache, {self.cold_seconds:.1f} cold")
        if self.peer_seconds:
            rows.append(
                f"llama.cpp: {self.peer_read / self.turns:.1f} tokens read a turn, "
                f"{self.peer_full_reads} turns from the start although a boundary was known, "
                f"{self.peer_seconds:.1f} seconds"
            )
        return "\n".join(rows)


def question(rng: random.Random, *, picture: bool) -> dict[str, Any]:
    """A message of the user from the world of the bundled model."""
    if picture:
        sample = SKILLS["shapes"].make(rng, True)
        words = [part["text"] for part in sample.prompt[-1]["content"] if part["type"] == "text"]
        parts = [{"type": "image", "image": image} for image in sample.images[:1]]
        return {"role": "user", "content": [*parts, {"type": "text", "text": " ".join(words)}]}
    sample = SKILLS[rng.choice(TEXT_SKILLS)].make(rng, True)
    return {
        "role": "user",
        "content": next(m for m in sample.prompt if m["role"] == "user")["content"],
    }


def system(rng: random.Random) -> dict[str, Any]:
    """One of a few system prompts, so that conversations share them."""
    who = rng.choice(("a patient teacher", "a clerk", "a guide of the city", "a careful reader"))
    rules = "Answer in one short sentence. Use only what the user wrote. Do not guess. " * 3
    return {"role": "system", "content": f"You are {who}. {rules}"}


def turn(rng: random.Random, talk: Messages, pictures: bool) -> tuple[str, Messages]:
    """The kind of the next turn of a conversation, and its messages."""
    asked = [index for index, message in enumerate(talk) if message["role"] == "user"]
    kinds = ("append", "append", "append", "edit", "branch", "retry")
    kind = rng.choice(kinds) if asked else "first"
    if kind == "retry":
        return kind, talk[: asked[-1] + 1]
    fresh = question(rng, picture=pictures and rng.random() < 0.25)
    if kind == "edit":
        return kind, [*talk[: asked[-1]], fresh]
    if kind == "branch":
        return kind, [*talk[: rng.choice(asked)], fresh]
    return kind, [*talk, fresh]


def run(
    warm: Llama,
    cold: Llama,
    rng: random.Random,
    groups: int,
    turns: int,
    *,
    pictures: bool = True,
    peer: str | None = None,
    report: Callable[[Figures], None] = lambda _figures: None,
) -> Figures:
    """Runs groups of five conversations; both models must be the same.

    With the address of llama.cpp's server as peer, that gets the same prompts.
    """
    figures = Figures()
    markers = Markers.find(lambda data, special: warm.tokenize(data, special=special))
    options: dict[str, Any] = {
        "temperature": 0, "max_tokens": 24, "logprobs": 0, "think": False, "budget": "fast",
    }  # fmt: skip
    for _ in range(groups):
        talks: list[Messages] = [[system(rng)] for _ in range(AT_ONCE)]
        seen: list[list[int]] = []
        current = 0
        for _ in range(turns * AT_ONCE):
            if rng.random() < 0.5:
                current = rng.randrange(AT_ONCE)
            kind, messages = turn(rng, talks[current], pictures)
            made = warm._chat().request(messages, {"budget": "fast"}, seed=0, think=False)
            ids = made.request.tokens
            start = time.perf_counter()
            answer = warm.chat(messages, **options)
            middle = time.perf_counter()
            expected = cold.chat(messages, **options)
            figures.cold_seconds += time.perf_counter() - middle
            figures.seconds += middle - start
            known = max((common_length(ids, old) for old in seen), default=0)
            bounds = [place // GRID * GRID for place in markers.places(ids) if place <= known]
            figures.turns += 1
            figures.drawn += len(answer.tokens)
            figures.prompt_tokens[kind].append(answer.usage.prompt_tokens)
            figures.read_tokens[kind].append(
                answer.usage.prompt_tokens - answer.usage.cached_tokens
            )
            boundary = max(bounds, default=0) > 0
            figures.full_reads += answer.usage.cached_tokens == 0 and boundary
            if peer:
                start = time.perf_counter()
                timings = peer_server.complete(peer, ids, 24)["timings"]
                figures.peer_seconds += time.perf_counter() - start
                figures.peer_read += timings["prompt_n"]
                figures.peer_full_reads += timings["cache_n"] == 0 and boundary
            figures.other_texts += answer != expected
            figures.other_logprobs += [each.logprob for each in answer.logprobs or ()] != [
                each.logprob for each in expected.logprobs or ()
            ]
            seen.append(ids)
            talks[current] = list(answer.messages)
        report(figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", nargs="?", help="default: the bundled model")
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=6, help="of a conversation, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kv", default="auto")
    parser.add_argument("--cache-mb", type=int, help="bound of the prefix cache; it drops states")
    parser.add_argument("--peer", metavar="FILE", help="the same model, for llama.cpp's server")
    args = parser.parse_args()
    bound = args.cache_mb and args.cache_mb << 20
    opened = (lambda **o: Llama(args.model, **o)) if args.model else (lambda **o: Llama.tiny(**o))
    with (
        opened(n_ctx=8192, n_threads=1, kv_type=args.kv, prefix_cache_bytes=bound) as warm,
        opened(n_ctx=8192, n_threads=1, kv_type=args.kv, prefix_cache=False) as cold,
        contextlib.ExitStack() as stack,
    ):
        peer = None
        if args.peer:
            peer, _ = stack.enter_context(peer_server.serving(args.peer, "--threads", "1"))
        groups = -(-args.conversations // AT_ONCE)
        last = Figures()

        def report(now: Figures) -> None:
            nonlocal last
            last = now
            print(f"\r{now.turns} turns", end="", file=sys.stderr, flush=True)

        with contextlib.suppress(KeyboardInterrupt):
            rng = random.Random(args.seed)
            options: dict[str, Any] = {"pictures": not peer, "peer": peer, "report": report}
            run(warm, cold, rng, groups, args.turns, **options)
    print("\n" + last.table())


if __name__ == "__main__":
    main()
