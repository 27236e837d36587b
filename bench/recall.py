"""Long recall on the bundled model: caches of 16, 8 and 4 bits, read and restored from a file.

Needles are asked for in a long passage; copies and extractions come behind stories that have
nothing to do with them. Each case is answered twice with each cache type: read from its start, and
by a session that was saved just before the last tokens of the prompt and loaded by another Llama.
Printed are the scores, how far each is from that of the first type, and how many texts differ from
those of that type and from those read from the start.

    python bench/recall.py [--sets needle:1200,copy:150,extract:600] [--count 100] [--kv f16,q8_0]

The numbers of a set are words of distraction, of some 1.24 tokens; the bundled model copies nothing
behind more than a few hundred. With --count 100 some 250,000 tokens are read twice with each cache
type.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from qwen35cpp import Llama
from qwen35cpp._prefix.boundaries import GRID
from tiny import cases, passages, stories
from tiny.sample import Sample, system
from tiny.skills import SKILLS

WORDS = 7  # of a sentence
LAST = 24  # tokens of the prompt at least that are read after a restore


def case(name: str, index: int, words: int) -> Sample:
    """Case `index` of a set, with about `words` words before its question."""
    rng = random.Random(f"recall {name} {index}")
    if name == "needle":
        return passages.needle(rng, True, words, rng.random())
    sample = SKILLS[name].make(rng, True)
    told = [each for each in sample.messages if each["role"] == "system"]
    story = " ".join(stories.sentences(rng, words // WORDS))
    first = system("\n\n".join([story, *(each["content"] for each in told)]))
    return replace(sample, messages=[first, *sample.messages[len(told) :]])


class Answers:
    """Texts of one cache type, read and restored."""

    def __init__(self, kv: str, n_ctx: int, threads: int | None) -> None:
        options: dict[str, Any] = {
            "n_ctx": n_ctx, "n_threads": threads, "kv_type": kv, "draft": "off",
        }  # fmt: skip
        self._cold = Llama.tiny(prefix_cache=False, **options)
        self._saving, self._loading = Llama.tiny(**options), Llama.tiny(**options)
        self.texts: dict[str, list[str]] = {"read": [], "restored": []}
        self.tokens = 0

    def add(self, sample: Sample, folder: Path) -> None:
        """Answers a case both ways."""
        ids = list(self._cold.render_chat(sample.prompt, tools=sample.tools or None).ids)
        greedy: dict[str, Any] = {"temperature": 0, "max_tokens": cases.MAX_REPLY}
        self.texts["read"].append(str(self._cold.generate(ids, **greedy)))
        cut = (len(ids) - LAST) // GRID * GRID  # elsewhere a state is not used: other last bits
        session, path = self._saving.session(), folder / "recall.q35state"
        # A session ends with a token that was drawn: this one has no choice.
        forced = session.generate(
            ids[:cut], temperature=0, max_tokens=1, logit_bias={ids[cut]: 1e6}, ignore_eos=True
        )
        assert list(forced.tokens) == [ids[cut]]
        session.save(path)
        loaded = self._loading.session()
        loaded.load(path)
        text = loaded.generate(ids[cut + 1 :], **greedy)
        assert text.usage.cached_tokens == cut, "the state was not used"
        self.texts["restored"].append(str(text))
        self.tokens += len(ids)

    def close(self) -> None:
        """Frees the models."""
        for llama in (self._cold, self._saving, self._loading):
            llama.close()


def score(texts: list[str], samples: list[Sample]) -> float:
    """Percent of right answers."""
    right = sum(SKILLS[s.skill].check(s, text) for s, text in zip(samples, texts, strict=True))
    return 100 * right / len(samples)


def differing(texts: list[str], others: list[str]) -> int:
    """How many texts are not equal."""
    return sum(a != b for a, b in zip(texts, others, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sets", default="needle:1200,copy:150,extract:600")
    parser.add_argument("--count", type=int, default=100, help="cases of a set")
    parser.add_argument("--kv", default="f16,q8_0,iq4_nl", help="the first is what others meet")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    print(
        "| set | tokens | cache | | score, % | points from f16 | texts not as f16 | not as read |"
    )
    print("|---|---:|---|---|---:|---:|---:|---:|")
    most = 0.0
    for each in args.sets.split(","):
        name, words = each.split(":")
        samples = [case(name, index, int(words)) for index in range(args.count)]
        reference: list[str] | None = None
        for kv in args.kv.split(","):
            answers, start = Answers(kv, 2 * int(words) + 2048, args.threads), time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                for sample in samples:
                    answers.add(sample, Path(folder))
            answers.close()
            reference = reference or answers.texts["read"]
            for how, texts in answers.texts.items():
                points = score(texts, samples) - score(reference, samples)
                most = max(most, abs(points))
                cells = [
                    name, f"{answers.tokens / args.count:.0f}", kv, how,
                    f"{score(texts, samples):.1f}", f"{points:+.1f}",
                    f"{differing(texts, reference)}",
                    f"{differing(texts, answers.texts['read'])}",
                ]  # fmt: skip
                print(f"| {' | '.join(cells)} |", flush=True)
            spent = time.perf_counter() - start
            print(f"{name}, {kv}: {spent:.0f} s", file=sys.stderr, flush=True)
    print(f"\nThe largest distance from f16 is {most:.1f} points.")


if __name__ == "__main__":
    main()
