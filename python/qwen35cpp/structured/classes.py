"""A class as a schema, and a JSON text as an instance of the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import AnswerInvalid, SchemaError
from .extra import load


def schema_and_parser(kind: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """The JSON schema of a class or type hint, and what makes an instance of a JSON text.

    A pydantic model brings both; a msgspec.Struct, dataclass, TypedDict, NamedTuple or a type hint
    such as list[int] is msgspec's.

    Raises:
        SchemaError: the type has no JSON form.
    """
    if hasattr(kind, "model_json_schema"):
        schema = kind.model_json_schema()
        return schema, _guarded(kind.model_validate_json, kind)
    msgspec = load("msgspec")
    try:
        schema = msgspec.json.schema(kind)
        decoder = msgspec.json.Decoder(kind)
    except (TypeError, ValueError, NameError) as error:
        raise SchemaError(
            f"{kind!r} has no JSON schema: {error}",
            hint="give a JSON schema, a pydantic model, a msgspec.Struct, a dataclass or a "
            "TypedDict",
        ) from None
    return schema, _guarded(lambda text: decoder.decode(text.encode()), kind)


def _guarded(parse: Callable[[str], Any], kind: Any) -> Callable[[str], Any]:
    """A class may ask for more than its schema says."""
    name = getattr(kind, "__name__", repr(kind))

    def guarded(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:  # pydantic's and msgspec's are such
            raise AnswerInvalid(f"the answer is no {name}: {error}") from error

    return guarded
