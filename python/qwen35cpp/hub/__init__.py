"""Models by name: found where they were downloaded to, or downloaded (extra `[hub]`).

names.py says what a name means (models.json is the table of short names), cache.py looks without
the network, download.py gets what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNotFound
from . import download
from .cache import Store, folder
from .download import Remote
from .names import Reference, in_repository, parse, parse_or_fail, parts, published, short_names

__all__ = [
    "Found", "Reference", "Store", "find", "folder", "get", "in_repository", "parse",
    "parse_or_fail", "plan", "published", "short_names",
]  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A model that is here."""

    path: Path  # for a sharded model its first file
    mmproj: Path | None  # the vision tower, where it is here
    downloaded: int = 0  # bytes, now


def find(reference: Reference, *, vision: bool = False, store: Store | None = None) -> Found | None:
    """The model when it is here (with its vision tower when that is asked for), else None."""
    store = store or Store(folder())
    path, mmproj = store.find(reference), store.find_mmproj(reference)
    if path is None or (vision and mmproj is None):
        return None
    return Found(path, mmproj)


def plan(
    reference: Reference,
    *,
    vision: bool = False,
    update: bool = False,
    store: Store | None = None,
) -> list[Remote]:
    """The files that `get` would download; asks the hub."""
    store = store or Store(folder())
    wanted: list[str] = []
    if update or store.find(reference) is None:
        name = reference.file or reference.choose(download.list_files(reference.repo))
        wanted += parts(name)
    if vision and (update or store.find_mmproj(reference) is None):
        wanted.append(reference.choose_mmproj(download.list_files(reference.repo)))
    remotes = [download.describe(reference.repo, name) for name in wanted]
    return [remote for remote in remotes if not download.is_here(remote, store)]


def get(
    reference: Reference,
    *,
    vision: bool = False,
    update: bool = False,
    quiet: bool = False,
    store: Store | None = None,
) -> Found:
    """The model, downloaded when it is not here. Without `update` what is here is not asked about.

    Args:
        reference: the model, see `parse`.
        vision: its vision tower too.
        update: ask whether the repository has newer files.
        quiet: show no progress.
        store: where models lie; None is the hub's cache of this user.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        ModelNotFound: there is no such repository or file.
        FileError: network or disk; what has arrived is kept for the next try.
    """
    store = store or Store(folder())
    found = None if update else find(reference, vision=vision, store=store)
    if found is not None:
        return found
    remotes = plan(reference, vision=vision, update=update, store=store)
    size = sum(download.fetch(remote, store, quiet=quiet) for remote in remotes)
    found = find(reference, vision=vision, store=store)
    if found is None:
        raise ModelNotFound(f"{reference.name} did not arrive in {store.root}")
    return Found(found.path, found.mmproj, size)
