"""When a model thinks, and when a thought has to end although the model goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgument
from .loops import LoopDetector

# Of the tokens that an answer may take, what a thought without a budget leaves to the text.
_RESERVED_SHARE = 4  # a quarter
_RESERVED_MOST = 1024

_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh"})


def thinking_asked(
    *,
    think: bool | None = None,
    enable_thinking: bool | None = None,
    reasoning_effort: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> bool | None:
    """What the caller asks for, in any of the spellings in use; None: nothing.

    An effort of "none" is off, every other is on.

    Raises:
        InvalidArgument: the spellings contradict each other, or one is unknown.
    """
    kwargs = chat_template_kwargs or {}
    asked = {
        "think": think,
        "enable_thinking": enable_thinking,
        "chat_template_kwargs: enable_thinking": kwargs.get("enable_thinking"),
    }
    for name, value in asked.items():
        if value is not None and not isinstance(value, bool):
            raise InvalidArgument(f"{name} must be True, False or None, not {value!r}")
    if reasoning_effort is not None:
        if not isinstance(reasoning_effort, str) or reasoning_effort not in _EFFORTS:
            known = ", ".join(sorted(_EFFORTS))
            raise InvalidArgument(f"reasoning_effort must be one of {known}")
        asked["reasoning_effort"] = reasoning_effort != "none"
    given = {name: value for name, value in asked.items() if value is not None}
    if len(set(given.values())) > 1:
        raise InvalidArgument(f"{' and '.join(given)} contradict each other")
    return next(iter(given.values()), None)


def budget_within(room: int, wanted: int | None, closing: int) -> int | None:
    """Tokens that a thought may take, so that an answer still fits into `room`.

    Args:
        room: tokens to generate at most.
        wanted: the budget asked for. It holds to the token unless there is no room for it, the end
            of the thought and a token of text. None lets the thought take what leaves a quarter of
            the room, at most 1024 tokens, to the answer.
        closing: tokens that closing the thought takes.

    Returns:
        None for no budget: the room is so small that the answer is cut within its thought.
    """
    reserved = 1 if wanted is not None else max(1, min(room // _RESERVED_SHARE, _RESERVED_MOST))
    largest = room - closing - reserved
    if largest < 1 or wanted is None:
        return wanted if largest < 1 else largest
    return min(wanted, largest)


class ThoughtGuard:
    """Watches the tokens of a thought."""

    def __init__(self, budget: int | None) -> None:
        self._budget = budget
        self._loops = LoopDetector()

    def check(self, token: int, count: int) -> str | None:
        """Why the thought has to end after `token`, its token number `count`; None: it need not."""
        if self._loops.push(token):
            return "loop"
        return "budget" if self._budget is not None and count >= self._budget else None
