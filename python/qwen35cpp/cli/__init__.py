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
from . import bench, chat, doctor, files, info, run, serve
from ._common import report

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
    for module in (run, chat, serve, bench, info, doctor, files):
        module.add(commands, common)
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments in any order: argparse itself takes an optional prompt before all options only."""
    args, rest = parser.parse_known_args(argv)
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(args, "prompt", "") is None:
        args.prompt = rest.pop()
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
