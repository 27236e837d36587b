"""The grammar of tool calls: what calls.py reads, with the arguments typed by their schemas.

A string is written raw, so it may hold anything but the line </parameter>, and what JSON schemas
say about its characters cannot be enforced: strict tools that say it are refused. Other values are
JSON. Parameters come in the order of the schema, those that are not required may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SchemaError
from ..structured.grammar import grammar_of
from .values import Schema, referred
from .vocabulary import END_TOOL_CALL, TOOL_CALL, Vocabulary

_ABOUT_CHARACTERS = ("pattern", "format", "minLength", "maxLength")
_END = "\n</parameter>"
_RAW = "raw"


class CallGrammar:
    """Collects the parts of one grammar in llguidance's form."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ids = vocabulary.id(TOOL_CALL), vocabulary.id(END_TOOL_CALL)
        self._grammars: list[dict[str, Any]] = []  # besides the first

    def build(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        demanded: str | None,
        one_call: bool,
        answer: str | None,
    ) -> str:
        """The grammar of an answer.

        Args:
            tools: their schemas. With "strict" everything in it must be enforced.
            demanded: None lets the model answer without a call; "" demands one, a name that one.
            one_call: no second call may follow.
            answer: the grammar of an answer without a call; None is any text, and calls may follow.

        Raises:
            SchemaError: part of a strict tool cannot be enforced; the text says which.
        """
        functions = [tool["function"] | {"strict": is_strict(tool)} for tool in tools]
        if demanded:
            functions = [each for each in functions if each["name"] == demanded]
        names = [f"f{i}" for i in range(len(functions))]
        rules = [self._function(*pair) for pair in zip(names, functions, strict=True)]
        start = "calls"
        if demanded is None and answer is not None:
            start = f"{self._embedded(answer)} | calls"
        elif demanded is None:
            start = "TEXT calls?"
        opening, closing = self._ids
        lark = [
            f"start: {start}",
            "calls: call" if one_call else 'calls: call ("\\n" call)*',
            f'call: <[{opening}]> "\\n<function=" ({" | ".join(names)}) '
            f'"</function>\\n" <[{closing}]>',
            "TEXT: /(?s:.*)/",
            f"{_RAW}[suffix={_quoted(_END)}]: /(?s:.*)/",
            *rules,
        ]
        first = {"name": "answer", "lark_grammar": "\n".join(lark) + "\n"}
        return json.dumps({"grammars": [first, *self._grammars]})

    def _embedded(self, grammar: str) -> str:
        """The name of another grammar within this one."""
        name = f"g{len(self._grammars)}"
        self._grammars.append(json.loads(grammar)["grammars"][0] | {"name": name})
        return f"@{name}"

    def _function(self, name: str, function: Mapping[str, Any]) -> str:
        root = function.get("parameters") or {}
        required = root.get("required") or []
        parts = [_quoted(f"{function['name']}>\n")]
        for key, schema in (root.get("properties") or {}).items():
            where = f"tool {function['name']!r}: parameter {key!r}"
            value = self._value(where, schema, root, strict=function["strict"])
            part = f"{_quoted(f'<parameter={key}>{chr(10)}')} {value} {_quoted(chr(10))}"
            parts.append(part if key in required else f"({part})?")
        return f"{name}: {' '.join(parts)}"

    def _value(self, where: str, schema: Schema, root: Schema, *, strict: bool) -> str:
        """A value with the line that ends it: one of several forms, or a raw string."""
        try:
            forms = [form for leaf in _leaves(schema, root) for form in self._forms(leaf, root)]
        except SchemaError as error:
            if not strict:
                return "raw"
            raise SchemaError(
                f"{where}: {error}", path=error.path, keyword=error.keyword, hint=error.hint
            ) from None
        if _RAW in forms:
            return _RAW
        return f"({' | '.join(forms)}) {_quoted(_END)}"

    def _forms(self, leaf: Schema, root: Schema) -> list[str]:
        """The forms of a value that a schema without unions allows."""
        values = [leaf["const"]] if "const" in leaf else leaf.get("enum")
        kind = leaf.get("type")
        if values is not None and kind in (None, "string"):
            words = [value for value in values if isinstance(value, str)]
            others = [value for value in values if not isinstance(value, str)]
            forms = [_quoted(word) for word in words]
            if others and kind is None:
                forms.append(self._embedded(grammar_of({"enum": others})))
            return forms
        if kind in (None, "string"):
            for keyword in (*_ABOUT_CHARACTERS, "allOf"):
                if keyword in leaf:
                    raise _refused(keyword, "what a call holds as a string is raw")
            return [_RAW]
        shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return [self._embedded(grammar_of({**leaf, **shared}))]


def _leaves(schema: Any, root: Schema, depth: int = 16) -> list[Schema]:
    """The schemas without references and unions that a schema stands for."""
    if not isinstance(schema, Mapping):
        return [{}] if schema is True else []
    target = referred(schema.get("$ref"), root)
    unions = [key for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)]
    nested = [target] if target is not None else [part for key in unions for part in schema[key]]
    if nested:
        beside = set(schema) - {"$ref", "anyOf", "oneOf", "description", "title", "default"}
        if len(unions) > 1 or beside or depth == 0:
            raise _refused(min(beside | set(unions)), "it stands beside a union or reference")
        return [leaf for part in nested for leaf in _leaves(part, root, depth - 1)]
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return [{**schema, "type": kind} for kind in kinds]
    return [schema]


def _refused(keyword: str, why: str) -> SchemaError:
    return SchemaError(
        f"{keyword!r} cannot be enforced: {why}",
        keyword=keyword,
        hint="leave it out, or leave out strict",
    )


def is_strict(tool: Mapping[str, Any]) -> bool:
    """Whether a tool's schema asks that all of it is enforced."""
    return bool(tool.get("strict") or tool["function"].get("strict"))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
