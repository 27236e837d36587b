"""Editing of lines on a terminal: arrow keys, a history that is kept, completion with Tab."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_LONGEST_HISTORY = 1000  # lines


def edit_lines(commands: Sequence[str]) -> None:
    """Turns editing on for input(), where the system can; `commands` are completed with files."""
    try:
        import readline
    except ImportError:
        return
    history = history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_LONGEST_HISTORY)
    readline.set_completer_delims(" ")

    def complete(text: str, state: int) -> str | None:
        found = ways_on(text, commands if readline.get_begidx() == 0 else ())
        return found[state] if state < len(found) else None

    def keep() -> None:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch(mode=0o600)  # what was typed is nobody else's business
            readline.write_history_file(history)

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    atexit.register(keep)


def history_file() -> Path:
    """Where the lines typed are kept: $XDG_STATE_HOME/qwen35cpp/history."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "qwen35cpp" / "history"


def ways_on(text: str, commands: Sequence[str]) -> list[str]:
    """How a word may go on: as one of the commands, else as the name of a file or folder."""
    known = [name for name in commands if name.startswith(text)]
    if known or not text:
        return known
    head, slash, start = text.rpartition("/")
    try:
        beside = sorted(Path(head + slash or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # RuntimeError: no such user after ~
        return []
    return [
        f"{head}{slash}{path.name}{'/' if path.is_dir() else ''}"
        for path in beside
        if path.name.startswith(start)
    ]
