"""Where a prompt is cut into batches, and at which cuts a snapshot is worth its memory.

A cut depends only on the tokens before it. So a prompt is evaluated in the same batches whether its
beginning was restored or read, and its logits are the same to the last bit. Prompts of a chat are
cut where they tend to part: before every message of the user (which also ends the system prompt
with its tools) and right behind the header of every answer, since the next prompt may render the
answer differently (thoughts vanish from the history). Pictures end a batch anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..vision import Span

MIN_GAP = 32  # tokens between cuts: a batch of fewer costs nearly as much as one of 32
LONG = 4096  # tokens of text without another boundary
SPARSE = 1024  # tokens between snapshots within an older part of a prompt
RECENT = 3  # cuts at the end of a prompt that all get a snapshot: the last turns change most


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

    def is_chat(self, tokens: Sequence[int]) -> bool:
        """Whether a prompt is a conversation."""
        return self.start in tokens

    def keeps_answer(self, tokens: Sequence[int]) -> bool:
        """Whether the prompt that follows `tokens` may begin with all of them.

        An answer with calls stays as it was drawn while its tools are worked on. Another one is
        rendered without its thought block when the conversation goes on.
        """
        if self.start not in tokens:
            return True
        last = len(tokens) - 1 - list(reversed(tokens)).index(self.start)
        return self.call in tokens[last:]

    def places(self, tokens: Sequence[int]) -> Iterator[int]:
        """Positions where prompts of a chat tend to part, ascending."""
        for index, token in enumerate(tokens):
            if token != self.start:
                continue
            behind = index + 1
            if tuple(tokens[behind : behind + len(self.user)]) == self.user:
                yield index
            elif tuple(tokens[behind : behind + len(self.assistant)]) == self.assistant:
                yield behind + len(self.assistant)


@dataclass(frozen=True)
class Plan:
    """Ends of batches, ascending, and those of them that get a snapshot."""

    cuts: list[int]
    snapshots: frozenset[int]


def plan(tokens: Sequence[int], spans: Sequence[Span], markers: Markers) -> Plan:
    """Cuts the prompt; the end of `tokens` is no cut unless it is a boundary as well."""
    ends = {span.end for span in spans}
    inside = [(span.start, span.end) for span in spans]
    wanted = sorted({*markers.places(tokens), *ends}) if markers.start >= 0 else sorted(ends)
    cuts: list[int] = []
    last = 0
    for place in [*wanted, len(tokens)]:
        while place - last > LONG:
            last = _outside(last + LONG, inside)
            cuts.append(last)
        if place in ends or (place - last >= MIN_GAP and place < len(tokens)):
            last = place
            cuts.append(last)
    return Plan(cuts, _worth_keeping(cuts))


def _outside(position: int, inside: Sequence[tuple[int, int]]) -> int:
    """The position, or the end of the picture around it."""
    for start, end in inside:
        if start < position < end:
            return end
    return position


def _worth_keeping(cuts: Sequence[int]) -> frozenset[int]:
    kept = set(cuts[:1])
    last = 0
    for cut in cuts[:-RECENT]:
        if cut - last >= SPARSE:
            kept.add(cut)
            last = cut
    return frozenset(kept.union(cuts[-RECENT:]))
