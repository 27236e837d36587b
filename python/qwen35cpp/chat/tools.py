"""Tools as JSON schemas: given as such in OpenAI's form, or made from Python functions."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InvalidArgument

Tool = Mapping[str, Any] | Callable[..., Any]
Schema = dict[str, Any]

_SCALARS: dict[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null",
}  # fmt: skip
_UNIONS = (typing.Union, types.UnionType)
_ARRAYS = (list, Sequence)
_OBJECTS = (dict, Mapping)
_SECTION = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):\s*$")


def tool_schemas(tools: Sequence[Tool] | None) -> list[Schema]:
    """The schemas to put into the prompt: {"type": "function", "function": {...}} each.

    Raises:
        InvalidArgument: a tool that the call format cannot express; the text says which and why.
    """
    schemas = [
        _given(f"tools[{i}]", tool) if isinstance(tool, Mapping) else function_schema(tool)
        for i, tool in enumerate(tools or ())
    ]
    names = [schema["function"]["name"] for schema in schemas]
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"two tools have the name {name!r}")
    return schemas


def parameters_of(schemas: Sequence[Schema]) -> dict[str, Schema]:
    """The JSON schema of each tool's parameters by the tool's name."""
    return {s["function"]["name"]: s["function"].get("parameters") or {} for s in schemas}


def _given(where: str, tool: Mapping[str, Any]) -> Schema:
    """A schema as given; a bare function is wrapped, which is how the models know tools."""
    schema = dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
    function = schema["function"]
    if schema.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise InvalidArgument(f"{where}: only tools of type 'function' can be used")
    _check_tag(where, "name", function.get("name"))
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties", {}) if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping):
        raise InvalidArgument(f"{where}: parameters must be a JSON schema of an object")
    for key in properties:
        _check_tag(where, "parameter", key)
    return schema


def _check_tag(where: str, what: str, name: Any) -> None:
    """A call says <function=NAME> and <parameter=NAME>: no NAME may end its tag."""
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise InvalidArgument(f"{where}: {what} must be a word, not {name!r}")
    if re.search(r"[<>\n\r]", name):
        raise InvalidArgument(f"{where}: {what} {name!r} must not hold <, > or a line break")


# ---- from functions -----------------------------------------------------------------------------


def function_schema(function: Callable[..., Any]) -> Schema:
    """The schema of a Python function from its signature, type hints and docstring.

    Types are str, int, float, bool, None, list, dict, Literal, unions of these, Any, and Annotated
    with a description. A parameter with a default is optional. The docstring's text up to its first
    section describes the tool, an "Args:" section in Google's style the parameters.
    """
    if not callable(function):
        raise InvalidArgument(f"a tool is a function or a schema, not {type(function).__name__}")
    name = getattr(function, "__name__", "")
    where = f"tool {name or function!r}"
    _check_tag(where, "name", name)
    if name == "<lambda>" or inspect.iscoroutinefunction(function):
        raise InvalidArgument(f"{where}: a tool must be a named function that is not async")
    text, described = _docstring(inspect.getdoc(function) or "")
    hints = _hints(where, function)
    properties: Schema = {}
    required = []
    for key, parameter in inspect.signature(function).parameters.items():
        properties[key] = _parameter(where, parameter, hints, described.get(key))
        if parameter.default is inspect.Parameter.empty:
            required.append(key)
    parameters: Schema = {"type": "object", "properties": properties, "required": required}
    body = {"name": name, "description": text, "parameters": parameters}
    return {"type": "function", "function": body}


def _hints(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidArgument(f"{where}: its type hints cannot be read: {error}") from error


def _parameter(
    where: str, parameter: inspect.Parameter, hints: Mapping[str, Any], description: str | None
) -> Schema:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise InvalidArgument(f"{where}: *{name} has no schema: name every parameter")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise InvalidArgument(f"{where}: {name} is positional only: tools are called by name")
    if name not in hints:
        raise InvalidArgument(f"{where}: parameter {name} needs a type hint")
    schema = _schema(f"{where}: parameter {name}", hints[name])
    if description:
        schema.setdefault("description", description)
    return schema


def _schema(where: str, hint: Any) -> Schema:
    """The JSON schema of a type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint is Any:
        return {}
    if origin is typing.Annotated:
        notes = [note for note in arguments[1:] if isinstance(note, str)]
        more = {"description": notes[0]} if notes else {}
        return {**_schema(where, arguments[0]), **more}
    if origin is typing.Literal:
        kinds = {_SCALARS.get(type(value)) for value in arguments}
        if None not in kinds:
            kind = {"type": kinds.pop()} if len(kinds) == 1 else {}
            return {**kind, "enum": list(arguments)}
    if origin in _UNIONS:
        return {"anyOf": [_schema(where, argument) for argument in arguments]}
    plain = origin or hint
    if plain in _ARRAYS:
        items = {"items": _schema(where, arguments[0])} if arguments else {}
        return {"type": "array", **items}
    if plain in _OBJECTS:
        if not arguments:
            return {"type": "object"}
        if arguments[0] is str:
            return {"type": "object", "additionalProperties": _schema(where, arguments[1])}
    raise InvalidArgument(
        f"{where}: the type {hint!r} has no JSON form",
        hint="use str, int, float, bool, None, list, dict, Literal or unions of them",
    )


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the parameters of the section "Args:"."""
    head: list[str] = []
    described: dict[str, str] = {}
    section = name = ""
    for line in text.splitlines():
        heading = _SECTION.match(line)
        if heading:
            section, name = heading[1], ""
        elif not section:
            head.append(line)
        elif section in ("Args", "Arguments", "Parameters"):
            entry = re.match(r"^ {1,4}(\w+)(?: *\([^)]*\))?: *(.*)$", line)
            if entry:
                name = entry[1]
                described[name] = entry[2].strip()
            elif name and line.strip():
                described[name] += " " + line.strip()
    return "\n".join(head).strip(), described
