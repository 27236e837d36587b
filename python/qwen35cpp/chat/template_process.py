"""Renders one chat template, again and again, in a process of its own.

MiniJinja counts steps, knows no files and limits recursion, but a template may still build a list
that fills the memory or nest it until the stack ends, and either would take the caller's process
along. So custom.py starts this module as a program and speaks to it in lines of JSON:

    in   {"source": ..., "names": {variable: text}}, then {variable: value} for each rendering
    out  for each line {"text": ...}, {"refused": ...} when the template raised an exception, or
         {"error": ..., "line": ...}
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Steps of MiniJinja. The official template takes about one for each character of a conversation of
# short messages, and fewer in long ones.
FUEL, FUEL_PER_CHARACTER = 5_000_000, 20
MOST_CHARACTERS, MOST_PER_CHARACTER = 1 << 20, 8  # of the text, beside those of the conversation
# Bytes of address space beside those that the process begins with.
_MEMORY, _MEMORY_PER_CHARACTER = 64 << 20, 24


class _Refused(Exception):
    """The template does not take the messages."""


def _raise_exception(message: Any) -> None:
    raise _Refused(str(message))


def _as_string(value: Any) -> str:
    """The filter `string`, with numbers in Python's spelling: so the models were trained."""
    return str(value)


def _as_json(value: Any, **_ignored: Any) -> str:
    """The filter `tojson` as in transformers: nothing is sorted or escaped for HTML."""
    return json.dumps(value, ensure_ascii=False)


def _memory_limit() -> Callable[[int], None]:
    """Sets how much the process may take for so many characters, where the system can."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError, ValueError):
        return lambda _characters: None
    begun = pages * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)

    def limit(characters: int) -> None:
        allowed = begun + _MEMORY + _MEMORY_PER_CHARACTER * characters
        resource.setrlimit(resource.RLIMIT_AS, (allowed, most))

    return limit


def _answer(error: Exception) -> dict[str, Any]:
    """What went wrong, in the words of MiniJinja."""
    if isinstance(error, _Refused):
        return {"refused": str(error)}
    if getattr(error, "kind", "") == "OutOfFuel":
        what = "takes too many steps"
    elif getattr(error, "kind", "") == "TemplateNotFound":
        what = "other templates cannot be included"
    else:
        what = getattr(error, "detail", None) or getattr(error, "message", None) or str(error)
    return {"error": what, "line": getattr(error, "line", None)}


def main() -> None:
    """Works until the input ends."""
    minijinja = importlib.import_module("minijinja")
    # Blanks around blocks as transformers has them; without a loader there are no includes.
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, debug=False)
    environment.add_filter("tojson", _as_json)
    environment.add_filter("string", _as_string)
    environment.add_global("raise_exception", _raise_exception)
    limit_memory = _memory_limit()
    start: dict[str, Any] | None = None
    said: dict[str, Any]
    for line in sys.stdin.buffer:
        try:
            limit_memory(len(line))
            if start is None:
                start = json.loads(line)
                environment.add_template("chat", start["source"])
                said = {"text": ""}
            else:
                environment.fuel = FUEL + FUEL_PER_CHARACTER * len(line)
                values = {**start["names"], **json.loads(line)}
                text = environment.render_template("chat", **values)
                most = MOST_CHARACTERS + MOST_PER_CHARACTER * len(line)
                long = {"error": f"renders more than {most:,} characters", "line": None}
                said = {"text": text} if len(text) <= most else long
        except Exception as error:  # any of them belongs to the template
            said = _answer(error)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
