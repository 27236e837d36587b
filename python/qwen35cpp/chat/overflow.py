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

    System messages at the beginning and the last question stay. When turns must go, so many do that
    a quarter of the room is free: the prompts that follow then grow at their end for a while,
    instead of being read again every time.
    """
    if n_tokens(rendered) <= room:
        return messages, rendered
    head = 0
    while head < len(messages) and messages[head].get("role") in ("system", "developer"):
        head += 1
    starts = [i for i in range(head, len(messages)) if messages[i].get("role") == "user"]
    for start in starts[1:]:
        messages_left = [*messages[:head], *messages[start:]]
        rendered = render(messages_left)
        if n_tokens(rendered) <= room * 3 // 4 or start == starts[-1]:
            return messages_left, rendered
    return messages, rendered
