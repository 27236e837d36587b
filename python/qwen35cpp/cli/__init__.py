"""The command line. Each command is a module with `add` (its arguments) and `run` (its work).

Standard output carries the answer and nothing else; messages go to standard error. Exit codes: 0
success, 1 failure, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from ..errors import Qwen35Error
from . import (
    bench,
    chat,
    completion,
    decide,
    doctor,
    embed,
    files,
    fit,
    get,
    info,
    map_rows,
    run,
    serve,
)
from ._common import report
from ._names import find_model

FAILURE, INTERRUPTED = 1, 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run` to its function."""
    parser = argparse.ArgumentParser(
        prog="qwen35cpp", description="Run the small Qwen 3.5 models on this computer's CPU."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument("-q", "--quiet", action="store_true", help="no progress, no remarks")
    modules = (
        run, chat, serve, decide, map_rows, embed, get, bench, info, fit, doctor, files, completion,
    )  # fmt: skip
    for module in modules:
        module.add(commands, common)
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments in any order: argparse takes those that may be absent before all options only."""
    args, rest = parser.parse_known_args(argv)
    free = all(word == "-" or not word.startswith("-") for word in rest)
    if free and len(rest) == 1 and getattr(args, "prompt", "") is None:
        args.prompt = rest.pop()
    elif free and "files" in args:
        args.files += rest
        rest = []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by an object without encoding
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    parser = build_parser()
    args = _parse(parser, argv)
    if args.version:
        from .._native import version

        print(version())
        return 0
    if "run" not in args:
        parser.print_usage(sys.stderr)
        return 2
    try:
        if getattr(args, "find_model", False):
            find_model(args)
        return int(args.run(args))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left. Nothing more can be written, not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (Qwen35Error, OSError, MemoryError) as error:
        report(error)
        return FAILURE
