"""What structured output and decisions cost, on a file with the real vocabulary.

    python bench/structured.py MODEL

Prints the time to build the token table, to compile a schema, of a mask, and of a draw with and
without one, beside the time of a decoded token; then decisions between 20 labels behind a text of
400 tokens as a share of reading prompt and question alone: labels of words, of 1 to 4 words, of 4.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from qwen35cpp import Field, Llama, Sampling
from qwen35cpp._handles import Sampler, _Asked
from qwen35cpp.structured.formats import format_of
from qwen35cpp.structured.matcher import Matcher
from qwen35cpp.structured.table import table_of

STRING: dict[str, Any] = {"type": "string"}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": STRING, "bio": {"type": "string", "maxLength": 200},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"}, "kind": {"enum": ["a", "b", "cc"]},
        "tags": {"type": "array", "items": STRING, "minItems": 3, "maxItems": 6},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"}, "score": {"type": "number"},
    },
    "required": ["name", "bio", "age", "email", "kind", "tags", "zip", "score"],
    "additionalProperties": False,
}  # fmt: skip
TEXT = json.dumps({
    "name": "Anna Müller", "age": 41, "email": "anna@example.org", "kind": "cc", "zip": "80331",
    "bio": 'She writes about rivers and old trains, at night; her book "Iron" won a prize.',
    "tags": ["books", "rivers", "trains in winter"], "score": 3.75,
}, ensure_ascii=False)  # fmt: skip
LABELS = [
    "billing problem", "bug", "late shipping", "other", "sports", "food order", "weather",
    "travel plan", "animals", "music", "sales offer", "legal", "support", "press inquiry", "jobs",
    "security incident", "privacy", "hardware fault", "software", "network outage",
]  # fmt: skip
WORDS = " ".join(LABELS).split()


def seconds(work: Callable[[], object], repeat: int = 1) -> float:
    """The shortest of some runs."""
    found = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def masks(llm: Llama) -> tuple[list[float], int, int]:
    """Seconds of each mask while TEXT is written; its tokens, and how many were forced."""
    grammar = format_of(SCHEMA)
    assert grammar is not None
    matcher = Matcher(llm._engine, llm._end_tokens, grammar.grammar)
    order = list(SCHEMA["properties"])
    data = json.loads(TEXT)
    tokens = llm.tokenize(json.dumps({key: data[key] for key in order}, ensure_ascii=False))
    found, forced, at = [], 0, 0
    while at < len(tokens):
        known = matcher.forced()
        if not known:
            found.append(seconds(matcher.mask))
            known = [tokens[at]]
        else:
            forced += len(known)
        if tokens[at : at + len(known)] != known:
            raise ValueError("the text is not what the grammar writes")
        for token in known:
            matcher.accept(token)
        at += len(known)
    return found, len(tokens), forced


class Fixed:
    """Limits that are a mask made before."""

    def __init__(self, mask: bytes) -> None:
        self._mask = mask

    def follow(self, _drafts: list[int]) -> int:
        """Nothing is drafted."""
        return 0

    def allow(self, _drawn: list[int]) -> bytes:
        """The mask."""
        return self._mask


def follow_cost(llm: Llama, begun: str) -> tuple[float, float]:
    """Seconds to follow seven drafts behind a beginning of TEXT, and to ask C functions for it."""
    grammar = format_of(SCHEMA)
    assert grammar is not None
    matcher = Matcher(llm._engine, llm._end_tokens, grammar.grammar)
    for token in llm.tokenize(begun):
        matcher.accept(token)
    drafts = llm.tokenize(" of the rivers and old trains at night")[:7]
    return seconds(lambda: matcher.follow(drafts, forces=True), 50), seconds(
        lambda: _Asked(Fixed(b"")), 50
    )


def draw_cost(llm: Llama, begun: str) -> tuple[float, float]:
    """Seconds of a draw from random logits: free, and behind a beginning of TEXT."""
    grammar = format_of(SCHEMA)
    assert grammar is not None
    matcher = Matcher(llm._engine, llm._end_tokens, grammar.grammar)
    for token in llm.tokenize(begun):
        matcher.accept(token)
    mask = matcher.mask()
    sampling = Sampling(temperature=0.7, top_p=0.8, presence_penalty=1.5)
    sampler = Sampler(llm._engine.model, sampling, seed=1, n_logprobs=None, logit_bias={})
    llm.eval(llm.tokenize("Once upon a time"))
    slot = llm._engine.slots[0]
    slot.eval(llm.tokenize(" there"))

    def draw(limits: Fixed | None) -> None:
        slot.decode([], sampler, [], 1, limits)

    return seconds(lambda: draw(None), 50), seconds(lambda: draw(Fixed(mask)), 50)


def decision_cost(llm: Llama, text: str, labels: list[str]) -> str:
    """What a decision between labels takes, in turns with reading the same prompt alone."""
    field = Field(labels, f"Choose one label: {', '.join(labels)}.")
    ids = llm.render_chat([{"role": "user", "content": f"{text}\n\n{field.question}"}]).ids
    tokens = [len(llm.tokenize(label)) for label in labels]

    def read() -> None:
        llm.reset()
        llm.eval(ids)

    pairs = [(seconds(lambda: llm.decide(text, x=field)), seconds(read)) for _ in range(7)]
    deciding, reading = map(min, zip(*pairs, strict=True))
    found = f"{len(labels)} labels of {min(tokens)} to {max(tokens)} tokens"
    return f"{found}: {deciding / reading:.2f} x reading {len(ids)} tokens"


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description="Costs of structured output and decisions.")
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    llm = Llama(args.model, n_ctx=4096, n_threads=args.threads, prefix_cache=False)
    print(f"table: {seconds(lambda: table_of(llm._engine, llm._end_tokens)):.2f} s, once a model")
    masks(llm)
    found, n, forced = masks(llm)
    mean, most = statistics.mean(found), max(found)
    print(f"mask: {1e6 * mean:.0f} us, at most {1e6 * most:.0f}; {forced} of {n} tokens forced")
    free, inside = draw_cost(llm, '{"name": "An')
    text = llm.generate("Once", max_tokens=16, ignore_eos=True)
    step = text.timings.decode_seconds / len(text.tokens)
    cost = mean + inside - free
    follow, asked = follow_cost(llm, '{"name": "Anna", "bio": "She writes')
    print(f"drafts: {1e6 * follow:.0f} us to follow seven, {1e6 * asked:.0f} us to be asked")
    print(f"draw: {1e6 * free:.0f} us free, {1e6 * inside:.0f} us within a text")
    print(
        f"together {1e3 * cost:.2f} ms, {100 * cost / step:.1f} % of a token's {1e3 * step:.1f} ms"
    )
    words = llm.decode((llm.tokenize("a b c d e f g h ") * 60)[:400])
    rng = random.Random(1)
    mixed = [" ".join(rng.sample(WORDS, 1 + i % 4)) for i in range(20)]
    long = [" ".join(rng.sample(WORDS, 4)) for _ in range(20)]
    for labels in (LABELS, mixed, long):
        print(decision_cost(llm, words, labels))


if __name__ == "__main__":
    main()
