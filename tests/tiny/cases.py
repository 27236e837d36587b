"""The held-out test sets: what each one asks, how it is scored, what counts as enough.

Case i of a set is drawn from its own seed, so a short run asks the first questions of a long one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiny import passages, vocabulary
from tiny.sample import Sample
from tiny.skills import SKILLS

MAX_REPLY = 200  # tokens; the longest reference answer has fewer
END = [vocabulary.SPECIAL_IDS["<|im_end|>"], vocabulary.SPECIAL_IDS["<|endoftext|>"]]


def reply_text(tokenizer: Any, ids: list[int]) -> str:
    """The text of generated ids up to the token that ends a turn."""
    ends = [i for i, token in enumerate(ids) if token in END]
    text: str = tokenizer.decode(ids[: ends[0]] if ends else ids, skip_special_tokens=False)
    return text


@dataclass(frozen=True)
class TestSet:
    """A named test set. `goal` is the score it should reach, `full` its size in a long run."""

    name: str
    skill: str
    draw: Callable[[random.Random], Sample]
    goal: float | None
    full: int = 500

    def cases(self, count: int) -> list[Sample]:
        """The first `count` cases."""
        return [self.draw(random.Random(f"{self.name} {i}")) for i in range(count)]

    def right(self, sample: Sample, reply: str) -> bool:
        """Whether a reply answers the last question of a sample."""
        return SKILLS[self.skill].check(sample, reply)


def _of(skill: str) -> Callable[[random.Random], Sample]:
    return lambda rng: SKILLS[skill].make(rng, True)


def _needle(words: int) -> Callable[[random.Random], Sample]:
    return lambda rng: passages.needle(rng, True, words, rng.random())


# Words whose passage has about the named number of tokens (1.24 tokens a word).
NEEDLES = {"needle 2k": 1_620, "needle 8k": 6_540, "needle 16k": 13_100, "needle 32k": 26_200}

TEXT_SETS = [
    TestSet("chat", "chat", _of("chat"), None),
    TestSet("classify", "classify", _of("classify"), 0.95),
    TestSet("passage", "passage", _of("passage"), 0.90),
    TestSet("extract", "extract", _of("extract"), 0.90),
    TestSet("tools", "tools", _of("tools"), 0.90),
    TestSet("copy", "copy", _of("copy"), None),
    *[
        TestSet(name, "needle", _needle(words), None, full=500 if words < 2000 else 100)
        for name, words in NEEDLES.items()
    ],
]
VISION_SETS = [
    TestSet("shapes", "shapes", _of("shapes"), 0.90),
    TestSet("reading", "reading", _of("reading"), None),
    TestSet("charts", "charts", _of("charts"), None),
    TestSet("click", "click", _of("click"), 0.85),
    TestSet("act", "act", _of("act"), None),
    TestSet("video", "video", _of("video"), 0.85),
]
SETS = {one.name: one for one in [*TEXT_SETS, *VISION_SETS]}


def stories(count: int) -> list[Sample]:
    """Held-out plain texts for perplexity and drafts."""
    found: list[Sample] = []
    index = 0
    while len(found) < count:
        sample = SKILLS["story"].make(random.Random(f"story {index}"), True)
        if sample.text:
            found.append(sample)
        index += 1
    return found
