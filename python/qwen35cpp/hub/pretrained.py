"""The arguments of Llama.from_pretrained, which are llama-cpp-python's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import Found, Store, get, in_repository, parse_or_fail
from .cache import folder

_Path = str | os.PathLike[str]


def pretrained(
    repo_id: str,
    filename: str | None,
    additional_files: Sequence[str] | None,
    local_dir: _Path | None,
    cache_dir: _Path | None,
    vision: bool,
) -> Found:
    """The model and whatever else was asked for, here."""
    reference = parse_or_fail(repo_id) if filename is None else in_repository(repo_id, filename)
    if local_dir is not None:
        store = Store(Path(local_dir), plain=True)
    else:
        store = Store(folder() if cache_dir is None else Path(cache_dir))
    found = get(reference, vision=vision, store=store)
    for name in additional_files or ():
        get(in_repository(reference.repo, name), store=store)
    return found
