"""`qwen35cpp get NAME`: downloads a model into the cache that all commands look into."""

from __future__ import annotations

import argparse
import sys

from ._common import Commands, human_bytes, print_json


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("get", parents=[common], help="download a model")
    parser.add_argument(
        "name",
        metavar="NAME",
        help="2b, 2b-q8_0, OWNER/REPOSITORY:TYPE or OWNER/REPOSITORY/FILE.gguf",
    )
    parser.add_argument("--vision", action="store_true", help="its vision tower too")
    parser.add_argument(
        "--update", action="store_true", help="look for a newer file even when one is here"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from .. import hub

    reference = hub.parse_or_fail(args.name)
    found = hub.get(reference, vision=args.vision, update=args.update, quiet=args.quiet)
    if args.json:
        tower = None if found.mmproj is None else str(found.mmproj)
        print_json({"model": str(found.path), "mmproj": tower, "downloaded": found.downloaded})
        return 0
    print(found.path)
    if args.vision:
        print(found.mmproj)
    if not args.quiet:
        came = human_bytes(found.downloaded) if found.downloaded else "nothing: it was here"
        print(f"downloaded {came}", file=sys.stderr)
    return 0
