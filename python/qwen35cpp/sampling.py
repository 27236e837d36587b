"""How the next token is drawn: the settings and what the model cards recommend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .types import ModelInfo

# The hidden size of the 2B model: up to here the cards recommend other values than for 4B and 9B.
_SMALL_HIDDEN_SIZE = 2048


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, applied in the order: logit bias, penalties, temperature, top_k, ...

    temperature 0 takes the most likely token and ignores top_k, top_p and min_p.
    """

    temperature: float = 1.0
    top_k: int = 20  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    presence_penalty: float = 0.0  # subtracted once from every token already generated
    frequency_penalty: float = 0.0  # subtracted per occurrence
    repetition_penalty: float = 1.0  # 1: off; counts the prompt too

    def updated(self, **values: float | None) -> Sampling:
        """A copy with every value that is not None."""
        given: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        return replace(self, **given)


def recommended(
    info: ModelInfo, *, thinking: bool = False, vision: bool = False, precise: bool = False
) -> Sampling:
    """The settings that the model cards give for this size and mode.

    `precise` is the cards' mode for exact coding; it applies to thinking only.
    """
    small = info.n_embd <= _SMALL_HIDDEN_SIZE
    if thinking:
        if precise or (vision and small):
            return Sampling(temperature=0.6, top_p=0.95, presence_penalty=0.0)
        return Sampling(temperature=1.0, top_p=0.95, presence_penalty=1.5)
    if small and not vision:
        return Sampling(temperature=1.0, top_p=1.0, presence_penalty=2.0)
    return Sampling(temperature=0.7, top_p=0.8, presence_penalty=1.5)
