"""The text of a parameter -> the value that its JSON schema asks for.

The call format writes strings raw, so only the schema tells "5" from 5. A text that does not fit
its schema stays a string: whoever runs the tool can then say what was wrong.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_INTEGER = re.compile(r"[+-]?\d+(?:\.0+)?")
_LONGEST_INTEGER = 1000  # digits; Python refuses to convert more than some thousands
_LONGEST_LITERAL = 100_000  # characters: Python's own parser is not made for hostile texts
_NOTHING = object()  # a text that is no value of the type
_DEEPEST = 16  # references followed and unions entered
_DEEPEST_VALUE = 200  # lists and objects within each other
_NESTS = (dict, list)


def convert(text: str, schema: Schema, root: Schema) -> Any:
    """The value of a parameter's text.

    Args:
        text: what stands between the tags, without the line breaks of the format.
        schema: of this parameter; {} when nothing is known, then text that is JSON but no string
            becomes its value.
        root: the schema of all parameters, where "$ref" leads to.
    """
    kinds, choices = _allowed(schema, root, _DEEPEST)
    if text in choices:
        return text
    if not kinds:
        value = _json(text, (dict, list, int, float, bool, type(None)))
        return text if value is _NOTHING else value
    for kind in ("null", "boolean", "integer", "number", "object", "array"):
        if kind in kinds:
            value = _READERS[kind](text)
            if value is not _NOTHING:
                return value
    return text


def mismatch(value: Any, schema: Schema, root: Schema) -> str:
    """What is wrong with a value at the first level of its schema; "" when nothing is."""
    kinds, _ = _allowed(schema, root, _DEEPEST)
    if kinds and not any(_is_a(value, kind) for kind in kinds):
        return f"must be {' or '.join(sorted(kinds))}"
    enum = schema.get("enum")
    if isinstance(enum, list) and value not in enum:
        return f"must be one of {json.dumps(enum, ensure_ascii=False)}"
    return ""


def _allowed(schema: Any, root: Schema, depth: int) -> tuple[set[str], set[str]]:
    """The JSON types that a schema names, and the strings among its choices."""
    if not isinstance(schema, Mapping) or depth == 0:
        return set(), set()
    kinds: set[str] = set()
    given = schema.get("type")
    kinds.update([given] if isinstance(given, str) else given if isinstance(given, list) else [])
    values = schema.get("enum") if isinstance(schema.get("enum"), list) else []
    values = [*(values or []), *([schema["const"]] if "const" in schema else [])]
    choices = {value for value in values if isinstance(value, str)}
    if not kinds:
        kinds.update(kind for value in values for kind in _READERS if _is_a(value, kind))
        kinds.update("string" for _ in choices)
    parts = [part for key in ("anyOf", "oneOf", "allOf") for part in _list(schema.get(key))]
    for part in [*parts, referred(schema.get("$ref"), root)]:
        more_kinds, more_choices = _allowed(part, root, depth - 1)
        kinds |= more_kinds
        choices |= more_choices
    return kinds, choices


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def referred(reference: Any, root: Any) -> Any:
    """The schema that "#/$defs/name" means; None when there is no such."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for key in reference[2:].split("/"):
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def _is_a(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        kinds = (int,) if kind == "integer" else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, _TYPES.get(kind, object))


_TYPES: dict[str, Any] = {
    "string": str, "boolean": bool, "object": dict, "array": list, "null": type(None),
}  # fmt: skip


# ---- one reader for each type -------------------------------------------------------------------


def _null(text: str) -> Any:
    return None if text.strip().lower() in ("null", "none") else _NOTHING


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.strip().lower(), _NOTHING)


def _integer(text: str) -> Any:
    found = _INTEGER.fullmatch(text.strip())
    if not found or len(found[0]) > _LONGEST_INTEGER:
        return _NOTHING
    return int(found[0].split(".")[0])


def _number(text: str) -> Any:
    whole = _integer(text) if "." not in text else _NOTHING
    if whole is not _NOTHING:
        return whole
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return _NOTHING
    return value if math.isfinite(value) else _NOTHING  # JSON has no other numbers


def _object(text: str) -> Any:
    return _structure(text, dict)


def _array(text: str) -> Any:
    return _structure(text, list)


def _structure(text: str, kind: type) -> Any:
    """JSON, or a Python literal: models trained on Python write {'a': True} now and then."""
    value = _json(text, (kind,))
    if value is not _NOTHING:
        return value
    if len(text) > _LONGEST_LITERAL:
        return _NOTHING
    try:
        value = ast.literal_eval(text.strip())
        if isinstance(value, tuple):
            value = list(value)
        # Once through JSON: what cannot be sent, such as a set, is no value; keys become strings.
        value, _ = decode_json(json.dumps(value, allow_nan=False), 0)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return _NOTHING
    return value if isinstance(value, kind) else _NOTHING


def _json(text: str, kinds: tuple[type, ...]) -> Any:
    try:
        value, end = decode_json(text, len(text) - len(text.lstrip()))
    except ValueError:
        return _NOTHING
    return value if isinstance(value, kinds) and not text[end:].strip() else _NOTHING


def decode_json(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start` and where it ends.

    Raises:
        ValueError: there is none, or none that could be sent on: NaN, 1e999, or nested so deep that
            whoever reads it next may fail.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [value]
    for _ in range(_DEEPEST_VALUE):
        groups = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, _NESTS)]
        level = [child for group in groups for child in group]
        if not level:
            return value, end
    raise ValueError("nested too deep")


def _finite(text: str) -> float:
    """A float; NaN and Infinity, also as 1e999, could not be sent on as JSON."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON")
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


_READERS = {
    "null": _null, "boolean": _boolean, "integer": _integer, "number": _number,
    "object": _object, "array": _array,
}  # fmt: skip
