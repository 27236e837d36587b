"""Random JSON schemas: nested, bounded where a text could go on without end."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

KEYS = [
    "name",
    "age",
    "größe",
    "数量",
    "a b",
    'quo"ted',
    "back\\slash",
    "emoji🙂",
    "x",
    "y",
    "city",
]
WORDS = ["red", "blue", "schön", "two words", 'say "hi"', "yes/no", "日本", ""]
PATTERNS = ["^[a-z]{1,8}$", "^\\d{3}-\\d{4}$", "^(red|blue)+$", "^[A-Z][a-z]{0,5}( [a-z]{1,5})?$"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "email"]
# What llguidance does not enforce: a schema with one of these must be refused.
UNSUPPORTED: list[Schema] = [
    {"not": {"type": "string"}},
    {"type": "array", "uniqueItems": True, "items": {"type": "integer"}, "maxItems": 4},
    {"type": "array", "contains": {"type": "integer"}, "maxItems": 3},
    {"type": "string", "pattern": "(?=a)[a-z]{1,4}"},
    {"type": "string", "format": "no-such-format"},
    {"if": {"type": "string"}, "then": {"maxLength": 3}},
    {"type": "object", "propertyNames": {"maxLength": 3}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"type": "wrong"},
    {"$ref": "https://example.com/schema.json"},
]


def make(seed: int) -> tuple[Schema, bool]:
    """A schema, and whether something in it must be refused."""
    rng = random.Random(f"schema {seed}")
    refused = rng.random() < 0.1
    definitions = {f"d{i}": _leaf(rng) for i in range(2)}
    tree: Schema = {
        "type": "object",
        "properties": {
            "value": _leaf(rng),
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    }
    root = _any(rng, 3)
    if refused:
        root = _object({"fine": root, "wrong": rng.choice(UNSUPPORTED)})
    return {**root, "$defs": {**definitions, "tree": tree}}, refused


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    needed = list(properties) if required is None else required
    return {
        "type": "object", "properties": properties, "required": needed,
        "additionalProperties": False,
    }  # fmt: skip


def _any(rng: random.Random, depth: int) -> Schema:
    kind = rng.randrange(5) if depth else 4
    if kind in (0, 1):
        keys = rng.sample(KEYS, rng.randint(1, 4))
        required = [key for key in keys if rng.random() < 0.7]
        return _object({key: _any(rng, depth - 1) for key in keys}, required)
    if kind == 2:
        low = rng.randint(0, 2)
        return {
            "type": "array", "items": _any(rng, depth - 1),
            "minItems": low, "maxItems": low + rng.randint(0, 2),
        }  # fmt: skip
    if kind == 3:
        return {"anyOf": [_any(rng, depth - 1) for _ in range(rng.randint(2, 3))]}
    if rng.random() < 0.15:
        return {"$ref": rng.choice(["#/$defs/d0", "#/$defs/d1", "#/$defs/tree"])}
    return _leaf(rng)


def _leaf(rng: random.Random) -> Schema:
    low = rng.randint(-50, 50)
    return rng.choice([
        lambda: {"type": "string", "maxLength": rng.randint(0, 12)},
        lambda: {"type": "string", "minLength": 2, "maxLength": 5},
        lambda: {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 20},
        lambda: {"type": "string", "format": rng.choice(FORMATS), "maxLength": 40},
        lambda: {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)},
        lambda: {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 10},
        lambda: {"type": "number", "minimum": low / 4, "maximum": low / 4 + 2.5},
        lambda: {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500},
        lambda: {"enum": rng.sample([*WORDS, 1, 2.5, None, True, [1, "a"], {"k": 0}], 4)},
        lambda: {"const": rng.choice([*WORDS, 3, {"a": [None]}])},
        lambda: {"type": "boolean"},
        lambda: {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        lambda: {"allOf": [{"type": "string", "maxLength": 6}, {"minLength": 1}]},
        lambda: {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
    ])()  # fmt: skip
