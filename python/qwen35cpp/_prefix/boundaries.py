"""Where snapshots are taken while a prompt is read.

Prompts of a chat tend to part before a message of the user, which also ends the system prompt with
its tools, and right behind the header of an answer, since the next prompt may render the answer
differently (thoughts vanish from the history). Pictures are boundaries as well, and long text gets
some on the way. What comes after a snapshot should be computed as if there had been none, to the
last bit; so text is only parted at multiples of GRID tokens, where the engine computes the same
either way, and up to GRID - 1 tokens before a boundary are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..vision import Span

GRID = 32  # chunks of the delta rule
FEW = 8  # so few tokens at once are computed in another order
LONG = 4096  # tokens of text without another boundary
SPARSE = 1024  # tokens between snapshots within an older part of a prompt
RECENT = 3  # boundaries at the end of a prompt that all count: the last turns change most


@dataclass(frozen=True)
class Markers:
    """Token ids of the chat format; `start` is -1 where the vocabulary has none."""

    start: int = -1  # <|im_start|>
    user: tuple[int, ...] = ()
    assistant: tuple[int, ...] = ()  # with the line break behind it
    call: int = -1  # <tool_call>

    @classmethod
    def find(cls, tokenize: Callable[[bytes, bool], list[int]]) -> Markers:
        """The markers of a vocabulary."""
        start, call = tokenize(b"<|im_start|>", True), tokenize(b"<tool_call>", True)
        if len(start) != 1:
            return cls()
        user, assistant = tokenize(b"user", False), tokenize(b"assistant\n", False)
        return cls(start[0], tuple(user), tuple(assistant), call[0] if len(call) == 1 else -1)

    def keeps_answer(self, tokens: Sequence[int]) -> bool:
        """Whether the prompt that follows `tokens` may begin with all of them.

        An answer with calls stays as it was drawn while its tools are worked on. Another one is
        rendered without its thought block when the conversation goes on.
        """
        for index in range(len(tokens) - 1, -1, -1):
            if tokens[index] == self.call:
                return True
            if tokens[index] == self.start:
                return False
        return True

    def places(self, tokens: Sequence[int]) -> Iterator[int]:
        """Positions where prompts of a chat tend to part, ascending."""
        if self.start < 0:
            return
        for index, token in enumerate(tokens):
            if token != self.start:
                continue
            behind = index + 1
            if tuple(tokens[behind : behind + len(self.user)]) == self.user:
                yield index
            elif tuple(tokens[behind : behind + len(self.assistant)]) == self.assistant:
                yield behind + len(self.assistant)


class Plan:
    """How a prompt is read: the ends of its parts, and where snapshots are taken."""

    def __init__(self, n_tokens: int, spans: Sequence[Span], batch: int) -> None:
        self._n, self._batch = n_tokens, batch
        self._pictures = [(span.start, span.end) for span in spans]

    def _origin(self, position: int) -> int:
        """Where the text around a position begins: behind the picture before it."""
        return max((end for _, end in self._pictures if end <= position), default=0)

    def _text_end(self, position: int) -> int:
        return min((start for start, _ in self._pictures if start >= position), default=self._n)

    def fits(self, position: int) -> bool:
        """Whether going on from here computes the same bits as reading everything."""
        offset, left = position - self._origin(position), self._text_end(position) - position
        return offset % GRID == 0 and (left > FEW or left == 0 or offset % self._batch == 0)

    def parts(self, known: int) -> Iterator[tuple[int, int]]:
        """The parts to evaluate one after another: pictures, and batches of text.

        Batches end where they end when everything is read.
        """
        pictures = {start for start, _ in self._pictures}
        edges = {self._n, *(edge for picture in self._pictures for edge in picture)}
        offset = known - self._origin(known)
        if offset % GRID == 0 and offset % self._batch:
            edges.add(min(known - offset % self._batch + self._batch, self._text_end(known)))
        last = known
        for edge in sorted(edge for edge in edges if edge > known):
            while last not in pictures and edge - last > self._batch:
                yield last, last + self._batch
                last += self._batch
            yield last, edge
            last = edge

    def snapshots(self, known: int, boundaries: Iterable[int], parting: int) -> set[int]:
        """Where snapshots are taken behind `known`.

        `parting`: where the prompt parts from one before it, which makes a boundary of it. A prompt
        without any is kept near its end.
        """
        wanted = sorted({*boundaries, *(end for _, end in self._pictures)})
        last, chosen = 0, set(wanted[:1]).union(wanted[-RECENT:])
        for place in [*wanted, self._n]:
            while place - last > LONG:
                last += LONG
                chosen.add(last)
            if place - last >= SPARSE or place in chosen:
                chosen.add(place)
                last = place
        chosen.add(parting)
        if not wanted:
            chosen.add(self._n)
        return {place for place in map(self.on_grid, chosen) if place > known}

    def on_grid(self, position: int) -> int:
        """The last place up to a position (behind the picture around it) to part the prompt at."""
        for start, end in self._pictures:
            if start < position < end:
                return end
        origin = self._origin(position)
        if self._text_end(position) == self._n:
            position = min(position, max(self._n - FEW - 1, origin))
        return origin + (position - origin) // GRID * GRID
