"""`qwen35cpp map MODEL INPUT`: one question about every row of a table, several at once."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from . import _rows
from ._common import (
    Commands,
    Progress,
    add_chat,
    add_generation,
    add_model,
    generation_options,
    open_llama,
    positive,
    print_json,
)
from ._files import replacing

_FAILED = 1  # the exit code when rows were kept without an answer


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "map", parents=[common], help="ask one question about every row of a table"
    )
    add_model(parser)
    parser.add_argument(
        "input", metavar="INPUT", help="CSV, TSV, JSON lines or text lines; - is standard input"
    )
    parser.add_argument(
        "-p",
        "--prompt",
        required=True,
        metavar="TEXT",
        help='the question, with columns in braces: "Translate: {text}"; a text line is {text}',
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="CSV, TSV or JSON lines (default: JSON lines shown)"
    )
    parser.add_argument(
        "--as", dest="column", default="answer", metavar="NAME", help="the column for the answers"
    )
    parser.add_argument(
        "--from", dest="kind", choices=_rows.FORMATS, help="format of INPUT (default: by its name)"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="answers in the making at once"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="put what goes wrong into the column error"
    )
    add_chat(parser)
    add_generation(parser)
    parser.set_defaults(run=run, mmproj=None, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Does the work; a run that was broken off goes on behind the answers it has."""
    kind = None if args.output is None else _rows.format_of(args.output, None)
    if kind == "txt":
        args.usage_error("--output is .csv, .tsv or .jsonl")
    rows = _rows.read(args.input, _rows.format_of(args.input, args.kind))
    if any(args.column in row for row in rows):
        raise InvalidArgument(
            f"there is a column {args.column!r} already", hint="name another with --as"
        )
    output = None if args.output is None else Path(args.output)
    journal = None if output is None else output.with_name(f"{output.name}.resume")
    answered: list[dict[str, Any]] = []
    resumed = failed = 0
    with open_llama(args) as llama:
        progress = Progress("answering", quiet=args.quiet)
        options: dict[str, Any] = {
            **generation_options(args),
            "system": args.system,
            "think": args.think,
            "thinking_budget": args.thinking_budget,
        }
        for done in llama.map(
            rows,
            args.prompt,
            workers=args.workers,
            resume=journal,
            on_error="keep" if args.keep_going else "raise",
            progress=lambda count, _: progress(count, len(rows)),
            **options,
        ):
            row = {**done.row, args.column: done.text}
            if args.keep_going:
                row["error"] = done.error or ""
            resumed += done.resumed
            failed += done.error is not None
            if output is None:
                progress.clear()
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                answered.append(row)
        progress.clear()
    if output is not None and kind is not None and journal is not None:
        with replacing(output) as file:
            _rows.write(file, answered, kind)
        journal.unlink(missing_ok=True)
        _report(args, len(rows), resumed, failed)
    return _FAILED if failed else 0


def _report(args: argparse.Namespace, rows: int, resumed: int, failed: int) -> None:
    if args.json:
        print_json({"output": args.output, "rows": rows, "resumed": resumed, "failed": failed})
    elif not args.quiet:
        more = f", {resumed} of them by an earlier run" if resumed else ""
        more += f", {failed} without an answer" if failed else ""
        print(f"{rows} rows in {args.output}{more}", file=sys.stderr)
