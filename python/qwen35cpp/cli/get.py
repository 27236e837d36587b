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
        nargs="?",
        metavar="NAME",
        help="2b, 2b-q8_0, OWNER/REPOSITORY:TYPE or OWNER/REPOSITORY/FILE.gguf",
    )
    parser.add_argument("--vision", action="store_true", help="its vision tower too")
    parser.add_argument(
        "--update", action="store_true", help="look for a newer file even when one is here"
    )
    parser.add_argument(
        "--list", action="store_true", help="show the short names and the GGUF files that are here"
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from .. import hub

    if args.list:
        _list(args.json)
        return 0
    if args.name is None:
        args.usage_error("what is to be got? Give NAME, or --list")
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


def _list(as_json: bool) -> None:
    from .. import hub

    names = {name: f"{each.repo}/{each.file}" for name, each in hub.published().items()}
    here = {name: str(path) for name, path in hub.Store(hub.folder()).models().items()}
    if as_json:
        print_json({"names": names, "here": here})
        return
    for name, file in names.items():
        print(f"{name:6} {file}{'  (here)' if file in here else ''}")
    rest = [file for file in here if file not in names.values()]
    print("\n".join(["", "also here:", *rest] if rest else []), end="\n" if rest else "")
