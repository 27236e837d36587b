"""The table of a model's tokens for llguidance, built once for each model when first needed."""

from __future__ import annotations

import weakref
from typing import Any

from .._engine import Engine
from .extra import load


class _Words:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, engine: Engine, ends: list[int]) -> None:
        # Only the table refers to this object and the engine to the table: garbage collection does
        # not look into the table, so a strong reference would keep the engine for ever.
        self._engine = weakref.ref(engine)
        self.eos_token_id = ends[0]
        self.tokens, self.special_token_ids = engine.vocabulary()

    def __call__(self, text: str | bytes) -> list[int]:
        engine = self._engine()
        data = text.encode() if isinstance(text, str) else bytes(text)
        if engine is None or engine.alive.closed:
            return []  # nobody waits for the answer any more
        return engine.tokenize(data, False)


def table_of(engine: Engine, ends: frozenset[int]) -> Any:
    """The table of an engine's tokens, an llguidance.LLTokenizer.

    Control tokens and those printed as text, such as <think>, stand for themselves and for no
    characters, so that no text of a grammar can hold them. `ends` are the tokens that end a text.
    """
    with engine.table_lock:
        if engine.table is None:
            order = sorted(ends, key=lambda token: token != engine.info.eos_token)
            words = _Words(engine, order)
            engine.table = load("llguidance").LLTokenizer(
                words, n_vocab=engine.info.n_vocab, eos_token=order
            )
        return engine.table
