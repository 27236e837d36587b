"""What limits the tokens of an answer while they are drawn, see Decoding in _generate.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Constraint(Protocol):
    """Says which tokens may come next. A grammar is one, see structured/matcher.py."""

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""

    def mask(self) -> bytes:
        """The tokens allowed next, one bit each: bit i % 8 of byte i // 8, in whole 4 bytes.

        A token that ends the text is among them where the text may end.
        """

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as there is one way to go on; often none."""

    def accept(self, token: int) -> None:
        """Notes the token that came, drawn or forced."""


class Without:
    """Allows every token but a few, without end."""

    complete = False

    def __init__(self, n_vocab: int, tokens: Iterable[int]) -> None:
        mask = bytearray(b"\xff" * ((n_vocab + 31) // 32 * 4))
        for token in tokens:
            mask[token // 8] &= ~(1 << token % 8) & 0xFF
        self._mask = bytes(mask)

    def mask(self) -> bytes:
        """See Constraint."""
        return self._mask

    def forced(self) -> list[int]:
        """See Constraint."""
        return []

    def accept(self, token: int) -> None:
        """See Constraint."""
