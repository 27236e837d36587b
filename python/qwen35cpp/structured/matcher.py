"""A grammar at work: which tokens may come next. A Constraint, see _constraint.py."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .._engine import Engine
from ..errors import SchemaError
from .extra import load
from .table import table_of


class Matcher:
    """Follows one answer through a grammar."""

    def __init__(self, engine: Engine, ends: frozenset[int], grammar: str) -> None:
        """`ends` are the tokens that end a text.

        Raises:
            SchemaError: the grammar cannot be used; the text is llguidance's.
        """
        table = table_of(engine, ends)
        self._mask_bytes = (engine.info.n_vocab + 31) // 32 * 4
        self._matcher = load("llguidance").LLMatcher(table, grammar, log_level=0)
        if self.complete:
            raise SchemaError("no text follows what was asked for")

    @property
    def complete(self) -> bool:
        """See Constraint."""
        self._check()  # it stops at an error too
        return bool(self._matcher.is_stopped())

    def mask(self) -> bytes:
        """See Constraint."""
        mask: bytes = self._matcher.compute_bitmask()
        self._check()  # for example too much work for one token
        return mask[: self._mask_bytes]  # it may have a word too many

    def forced(self) -> list[int]:
        """See Constraint."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def follow(self, tokens: Sequence[int], *, forces: bool) -> int:
        """See Constraint."""
        copy = self._matcher.deep_copy()  # an error would stay
        allowed: int = copy.validate_tokens(list(tokens))
        for i, token in enumerate(tokens[:allowed]):
            copy.consume_token(token)
            if copy.is_stopped() or (forces and copy.compute_ff_tokens()):
                return i
        return allowed

    def accept(self, token: int) -> None:
        """See Constraint."""
        self._matcher.consume_token(token)
        self._check()

    def take_back(self, n: int) -> None:
        """See Constraint."""
        self._matcher.rollback(n)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            why = _first_line(self._matcher.get_error())
            raise SchemaError(f"what was asked for is too complex or allows no text: {why}")


def compile_error(grammar: str) -> str:
    """Why a grammar cannot be used, "" when it can. Needs no model."""
    failed, messages = load("llguidance").LLMatcher.validate_grammar_with_warnings(grammar)
    return _first_line(messages[0]) if failed else ""


def json_grammar(schema: dict[str, Any]) -> str:
    """The grammar of JSON texts on one line, with a space behind every comma and colon.

    Free white space would let a model write line breaks without end.
    """
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": False,  # never leave out what cannot be enforced, whatever the schema says
        "coerce_one_of": False,
    }
    text = json.dumps(schema, ensure_ascii=False)
    grammar: str = load("llguidance").LLMatcher.grammar_from_json_schema(text, overrides=options)
    return grammar


def _first_line(message: str) -> str:
    """The message without the dump of the parser's state that may follow it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    found = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return re.sub(r"\s+", " ", (found or lines or ["the grammar is not valid"])[0])
