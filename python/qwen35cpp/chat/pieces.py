"""What a rendered conversation is made of: text, and control tokens that no text can become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .messages import Medium


@dataclass(frozen=True)
class Mark:
    """A control token; the placeholder of a picture knows the picture."""

    name: str
    medium: Medium | None = None


Piece = str | Mark
# What a picture is shown as: one after another a text, which may be empty, and a placeholder.
Expand = Callable[[Medium], Sequence[tuple[str, Any]]]


def as_given(medium: Medium) -> Sequence[tuple[str, Any]]:
    """One placeholder for each picture."""
    return [("", medium.source)]
