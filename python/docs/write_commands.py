"""Writes commands.md, the help of all commands: python python/docs/write_commands.py."""

from __future__ import annotations

from pathlib import Path

from qwen35cpp.cli import build_parser
from qwen35cpp.cli._describe import Argument, Command, arguments, commands

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

`qwen35cpp COMMAND`, or shorter `q35 COMMAND`. Standard output carries the answer and nothing else,
messages and progress go to standard error. Exit codes: 0 success, 1 failure, 2 usage, 130
interrupted. This page is written by `python/docs/write_commands.py`.
"""
_EVERYWHERE = ("--help", "--json", "--quiet")


def page() -> str:
    """The page as it should be."""
    parser = build_parser()
    found = list(commands(parser))
    shared = [a for a in found[0].options if a.flags[-1] in _EVERYWHERE]
    before = [a for a in arguments(parser) if a.flags[-1] not in _EVERYWHERE]
    lines = [_HEAD, "Every command takes:\n", *map(_row, shared), ""]
    lines += ["Without a command:\n", *map(_row, before), ""]
    for command in found:
        lines += _command(command)
    return "\n".join(lines)


def _command(command: Command) -> list[str]:
    usage = " ".join(_usage(argument) for argument in command.positional)
    options = [a for a in command.options if a.flags[-1] not in _EVERYWHERE]
    required = " ".join(f"{a.flags[-1]} {a.metavar}" for a in options if not a.optional)
    call = " ".join(part for part in ("qwen35cpp", command.name, usage, required) if part)
    rows = [_row(argument) for argument in (*command.positional, *options)]
    return [
        f"## {command.name}\n",
        f"{command.help[:1].upper()}{command.help[1:]}: `{call}`\n",
        *rows,
        "",
    ]


def _usage(argument: Argument) -> str:
    name = f"{argument.metavar} ..." if argument.many else argument.metavar
    return f"[{name}]" if argument.optional else name


def _row(argument: Argument) -> str:
    value = "|".join(argument.choices) or argument.metavar
    names = [f"`{flag} {value}`".replace(" `", "`") for flag in argument.flags]
    names = names or [f"`{argument.metavar}`"]
    return f"- {', '.join(names)}{': ' if argument.help else ''}{argument.help}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
