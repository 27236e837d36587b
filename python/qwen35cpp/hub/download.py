"""Downloads into the hub's cache: resumable also by a later process, disk space checked first.

huggingface_hub does the talking; it throws a broken download away when its process ends. So a file
is fetched here into a part of its own that stays, checked, and put where the library finds it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError, MissingExtra, ModelNotFound, Qwen35Error
from .cache import Store

_SPARE = 64 << 20  # bytes of disk space to leave
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Remote:
    """A file of a repository as the hub describes it."""

    repo: str
    file: str
    url: str
    size: int
    etag: str  # the SHA-256 of a large file
    commit: str
    headers: dict[str, str]


def library() -> Any:
    """The package huggingface_hub.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtra(
            "downloading needs the package huggingface_hub",
            hint="pip install 'qwen35cpp[hub]', or download the file yourself and give its path",
        ) from error


@contextmanager
def _said_plainly(what: str) -> Iterator[None]:
    """Errors of the library and of the network as ours."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.GatedRepoError as error:
        raise FileError(
            f"{what}: the repository asks you to accept its terms",
            hint="accept them on its page, then log in: hf auth login (or set HF_TOKEN)",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise ModelNotFound(
            f"{what} is not on the hub", hint="check the name; a private one needs HF_TOKEN"
        ) from error
    except errors.OfflineModeIsEnabled as error:  # a kind of OSError
        raise FileError(
            f"{what}: HF_HUB_OFFLINE forbids to download it", hint="unset HF_HUB_OFFLINE"
        ) from error
    except (errors.HTTPError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            f"cannot download {what}: {said}",
            hint="what has arrived is kept: run the same command again to go on",
        ) from error


def list_files(repo: str) -> list[str]:
    """The files of a repository."""
    hub = library()
    with _said_plainly(repo):
        return list(hub.list_repo_files(repo))


def describe(repo: str, file: str) -> Remote:
    """Size and identity of a file on the hub."""
    hub = library()
    url = hub.hf_hub_url(repo, file)
    with _said_plainly(f"{repo}/{file}"):
        found = hub.get_hf_file_metadata(url)
    names = (found.etag or "", found.commit_hash or "")
    if found.size is None or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise FileError(f"{repo}/{file}: the hub does not say what the file is")
    headers = hub.utils.build_hf_headers()
    return Remote(repo, file, url, int(found.size), *names, headers)


def is_here(remote: Remote, store: Store) -> bool:
    """Whether exactly this version of a file is in its place."""
    if store.plain:
        path = store.root / remote.file
        return path.is_file() and path.stat().st_size == remote.size
    home = store.repository(remote.repo)
    return (home / "snapshots" / remote.commit / remote.file).is_file()


def fetch(remote: Remote, store: Store, *, quiet: bool = False) -> int:
    """Puts a file into its place and returns how many bytes had to come over the network.

    Raises:
        FileError: the disk is too small, the network failed, or what came is not the file.
    """
    hub = library()
    if store.plain:
        return _fetch_to(remote, store.root / remote.file, store.root / ".locks", quiet)
    home = store.repository(remote.repo)
    blob = home / "blobs" / remote.etag
    locks = store.root / ".locks" / home.name  # the library's own
    got = 0 if blob.exists() else _fetch_to(remote, blob, locks, quiet)
    with _said_plainly(f"{remote.repo}/{remote.file}"):  # the library links what is there
        hub.hf_hub_download(remote.repo, remote.file, cache_dir=store.root)
    return got


def _fetch_to(remote: Remote, target: Path, locks: Path, quiet: bool) -> int:
    filelock = importlib.import_module("filelock")
    part = target.with_name(f"{remote.etag}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        locks.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(locks / f"{remote.etag}.lock", timeout=0):
            had = part.stat().st_size if part.exists() else 0
            _check_space(remote, target.parent, remote.size - had)
            _transfer(remote, part, quiet)
            part.replace(target)
    except filelock.Timeout as error:
        raise FileError(f"another process is downloading {remote.file} just now") from error
    except OSError as error:
        if isinstance(error, Qwen35Error):
            raise
        raise FileError(f"cannot download {remote.file}: {error}") from error
    return max(remote.size - had, 0)


def _check_space(remote: Remote, folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need + _SPARE > free:
        raise FileError(
            f"{remote.file} needs {need / 1e9:.2f} GB, {folder} has {free / 1e9:.2f} GB free",
            hint="make room, or set HF_HOME to a folder on another disk",
        )


def _transfer(remote: Remote, part: Path, quiet: bool) -> None:
    """Gets what is missing of a part and checks the whole."""
    http_get = importlib.import_module("huggingface_hub.file_download").http_get
    bar = importlib.import_module("tqdm").tqdm
    shown = functools.partial(bar, disable=True if quiet else None)  # None: not in a pipe
    with part.open("ab") as file:
        have = file.tell()
        if have > remote.size:
            file.truncate(0)
            have = 0
        with _said_plainly(f"{remote.repo}/{remote.file}"):
            http_get(
                remote.url,
                file,
                resume_size=have,
                headers=remote.headers,
                expected_size=remote.size,
                displayed_filename=Path(remote.file).name,
                tqdm_class=shown,
            )
        file.flush()
        os.fsync(file.fileno())
    if _SHA256.fullmatch(remote.etag) and _sha256(part) != remote.etag:
        part.unlink()
        raise FileError(
            f"{remote.file}: what arrived is not the file that the hub describes",
            hint="run the same command again; it was removed and begins anew",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return str(hashlib.file_digest(file, "sha256").hexdigest())
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
