"""One training or test example of the toy world, and the rule that keeps the two apart.

Read next: skills.py, which lists the generators.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [height, width, 3], RGB
Place = tuple[int, float, float]  # number of a picture, x and y in it
Shown = tuple[str, int, float, float]  # part of an answer and its place


@dataclass(frozen=True)
class Video:
    """Frames of one size and the time of each in seconds, ascending."""

    frames: list[Image]
    times: list[float]


@dataclass(frozen=True)
class Sample:
    """A conversation whose last message is the assistant's reference answer, or a plain text.

    Messages are in OpenAI form: `role`, `content` (a string, or a list of parts with `type` text,
    image or video), and for assistants optionally `reasoning_content` and `tool_calls`
    (`[{"name": ..., "arguments": {...}}]`). Images and videos stand in `images` and `videos` in the
    order of their parts.

    Lessons of looking back take from an assistant's message `source`, a sentence of the context
    that it repeats; `clue`, such a sentence and the word in it on which the answer depends;
    `shown`, parts of the answer in their order, each with the picture (or pair of frames) and the
    pixel where it can be seen; or `counted`, the places of all that the answer counts.
    """

    skill: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool = False
    images: list[Image] = field(default_factory=list)
    videos: list[Video] = field(default_factory=list)
    text: str = ""  # plain text to continue; then `messages` is empty
    expect: Any = None  # what `check` of the skill compares a reply with

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages before the reference answer."""
        return self.messages[:-1]


@dataclass(frozen=True)
class Skill:
    """A generator with its own test: `check(sample, reply)` says whether a reply is right.

    `make(rng, test)` draws one sample. With `test` every sample holds a combination that
    `held_out` keeps from training; without, none does.
    """

    name: str
    make: Callable[[random.Random, bool], Sample]
    check: Callable[[Sample, str], bool]


def held_out(*parts: object) -> bool:
    """Whether a combination (in the given order) belongs to the test sets: one in eight does."""
    key = "|".join(map(str, parts)).encode()
    return hashlib.blake2b(key, digest_size=1).digest()[0] < 32


def draw(rng: random.Random, test: bool, *pools: list[Any]) -> list[Any]:
    """One item of each pool, drawn until the combination is on the wanted side of `held_out`."""
    while True:
        items = [rng.choice(pool) for pool in pools]
        if held_out(*items) == test:
            return items


def user(content: str | list[dict[str, Any]]) -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": content}


def system(content: str) -> dict[str, Any]:
    """A system message."""
    return {"role": "system", "content": content}


def assistant(content: str, reasoning: str = "", calls: list[Any] | None = None) -> dict[str, Any]:
    """An assistant message; `calls` are (name, arguments) pairs."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [{"name": name, "arguments": args} for name, args in calls]
    return message


def parts(*items: str) -> list[dict[str, Any]]:
    """Content of several parts: "<image>" and "<video>" are placeholders, the rest is text."""
    return [
        {"type": item[1:-1]} if item in ("<image>", "<video>") else {"type": "text", "text": item}
        for item in items
    ]
