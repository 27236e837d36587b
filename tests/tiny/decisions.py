"""Accuracy and calibration of `Llama.decide` beside generation, and of `Llama.rank`, in the engine.

    python tests/tiny/decisions.py --count 500

Classification: the held-out test set. "asked" has the question of the test set, as generation has;
"own" gives only the text, so that `decide` asks in its own words. ECE is the expected calibration
error over ten bins of confidence. Ranking: questions about made-up people and things, each with
five sentences of which one answers it.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from qwen35cpp import Field, Llama
from tiny import cases, labels, passages

LABELS = {
    "sentiment": list(labels.OPINIONS), "topic": list(labels.TOPICS),
    "label": list(labels.CUSTOMER), "answer": ["yes", "no"],
}  # fmt: skip


class Tally:
    """How sure and how right the answers of each way were."""

    def __init__(self) -> None:
        self.sure: dict[str, list[float]] = defaultdict(list)
        self.right: dict[str, list[bool]] = defaultdict(list)

    def add(self, way: str, sure: float, right: bool) -> None:
        self.sure[way].append(sure)
        self.right[way].append(right)

    def rows(self) -> Iterator[str]:
        for way, sure in self.sure.items():
            right = np.array(self.right[way], float)
            yield (
                f"{way:28} n={len(right):4}  accuracy {right.mean():.3f}  "
                f"confidence {np.mean(sure):.3f}  ECE {error(np.array(sure), right):.3f}"
            )


def error(sure: Any, right: Any) -> float:
    """The expected calibration error over ten bins."""
    bins = np.minimum((sure * 10).astype(int), 9)
    gaps = [abs((sure - right)[bins == b].sum()) for b in range(10)]
    return float(sum(gaps) / len(sure))


def classification(llm: Llama, count: int) -> Tally:
    """The held-out test set in several ways."""
    asked: list[tuple[str, str]] = []
    plain = labels._ask

    def noted(rng: random.Random, instruction: str, text: str, answer: str) -> Any:
        asked.append((instruction, labels.articles(text)))
        return plain(rng, instruction, text, answer)

    labels._ask = noted
    samples = cases.SETS["classify"].cases(count)
    labels._ask = plain
    tally = Tally()
    for sample, (instruction, text) in zip(samples, asked, strict=True):
        name = next(each for each, words in LABELS.items() if sample.expect in words)
        words = [w for w in LABELS[name] if name != "topic" or w in instruction]
        messages = sample.messages[:-1]
        said = llm.chat(messages, temperature=0, max_tokens=20, logprobs=0)
        sure = math.exp(sum(entry.logprob for entry in said.logprobs or ()))
        tally.add("generated", sure, labels.check(sample, str(said)))
        for way, options in (
            ("", {}), (", calibrate", {"calibrate": True}),
            (", length_normalize", {"length_normalize": True}),
        ):  # fmt: skip
            found = llm.decide(messages, {name: Field(words, "")}, **options)
            tally.add(f"asked{way}", found.confidence[name], found[name] == sample.expect)
            if name != "answer":  # what is asked there is in the question alone
                found = llm.decide(text, {name: words}, **options)
                tally.add(f"own{way}", found.confidence[name], found[name] == sample.expect)
    return tally


def ranking(llm: Llama, count: int) -> Iterator[str]:
    """How often the right sentence comes first, and its mean reciprocal rank."""
    places: dict[str, list[int]] = defaultdict(list)
    for index in range(count):
        rng = random.Random(f"rank {index}")
        facts = passages._facts(rng, True, passages.KINDS, 10)[:5]
        question, _ = rng.choice(facts[0].questions)
        documents = [fact.text for fact in facts]
        right = documents[0]
        rng.shuffle(documents)
        for method in ("query", "yes", "embedding"):
            found = llm.rank(question, documents, method=method)  # type: ignore[arg-type]
            order = [each.document for each in found]
            places[method].append(order.index(right) + 1)
    for method, found in places.items():
        first = np.mean([place == 1 for place in found])
        reciprocal = np.mean([1 / place for place in found])
        yield f"{method:28} n={len(found):4}  first {first:.3f}  reciprocal rank {reciprocal:.3f}"


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description="Scores decisions of the bundled model.")
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    with Llama.tiny(n_ctx=4096) as llm:
        for row in (*classification(llm, count).rows(), *ranking(llm, count)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
