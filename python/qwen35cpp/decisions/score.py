"""The likelihood of a given continuation, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._engine import Engine
from .._handles import Outputs
from ..errors import ContextTooLong, InvalidArgument
from ..types import TokenLogprob

if TYPE_CHECKING:
    from .._handles import Floats
    from .._request import Progress
    from .._slot import Slot

_ROWS = 32  # of logits at a time: 32 MB for the published vocabulary


@dataclass(frozen=True)
class Score:
    """How likely a continuation is."""

    tokens: tuple[TokenLogprob, ...]  # one for each token of the continuation

    @property
    def logprob(self) -> float:
        """The natural logarithm of the probability of the whole continuation."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def per_token(self) -> float:
        """The mean log-probability of a token: compares continuations of different lengths."""
        return self.logprob / len(self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(-per_token)."""
        return math.exp(-self.per_token)


def score(
    engine: Engine, prompt: list[int], continuation: list[int], progress: Progress | None
) -> Score:
    """The log-probability of each token of a continuation behind a prompt."""
    if not prompt or not continuation:
        raise InvalidArgument(f"the {'continuation' if prompt else 'prompt'} has no tokens")
    total = len(prompt) + len(continuation)
    if total > engine.n_ctx:
        raise ContextTooLong(
            f"prompt and continuation have {total} tokens, the context holds {engine.n_ctx}"
        )
    with engine.hold(prompt) as held:
        held.slot.begin(prompt, progress)
        values = _logprobs(held.slot, continuation, engine.info.n_vocab)
    return Score(
        tuple(
            TokenLogprob(token, engine.token_bytes(token)[0], value)
            for token, value in zip(continuation, values, strict=True)
        )
    )


def _logprobs(slot: Slot, continuation: Sequence[int], n_vocab: int) -> list[float]:
    values = [logprob(slot.logits(n_vocab), continuation[0])]
    for start in range(0, len(continuation) - 1, _ROWS):
        tokens = continuation[start : min(start + _ROWS, len(continuation) - 1)]
        rows = np.empty((len(tokens), n_vocab), np.float32)
        slot.eval(tokens, Outputs(want=b"\1" * len(tokens), logits=rows))
        following = continuation[start + 1 :]
        values += [logprob(row, token) for row, token in zip(rows, following, strict=False)]
    return values


def log_mass(logits: Floats) -> float:
    """log(sum(exp(logits))), float32 [n_vocab]."""
    top = float(logits.max())
    weights = logits - top
    np.exp(weights, out=weights)
    return top + math.log(float(weights.sum()))


def logprob(logits: Floats, token: int) -> float:
    """The log-softmax of one token."""
    return float(logits[token]) - log_mass(logits)
