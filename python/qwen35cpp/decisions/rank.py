"""Documents in the order of their use for a query.

Three ways to judge a document. Measured with the bundled model on 500 questions about made-up
people and things, each with five sentences of which one answers it (tests/tiny/decisions.py): the
share of questions whose sentence came first (0.20 by chance), and the mean reciprocal rank (0.46).

- "query": how likely the model thinks the query behind the document: 0.52 and 0.68.
- "embedding": the cosine of the mean states of query and document: 0.69 and 0.81.
- "yes": how likely the model says yes when asked whether the document answers the query: 0.35 and
  0.58. The bundled model was never taught to judge that; larger ones were, and may do better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import InvalidArgument
from .fields import Field

if TYPE_CHECKING:
    from ..llama import Llama

Method = Literal["query", "yes", "embedding"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ranked:
    """A document with its score: larger is better, to be compared within one ranking only."""

    index: int  # among the documents given
    score: float
    document: str


def rank(
    llm: Llama, query: str, documents: Sequence[str], method: Method, progress: Progress | None
) -> list[Ranked]:
    """The documents, best first; equal ones in the order given."""
    if not query.strip():
        raise InvalidArgument("the query is empty")
    judges = {"query": _likelihood, "yes": _yes, "embedding": None}
    if method not in judges:
        raise InvalidArgument(f"method must be one of {', '.join(judges)}, not {method!r}")
    judge = judges[method]
    scores = []
    if judge is None:
        scores = _cosines(llm, query, documents, progress)
    else:
        for done, document in enumerate(documents, 1):
            scores.append(judge(llm, query, document))
            if progress is not None:
                progress(done, len(documents))
    found = [Ranked(i, *pair) for i, pair in enumerate(zip(scores, documents, strict=True))]
    return sorted(found, key=lambda each: -each.score)


def _likelihood(llm: Llama, query: str, document: str) -> float:
    asked = [{"role": "user", "content": f"{document}\n\nAsk a question about the passage."}]
    return llm.score(asked, query).per_token


def _yes(llm: Llama, query: str, document: str) -> float:
    question = "Does the passage answer the question? Answer yes or no."
    fields = {"relevant": Field(bool, question)}
    decision = llm.decide(f"Passage: {document}\n\nQuestion: {query}", fields)
    return decision.probabilities["relevant"][True]


def _cosines(
    llm: Llama, query: str, documents: Sequence[str], progress: Progress | None
) -> list[float]:
    vectors = llm.embed([query, *documents], progress=progress)
    cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
    return cosines
