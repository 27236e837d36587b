"""The commands and their arguments as data, read from the parser: for completion and the docs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """An argument of a command: positional when it has no flags."""

    flags: tuple[str, ...]
    metavar: str  # "" for a switch
    choices: tuple[str, ...]
    help: str
    many: bool = False
    optional: bool = True


@dataclass(frozen=True)
class Command:
    """A command and what it takes."""

    name: str
    help: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> list[Argument]:
        """The arguments with flags."""
        return [argument for argument in self.arguments if argument.flags]

    @property
    def positional(self) -> list[Argument]:
        """The arguments without."""
        return [argument for argument in self.arguments if not argument.flags]


def commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """All commands in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield Command(name, helps[name], tuple(arguments(command)))


def arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    """The arguments of a command, or those before it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        takes = action.nargs != 0
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        yield Argument(
            flags=tuple(action.option_strings),
            metavar=metavar if takes else "",
            choices=tuple(map(str, action.choices or ())),
            help=" ".join((action.help or "").split()),
            many=action.nargs in ("*", "+"),
            optional=not action.required,
        )
