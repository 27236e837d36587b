"""A JSON schema -> a grammar, or a refusal that names the keyword and its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..chat.values import referred
from ..errors import SchemaError
from .matcher import compile_error, json_grammar

Schema = dict[str, Any]

MOST_BYTES = 64 << 10
DEEPEST = 64
MOST_CHOICES = 10_000

# Where a schema holds others.
_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SHARED = ("$defs", "definitions")
_MOST_TRIES = 200  # compilations to find what is wrong with a schema
_HINT = "only what can be enforced for certain is accepted"


def grammar_of(schema: Mapping[str, Any]) -> str:
    """The grammar of the JSON texts that a schema allows.

    Raises:
        SchemaError: part of the schema cannot be enforced, or it is too large.
    """
    plain = _checked(schema)
    grammar = json_grammar(plain)
    if compile_error(grammar):
        raise _refusal(plain)
    return grammar


def _checked(schema: Mapping[str, Any]) -> Schema:
    """The schema as plain JSON within the limits."""
    if not isinstance(schema, Mapping):
        raise SchemaError(f"a JSON schema is an object, not {type(schema).__name__}")
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except RecursionError:
        raise SchemaError(f"the schema is nested deeper than {DEEPEST}") from None
    except (TypeError, ValueError) as error:
        raise SchemaError(f"the schema is not JSON: {error}") from None
    if size > MOST_BYTES:
        raise SchemaError(f"the schema has {size} bytes, at most {MOST_BYTES} are allowed")
    plain: Schema = json.loads(text)
    level: list[tuple[str, Any]] = [("#", plain)]
    for _ in range(DEEPEST):
        level = [(f"{path}/{key}", child) for path, node in level for key, child in _inside(node)]
        for path, node in level:
            if isinstance(node, list) and len(node) > MOST_CHOICES:
                keyword = path.rpartition("/")[2]
                raise SchemaError(
                    f"{path} has {len(node)} entries, at most {MOST_CHOICES} are allowed",
                    path=path.rpartition("/")[0],
                    keyword=keyword,
                )
        if not level:
            return plain
    raise SchemaError(f"the schema is nested deeper than {DEEPEST}")


def _inside(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list):
        yield from ((str(index), child) for index, child in enumerate(node))


def _refusal(root: Schema) -> SchemaError:
    """Finds the smallest part that cannot be enforced, and the keyword in it."""
    search = _Search(root)
    path, node, why = "#", root, search.error(root) or ""
    seen = [root]
    while True:
        # What llguidance quotes is most likely the name of a keyword: look there first.
        quoted = re.findall(r'"([\w$]+)"', why)
        places = list(_children(path, node, root))
        places.sort(key=lambda pair: not any(name in json.dumps(pair[1]) for name in quoted))
        for place, child in places:
            found = None if any(child is known for known in seen) else search.error(child)
            if found:
                path, node, why = place, child, found
                seen.append(child)
                break
        else:
            break
    keyword = next((key for key in node if search.error(_less(node, key)) == ""), "")
    what = f"{keyword!r} at {path}" if keyword else path
    message = f"the schema cannot be enforced because of {what}: {why}"
    return SchemaError(message, path=path, keyword=keyword, hint=_HINT)


class _Search:
    """Compiles parts of a schema, a limited number of them: a hostile one has many."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = _MOST_TRIES

    def error(self, node: Schema) -> str | None:
        """Why a part cannot be used on its own, "" when it can; None when it is not known."""
        self._left -= 1
        if self._left < 0:
            return None
        shared: Schema = {key: self._root[key] for key in _SHARED if key in self._root}
        part = node if node is self._root else {**node, **shared}
        return compile_error(json_grammar(part))


def _less(node: Schema, key: str) -> Schema:
    return {name: value for name, value in node.items() if name != key}


def _children(path: str, node: Schema, root: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas directly inside a schema, and the one it refers to, each with its place."""
    target = referred(node.get("$ref"), root)
    if isinstance(target, dict):
        yield node["$ref"], target
    found: list[tuple[str, Any]] = [(key, node.get(key)) for key in _ONE]
    for key in (*_LISTS, *_NAMED):
        found += [(f"{key}/{name}", child) for name, child in _inside(node.get(key))]
    yield from ((f"{path}/{name}", child) for name, child in found if isinstance(child, dict))
