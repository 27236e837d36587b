"""The packages of the extra "schema", imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingExtra


def load(name: str) -> Any:
    """A package such as "llguidance".

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"structured output needs the package {name}", hint='pip install "qwen35cpp[schema]"'
        ) from error
