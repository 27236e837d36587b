"""Conversations that have become too long for the context lose their oldest turns, if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .messages import Message
from .render import Rendered


def room_for_prompt(n_ctx: int, max_tokens: int | None) -> int:
    """Tokens of a prompt that leave room for its answer, which gets a quarter at most."""
    return n_ctx - min(max_tokens or n_ctx, n_ctx // 4)


def n_tokens(rendered: Rendered) -> int:
    """Tokens of a prompt, with those of its pictures."""
    return len(rendered.ids) + sum(int(each.source.n_tokens) - 1 for each in rendered.media)


def drop_turns(
    messages: Sequence[Message],
    rendered: Rendered,
    render: Callable[[Sequence[Message]], Rendered],
    room: int,
) -> tuple[Sequence[Message], Rendered]:
    """The messages that fit, and what they are as tokens.

    System messages at the beginning and the last question stay. Turns go in steps of a quarter of
    the room, counted from the beginning: prompts then grow at their end for a while, instead of
    being read again every time, also those of a client that always sends the whole conversation.
    """
    total = n_tokens(rendered)
    if total <= room:
        return messages, rendered
    head = 0
    while head < len(messages) and messages[head].get("role") in ("system", "developer"):
        head += 1
    starts = [i for i in range(head, len(messages)) if messages[i].get("role") == "user"][1:]
    if not starts:
        return messages, rendered
    step = max(room // 4, 1)
    goal = -(-(total - room) // step) * step  # tokens that go at least
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        gone = total - n_tokens(render([*messages[:head], *messages[starts[middle] :]]))
        low, high = (low, middle) if gone >= goal else (middle + 1, high)
    left = [*messages[:head], *messages[starts[low] :]]
    return left, render(left)
