"""`qwen35cpp decide MODEL [TEXT]`: decides between given answers, for a text or a CSV file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from ._common import (
    Commands,
    Progress,
    add_cache_dir,
    add_kv,
    add_limit,
    add_model,
    add_pictures,
    add_template,
    open_llama,
    picture_parts,
    positive,
    print_json,
)

if TYPE_CHECKING:
    from ..decisions.decide import Decision

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "decide", parents=[common], help="decide between answers, with probabilities"
    )
    add_model(parser)
    parser.add_argument("prompt", nargs="?", metavar="TEXT", help="- or nothing reads stdin")
    parser.add_argument("--label", metavar="A,B,C", help="labels of a field named label")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME:ANSWERS",
        help="urgent:bool, score:0..4 or team:billing,bug; may be given again",
    )
    parser.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="NAME:TEXT",
        help="what to ask for a field, with its answers named",
    )
    parser.add_argument("--system", metavar="TEXT", help="instructions for the model")
    parser.add_argument(
        "--length-normalize", action="store_true", help="do not favour answers of few tokens"
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="compare with a text that says nothing"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="decide every row of this file")
    parser.add_argument("--column", metavar="NAME", help="with --csv: the column to read")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with --csv: the file to write")
    parser.add_argument("-c", "--ctx", type=positive, metavar="N", help="tokens of context")
    add_template(parser)
    add_kv(parser)
    add_limit(parser)
    add_cache_dir(parser)
    add_pictures(parser)
    parser.set_defaults(run=run, draft="off", usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    fields = _fields(args)
    table = (args.csv, args.column, args.out)
    if any(table) and not all(table):
        args.usage_error("--csv, --column and --out belong together")
    if args.csv and (args.prompt or args.image or args.video):
        args.usage_error("--csv takes no text and no pictures")
    with open_llama(args) as llama:
        progress = Progress("deciding", quiet=args.quiet)
        decider = llama.decider(
            fields,
            system=args.system,
            budget=args.budget,
            length_normalize=args.length_normalize,
            calibrate=args.calibrate,
        )
        try:
            if args.csv:
                from ..decisions.table import decide_table

                known = decide_table(decider, args.csv, args.column, args.out, progress)
                progress.clear()
                _say_resumed(args, known)
                return 0
            content = [*picture_parts(args), {"type": "text", "text": _text(args)}]
            decision = decider([{"role": "user", "content": content}], progress=progress)
        finally:
            progress.clear()
    if args.json:
        print_json(_as_json(decision))
    else:
        _show(decision)
    return 0


def _say_resumed(args: argparse.Namespace, known: int) -> None:
    if args.json:
        print_json({"out": str(args.out), "resumed_rows": known})
    elif known and not args.quiet:
        print(f"{known} rows were decided before", file=sys.stderr)


def _text(args: argparse.Namespace) -> str:
    if args.prompt is not None and args.prompt != "-":
        return str(args.prompt)
    if args.prompt is None and (args.image or args.video):
        return ""
    if args.prompt is None and sys.stdin.isatty():
        raise InvalidArgument("there is no text", hint="give it as an argument or in a pipe")
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that --label, --field and --question describe."""
    from ..decisions.fields import Field

    given = [f"label:{args.label}"] if args.label else []
    answers = dict(_pair(args, text, "--field") for text in [*given, *args.field])
    questions = dict(_pair(args, text, "--question") for text in args.question)
    if not answers:
        args.usage_error("what is to be decided? Give --label or --field")
    for name in questions:
        if name not in answers:
            args.usage_error(f"--question {name}: there is no such field")
    return {name: Field(_answers(text), questions.get(name)) for name, text in answers.items()}


def _pair(args: argparse.Namespace, text: str, option: str) -> tuple[str, str]:
    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or not rest.strip():
        args.usage_error(f"{option} is {text!r}: expected NAME:...")
    return name.strip(), rest.strip()


def _answers(text: str) -> Any:
    if text in ("bool", "yes/no"):
        return bool
    ends = _RANGE.fullmatch(text)
    if ends:
        return range(int(ends[1]), int(ends[2]) + 1)
    return [label.strip() for label in text.split(",") if label.strip()]


def _as_json(decision: Decision) -> dict[str, Any]:
    from ..decisions.decide import key_of

    return {
        name: {
            "value": value,
            "confidence": decision.confidence[name],
            "probabilities": {
                key_of(each): share for each, share in decision.probabilities[name].items()
            },
        }
        for name, value in decision.items()
    }


def _show(decision: Decision) -> None:
    for name, value in decision.items():
        shares = sorted(decision.probabilities[name].items(), key=lambda pair: -pair[1])
        best = ", ".join(f"{_word(each)} {share:.3f}" for each, share in shares[:5])
        shown = f"{value:.2f}" if isinstance(value, float) else _word(value)
        print(f"{name}: {shown}  ({best})")


def _word(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
