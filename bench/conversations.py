"""Random conversations with the prefix cache, each turn compared with a cold run of its prompt.

Five conversations at a time go on, have their last turn edited, branch off from an earlier one, are
asked again, or switch; some turns show a picture. Counted are the tokens read again, turns that
were read from their start although a boundary was known, texts that differ from the cold run, and
log-probabilities that differ in any bit. A turn counts for what it does to its conversation, and
besides as `switch` and `picture` where it is one.

    python bench/conversations.py [MODEL.gguf] [--conversations 1000] [--turns 6] [--seed 0]

With --peer FILE the same conversations also go to llama.cpp's server: with --peer-mmproj as
messages with their pictures, else without pictures and as token ids. For the bundled model:

    qwen35cpp convert tests/tiny/qwen35-tiny -o toy.gguf --type q8_0
    python bench/conversations.py --peer toy.gguf --peer-mmproj mmproj-toy.gguf

The time that is left is shown all along; --conversations 50 is enough for a first look.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
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
from PIL import Image

from qwen35cpp import Llama
from qwen35cpp._prefix.boundaries import GRID, Markers
from qwen35cpp._prefix.tree import common_length
from tiny.skills import SKILLS

AT_ONCE = 5
TEXT_SKILLS = ("passage", "classify", "chat", "extract", "copy")
Messages = list[dict[str, Any]]


@dataclass
class Turns:
    """Sums over the turns of a kind; tokens are those of prompts."""

    turns: int = 0
    tokens: int = 0
    read: int = 0
    seconds: float = 0.0
    peer_read: int = 0
    peer_seconds: float = 0.0

    def add(self, other: Turns) -> None:
        """Adds the sums of others."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def row(self, kind: str, *, peer: bool) -> str:
        """A line of the table, means of a turn."""
        sums = [self.tokens, self.read, 1e3 * self.seconds]
        sums += [self.peer_read, 1e3 * self.peer_seconds] if peer else []
        cells = [kind, f"{self.turns}", *(f"{each / self.turns:.1f}" for each in sums)]
        return f"| {' | '.join(cells)} |"


@dataclass
class Figures:
    """What was counted, all turns and by kind."""

    kinds: dict[str, Turns] = field(default_factory=lambda: defaultdict(Turns))
    full_reads: int = 0  # although a boundary was known
    other_texts: int = 0
    other_logprobs: int = 0
    drawn: int = 0  # tokens of answers
    cold_seconds: float = 0.0
    peer_full_reads: int = 0

    @property
    def turns(self) -> int:
        """Turns so far."""
        return self.kinds["all"].turns

    def table(self) -> str:
        """The figures for people."""
        every = self.kinds["all"]
        peer = every.peer_seconds > 0
        names = ["turn", "turns", "prompt", "read", "ms"]
        names += ["read by llama.cpp", "ms of llama.cpp"] if peer else []
        rows = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
        rows += [self.kinds[kind].row(kind, peer=peer) for kind in sorted(self.kinds)]
        rows.append(
            f"\nTokens drawn {self.drawn}, read from the start although a boundary was known: "
            f"{self.full_reads} turns" + (f", {self.peer_full_reads} by llama.cpp" if peer else "")
        )
        rows.append(
            f"Texts other than cold: {self.other_texts}, answers with a log-probability that "
            f"differs in any bit: {self.other_logprobs}"
        )
        rows.append(
            f"Seconds: {every.seconds:.1f} with the cache, {self.cold_seconds:.1f} cold"
            + (f", {every.peer_seconds:.1f} llama.cpp" if peer else "")
        )
        return "\n".join(rows)


def for_peer(messages: Messages) -> Messages:
    """The messages with pictures as data URLs."""

    def part_of(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        out = io.BytesIO()
        Image.fromarray(part["image"]).save(out, "PNG")
        url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": url}}

    told = []
    for message in messages:
        content = message["content"]
        if shows_picture(message):
            content = [part_of(part) for part in content]
        told.append({"role": message["role"], "content": content})
    return told


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


def shows_picture(message: dict[str, Any]) -> bool:
    """Whether a message has more than text."""
    return isinstance(message["content"], list)


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

    With the address of llama.cpp's server as peer, that gets the same conversations; with pictures
    it must have a tower.
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
            before = current
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
            usage = answer.usage
            sums = Turns(1, usage.prompt_tokens, usage.prompt_tokens - usage.cached_tokens)
            sums.seconds = middle - start
            known = max((common_length(ids, old) for old in seen), default=0)
            bounds = [place // GRID * GRID for place in markers.places(ids) if place <= known]
            figures.drawn += len(answer.tokens)
            boundary = max(bounds, default=0) > 0
            figures.full_reads += usage.cached_tokens == 0 and boundary
            if peer:
                start = time.perf_counter()
                said = (
                    peer_server.chat(peer, for_peer(messages), 24)
                    if pictures
                    else peer_server.complete(peer, ids, 24)
                )
                sums.peer_seconds = time.perf_counter() - start
                sums.peer_read = said["timings"]["prompt_n"]
                figures.peer_full_reads += said["timings"]["cache_n"] == 0 and boundary
            figures.kinds["all"].add(sums)
            figures.kinds[kind].add(sums)
            if current != before and kind != "first":
                figures.kinds["switch"].add(sums)
            if kind != "retry" and shows_picture(messages[-1]):
                figures.kinds["picture"].add(sums)
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
    parser.add_argument("--peer-mmproj", metavar="FILE", help="and its tower")
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
            tower = ("--mmproj", args.peer_mmproj) if args.peer_mmproj else ()
            serving = peer_server.serving(args.peer, "--threads", "1", *tower)
            peer, _ = stack.enter_context(serving)
        groups = -(-args.conversations // AT_ONCE)
        last, start = Figures(), time.perf_counter()

        def report(now: Figures) -> None:
            nonlocal last
            last = now
            share = now.turns / (groups * args.turns * AT_ONCE)
            left = (time.perf_counter() - start) * (1 / share - 1) / 60
            told = f"\r{now.turns} turns, {left:.1f} minutes left "
            print(told, end="", file=sys.stderr, flush=True)

        with contextlib.suppress(KeyboardInterrupt):
            rng = random.Random(args.seed)
            options: dict[str, Any] = {"peer": peer, "report": report}
            options["pictures"] = not peer or bool(args.peer_mmproj)
            run(warm, cold, rng, groups, args.turns, **options)
    print("\n" + last.table())


if __name__ == "__main__":
    main()
