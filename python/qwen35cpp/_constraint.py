"""What limits the tokens of an answer while they are drawn, see Decoding in _generate.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
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

    def follow(self, tokens: Sequence[int], *, forces: bool) -> int:
        """How many of the tokens, from the first on, may come next with another drawn behind each.

        None is drawn where the answer is complete or, with `forces`, where tokens are forced.
        """

    def accept(self, token: int) -> None:
        """Notes the token that came, drawn or forced."""

    def take_back(self, n: int) -> None:
        """Forgets the last n tokens accepted."""


class Without:
    """Allows every token but a few, without end."""

    complete = False

    def __init__(self, n_vocab: int, tokens: Iterable[int]) -> None:
        self._tokens = frozenset(tokens)
        mask = bytearray(b"\xff" * ((n_vocab + 31) // 32 * 4))
        for token in self._tokens:
            mask[token // 8] &= ~(1 << token % 8) & 0xFF
        self._mask = bytes(mask)

    def mask(self) -> bytes:
        """See Constraint."""
        return self._mask

    def forced(self) -> list[int]:
        """See Constraint."""
        return []

    def follow(self, tokens: Sequence[int], *, forces: bool) -> int:  # noqa: ARG002
        """See Constraint."""
        allowed = (token not in self._tokens for token in tokens)
        return sum(itertools.takewhile(bool, allowed))

    def accept(self, token: int) -> None:
        """See Constraint."""

    def take_back(self, n: int) -> None:
        """See Constraint."""


class Follower:
    """Keeps a constraint in step with the tokens drawn, which may be ahead of those handed out.

    A decode asks it for its limits, see Limits in _handles.py: a mask is computed only where a
    token is drawn, and drafts that the constraint forbids are not evaluated.
    """

    def __init__(self, constraint: Constraint, *, forces: bool) -> None:
        """`forces`: tokens that the constraint leaves no choice about are not drawn."""
        self._constraint, self._forces = constraint, forces
        self._noted = 0  # tokens of the decode under way that the constraint knows

    @property
    def complete(self) -> bool:
        """Whether nothing may follow the tokens drawn."""
        return self._constraint.complete

    def forced(self) -> list[int]:
        """The tokens that come next without a draw, noted already."""
        tokens = self._constraint.forced() if self._forces else []
        for token in tokens:
            self._constraint.accept(token)
        return tokens

    def follow(self, drafts: list[int]) -> int:
        """See Limits."""
        return self._constraint.follow(drafts, forces=self._forces)

    def allow(self, drawn: list[int]) -> bytes:
        """See Limits."""
        self._note(drawn)
        return self._constraint.mask()

    def finish(self, drawn: list[int]) -> None:
        """Ends a decode that drew these tokens."""
        self._note(drawn)
        self._noted = 0

    def take_back(self, n: int) -> None:
        """The last n tokens drawn have never been."""
        self._constraint.take_back(n)

    def _note(self, drawn: list[int]) -> None:
        for token in drawn[self._noted :]:
            self._constraint.accept(token)
        self._noted = len(drawn)
