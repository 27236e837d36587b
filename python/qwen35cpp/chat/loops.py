"""Finds a thought that repeats itself without end.

The rule: a loop is there when the last max(3 * p, 64) tokens repeat with a period of p tokens, for
some p up to 512: a sentence or paragraph three times in a row, token by token the same, or a
shorter pattern over 64 tokens. Text that only resembles what was said before is no loop.
"""

from __future__ import annotations

_REPEATS = 3
_SHORTEST = 64  # tokens that must repeat, however short the period
_LONGEST_PERIOD = 512
_WINDOW = 8  # tokens whose earlier place suggests a period


class LoopDetector:
    """Looks at one token after another; about a microsecond each."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[int, int] = {}  # hash of a window -> where it ended last

    def push(self, token: int) -> bool:
        """Takes the next token and says whether the tokens so far end in a loop."""
        tokens = self._tokens
        tokens.append(token)
        if len(tokens) < _WINDOW:
            return False
        key = hash(tuple(tokens[-_WINDOW:]))
        end = len(tokens)
        period = end - self._last.get(key, -end)
        self._last[key] = end
        length = max(_REPEATS * period, _SHORTEST)
        if period > _LONGEST_PERIOD or length > end:
            return False
        # Equal windows only suggested the period; comparing the tokens proves it.
        return tokens[end - length + period :] == tokens[end - length : end - period]
