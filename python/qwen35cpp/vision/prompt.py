"""A prompt of token ids with pictures in it.

The tokens of a picture get negative ids made from a digest of its pixels. So a prompt stays a list
of integers: prefixes are compared as before, and a picture equals only itself.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..errors import InvalidArgument
from .load import DEFAULT_LIMITS, Limits, Pixels, Source, open_picture
from .resize import BUDGETS, CELL, Budget, fit, target_size


class View(ABC):
    """What one run of the tower sees: a still, or two frames of a video that follow each other.

    `digest` tells its pixels from all others; `grid` are its rows and columns of tokens.
    """

    digest: bytes

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""

    @abstractmethod
    def frames(self) -> tuple[Pixels, Pixels | None]:
        """The pixels, sides being multiples of 32; the second is None for stills."""

    @property
    def n_tokens(self) -> int:
        """Tokens that it takes up in a prompt."""
        return self.grid[0] * self.grid[1]

    def ids(self) -> list[int]:
        """One negative id for each token."""
        base = int.from_bytes(self.digest[:6], "little") << 15  # a picture has at most 2^14 tokens
        return [-1 - (base + index) for index in range(self.n_tokens)]


@dataclass(frozen=True)
class Picture(View):
    """Pixels of a still, or of two frames of a video that follow each other, ready to be encoded.

    Sides are multiples of 32; `second` is None for stills.
    """

    first: Pixels
    second: Pixels | None = None
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        state = hashlib.blake2b(digest_size=16)
        state.update(repr(self.first.shape).encode())
        state.update(self.first.tobytes())
        if self.second is not None:
            state.update(b"|")
            state.update(self.second.tobytes())
        object.__setattr__(self, "digest", state.digest())

    @classmethod
    def open(
        cls,
        source: Source | View,
        budget: Budget = BUDGETS["default"],
        limits: Limits = DEFAULT_LIMITS,
    ) -> View:
        """Decodes a picture (see load.open_picture) and stretches it to a size of the budget.

        One that was made before is returned as it is.
        """
        if isinstance(source, View):
            return source
        pixels = open_picture(source, limits)
        height, width, _ = pixels.shape
        return cls(fit(pixels, *target_size(height, width, budget)))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.first.shape[0] // CELL, self.first.shape[1] // CELL

    def frames(self) -> tuple[Pixels, Pixels | None]:
        """The pixels."""
        return self.first, self.second


@dataclass(frozen=True)
class Span:
    """Where a picture stands in a prompt."""

    start: int
    picture: View

    @property
    def end(self) -> int:
        """The index behind its last token."""
        return self.start + self.picture.n_tokens


@dataclass(frozen=True)
class PicturePrompt:
    """Token ids, negative ones where pictures stand, and the pictures in order."""

    ids: list[int]
    spans: Sequence[Span] = ()

    @classmethod
    def build(cls, ids: Sequence[int], places: Sequence[tuple[int, View]]) -> PicturePrompt:
        """Puts pictures in place of the placeholder tokens at the indices given, ascending."""
        out: list[int] = []
        spans: list[Span] = []
        done = 0
        for index, picture in places:
            out += ids[done:index]
            spans.append(Span(len(out), picture))
            out += picture.ids()
            done = index + 1
        out += ids[done:]
        return cls(out, spans)

    @classmethod
    def fill(
        cls, ids: Sequence[int], pads: Collection[int], pictures: Sequence[View]
    ) -> PicturePrompt:
        """Puts pictures in place of the tokens in `pads`, which must be as many, in order."""
        places = [index for index, token in enumerate(ids) if token in pads]
        if len(places) != len(pictures):
            raise InvalidArgument(
                f"the prompt has {len(places)} image placeholders for {len(pictures)} images",
                hint="write <|vision_start|><|image_pad|><|vision_end|> where each image belongs, "
                "and pass special=True",
            )
        return cls.build(ids, list(zip(places, pictures, strict=True)))
