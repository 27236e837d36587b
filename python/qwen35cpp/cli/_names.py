"""MODEL on the command line: a path, "tiny", or the name of a model that may have to be got."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .._bundled import TINY, TINY_FILE
from ..errors import ModelNotFound
from ._common import human_bytes

if TYPE_CHECKING:
    from .. import hub


def find_model(args: argparse.Namespace) -> None:
    """Puts a path in place of the name in `args.model`; may download, when a person says yes.

    The vision tower that belongs to it becomes `args.mmproj` where the command has that argument.
    What looks like a path stays as it is: opening it says what is wrong with it.
    """
    name: str = args.model
    if Path(name).exists():
        return
    if name == TINY:
        args.model = str(TINY_FILE)
        return
    from .. import hub

    reference = hub.parse(name)
    if reference is None:
        if "/" not in name and "." not in name:
            names = ", ".join(hub.short_names())
            raise ModelNotFound(
                f"there is no file {name!r}, and no model has this name",
                hint=f"models with a name: tiny, {names}; or give the path of a GGUF file",
            )
        return
    vision = bool(getattr(args, "image", None) or getattr(args, "video", None))
    vision = vision and args.mmproj is None
    found = hub.find(reference, vision=vision)
    if found is None:
        found = _ask(reference, args.quiet, vision)
    args.model = str(found.path)
    if "mmproj" in args and args.mmproj is None and found.mmproj is not None:
        args.mmproj = str(found.mmproj)


def _ask(reference: hub.Reference, quiet: bool, vision: bool) -> hub.Found:
    """Downloads what a person agrees to; without a person an error that names the command."""
    from .. import hub

    missing = ModelNotFound(
        f"{reference.name}{' with its vision tower' if vision else ''} is not on this computer",
        hint=f"download it: qwen35cpp get {reference.name}{' --vision' if vision else ''}",
    )
    if quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise missing
    size = sum(remote.size for remote in hub.plan(reference, vision=vision))
    print(
        f"{reference.name} is not here. Download {human_bytes(size)} of {reference.repo}? [Y/n] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
        raise missing
    return hub.get(reference, vision=vision)
