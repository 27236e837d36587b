"""What a caller asks of a text: a JSON schema or class, a regular expression or a choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import AnswerInvalid, InvalidArgument, SchemaError
from .classes import schema_and_parser
from .extra import load
from .grammar import MOST_CHOICES, grammar_of
from .matcher import compile_error


@dataclass(frozen=True)
class Format:
    """A grammar and what a finished text stands for."""

    grammar: str
    check: Callable[[str], None]  # raises AnswerInvalid
    parse: Callable[[str], Any]  # of a text that passed the check


def format_of(
    schema: Any = None, regex: str | None = None, choice: Sequence[str] | None = None
) -> Format | None:
    """The format asked for, None for none.

    Raises:
        InvalidArgument: more than one was asked for.
        SchemaError: it cannot be enforced; the text says what and where.
        MissingExtra: the extra "schema" is not installed.
    """
    given = [
        name
        for name, value in (("schema", schema), ("regex", regex), ("choice", choice))
        if value is not None
    ]
    if len(given) > 1:
        raise InvalidArgument(f"{' and '.join(given)} exclude each other")
    if schema is not None:
        return _of_schema(schema)
    if regex is not None:
        return _of_regex(regex)
    return None if choice is None else _of_choice(choice)


def schema_of(kind: Any) -> Mapping[str, Any]:
    """The JSON schema that a schema or class stands for."""
    return kind if isinstance(kind, Mapping) else schema_and_parser(kind)[0]


def _of_schema(kind: Any) -> Format:
    schema = schema_of(kind)
    parse = json.loads if schema is kind else schema_and_parser(kind)[1]
    return Format(grammar_of(schema), _validator(schema), parse)


def _validator(schema: Mapping[str, Any]) -> Callable[[str], None]:
    """Checks a text against the schema with another library than the one that wrote it."""
    rules = load("jsonschema_rs")
    try:
        validator = rules.validator_for(dict(schema), retriever=_no_retriever)
    except (ValueError, rules.ReferencingError) as error:
        raise SchemaError(f"the schema is not valid: {str(error).splitlines()[0]}") from None

    def check(text: str) -> None:
        try:
            validator.validate(json.loads(text))
        except ValueError as error:  # of both libraries
            reason = str(error).splitlines()[0]
            raise AnswerInvalid(f"the answer does not follow its schema: {reason}") from None

    return check


def _no_retriever(uri: str) -> Any:
    raise ValueError(f"{uri} is outside of the schema")


def _of_regex(regex: str) -> Format:
    grammar: str = load("llguidance").LLMatcher.grammar_from_regex(regex)
    why = compile_error(grammar)
    if why:
        raise SchemaError(f"the regular expression cannot be enforced: {why}", keyword="regex")
    return Format(grammar, _unchecked, str)


def _unchecked(text: str) -> None:
    """A regular expression in the syntax of Rust: the grammar is the only judge."""


def _of_choice(choice: Sequence[str]) -> Format:
    words = [choice] if isinstance(choice, str) else list(choice)
    if not words or not all(isinstance(word, str) and word for word in words):
        raise InvalidArgument("choice is a list of texts that are not empty")
    if len(words) > MOST_CHOICES:
        raise SchemaError(f"{len(words)} choices, at most {MOST_CHOICES} are allowed")
    quoted = " | ".join(json.dumps(word, ensure_ascii=False) for word in words)
    grammar: str = load("llguidance").LLMatcher.grammar_from_lark(f"start: {quoted}\n")
    why = compile_error(grammar)
    if why:
        raise SchemaError(f"the choice cannot be enforced: {why}", keyword="choice")

    def check(text: str) -> None:
        if text not in words:
            raise AnswerInvalid(f"the answer {text!r} is none of the choices")

    return Format(grammar, check, str)
