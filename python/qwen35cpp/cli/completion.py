"""`qwen35cpp completion SHELL`: a script that completes commands, options and names of models."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._common import Commands

if TYPE_CHECKING:
    from ._describe import Argument, Command

_PROGRAMS = "qwen35cpp q35"


def add(commands: Commands, _common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "completion",
        help="print a script for a shell's completion",
        description='bash: eval "$(qwen35cpp completion bash)" in ~/.bashrc; zsh: the same in '
        "~/.zshrc after compinit; fish: qwen35cpp completion fish | source in config.fish",
    )
    parser.add_argument("shell", choices=tuple(_SHELLS), metavar="SHELL", help="bash, zsh or fish")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from . import build_parser
    from ._describe import commands

    found = list(commands(build_parser()))
    print(_SHELLS[args.shell](found))
    return 0


def _models() -> str:
    """The names that may stand where a model does, besides those of files."""
    from ..hub import short_names

    return " ".join(["tiny", *short_names()])


def _takes_model(command: Command) -> bool:
    return any(argument.metavar in ("MODEL", "NAME") for argument in command.positional[:1])


def bash(found: list[Command]) -> str:
    """The script for bash."""
    cases = []
    for command in found:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words = " ".join(choice for each in command.positional for choice in each.choices)
        second = f'offered="{words}"; files=' if words else ":"
        if _takes_model(command):
            second = f'offered="{_models()}"'
        chosen = "".join(
            f'\n        {"|".join(option.flags)}) offered="{" ".join(option.choices)}"; files= ;;'
            for option in command.options
            if option.choices
        )
        cases.append(
            f"""    {command.name})
      flags="{flags}"
      if [ "$COMP_CWORD" -eq 2 ]; then {second}; fi
      case "$before" in{chosen}
        *) ;;
      esac ;;"""
        )
    names = " ".join(command.name for command in found)
    body = "\n".join(cases)
    return f"""_qwen35cpp() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local flags="--help --version" offered="" files=yes
  if [ "$COMP_CWORD" -eq 1 ]; then offered="{names}"; files=; fi
  case "${{COMP_WORDS[1]}}" in
{body}
  esac
  case "$word" in -*) offered="$flags"; files= ;; esac
  COMPREPLY=($(compgen -W "$offered" -- "$word"))
  if [ -n "$files" ]; then
    local IFS=$'\\n'
    COMPREPLY+=($(compgen -f -- "$word"))
    compopt -o filenames 2>/dev/null
  fi
}}
complete -F _qwen35cpp {_PROGRAMS}"""


def zsh(found: list[Command]) -> str:
    """The script for zsh, which runs those of bash."""
    return f"autoload -U bashcompinit && bashcompinit\n{bash(found)}"


def fish(found: list[Command]) -> str:
    """The script for fish."""
    lines = []
    for program in _PROGRAMS.split():
        for command in found:
            lines.append(
                f"complete -c {program} -f -n __fish_use_subcommand -a {command.name} "
                f"-d {_quoted(command.help)}"
            )
            inside = f"-c {program} -n '__fish_seen_subcommand_from {command.name}'"
            if _takes_model(command):
                lines.append(f"complete {inside} -a '{_models()}'")
            for words in (" ".join(argument.choices) for argument in command.positional):
                lines += [f"complete {inside} -f -a '{words}'"] if words else []
            lines += [f"complete {inside} {_fish_option(option)}" for option in command.options]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_option(option: Argument) -> str:
    flags = [
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
    ]
    if option.choices:
        flags.append(f"-x -a '{' '.join(option.choices)}'")
    elif option.metavar:
        flags.append("-r" if option.metavar in ("FILE", "FOLDER") else "-x")
    return " ".join([*flags, f"-d {_quoted(option.help)}"])


_SHELLS: dict[str, Callable[[list[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
