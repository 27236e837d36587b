"""What the commands share: arguments, progress on a terminal, numbers for people."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .._bundled import TINY, TINY_FILE

Commands = Any  # argparse keeps the type of add_subparsers() private


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def model_file(text: str) -> str:
    """An argparse type: the path of a model; "tiny" is the one that comes with the package."""
    return str(TINY_FILE) if text == TINY and not Path(text).exists() else text


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that opens a model."""
    parser.add_argument(
        "model", type=model_file, metavar="MODEL", help="a GGUF file, or tiny: the bundled model"
    )
    parser.add_argument("-t", "--threads", type=positive, metavar="N", help="threads to use")


def add_kv(parser: argparse.ArgumentParser) -> None:
    """The type of the attention cache, for commands that evaluate."""
    parser.add_argument(
        "--kv",
        choices=("auto", "f16", "f32", "q8_0"),
        default="auto",
        help="how attention keys and values are stored: q8_0 takes half the memory of f16",
    )


def print_json(value: Any) -> None:
    """Prints one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def human_bytes(count: float) -> str:
    """A size such as "1.41 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


class Progress:
    """A line on standard error that is rewritten in place; silent in a pipe or with --quiet."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what = what
        self._shown = False
        self._active = not quiet and sys.stderr.isatty()
        self._next = time.monotonic() + 0.5  # short work shows nothing

    def __call__(self, done: int, total: int, name: str = "") -> None:
        """Shows `done` of `total` and the part at work, at most ten times a second."""
        now = time.monotonic()
        if self._active and now >= self._next:
            self._next = now + 0.1
            self._shown = True
            share = 100 * done // max(total, 1)
            line = f"\r\x1b[K{self._what} {share} % {name}"
            print(line.rstrip(), end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Removes the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
