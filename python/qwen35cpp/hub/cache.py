"""What was downloaded before, looked up without the network and without huggingface_hub.

The layout is that of the hub's own cache, which other tools fill and read too:
`models--OWNER--NAME/refs/main` names a commit, and `snapshots/COMMIT/` holds its files.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNotFound
from .names import Reference, parts


def folder() -> Path:
    """The cache: $HF_HUB_CACHE, else $HF_HOME/hub, else that of the user."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache")
    return Path(base).expanduser() / "huggingface" / "hub"


@dataclass(frozen=True)
class Store:
    """Where models lie: the hub's cache, or with `plain` a folder of a user's choice."""

    root: Path
    plain: bool = False

    def repository(self, repo: str) -> Path:
        """The folder of a repository in the cache."""
        return self.root / f"models--{repo.replace('/', '--')}"

    def folders(self, repo: str) -> list[Path]:
        """The folders with files of a repository: its main branch as seen last, then older ones.

        A file that did not change since stays in the folder of the commit it was fetched at.
        """
        if self.plain:
            return [self.root]
        home = self.repository(repo)
        try:
            found = [path for path in (home / "snapshots").iterdir() if path.is_dir()]
            times = {path: path.stat().st_mtime for path in found}
            main = (home / "refs" / "main").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return []
        return sorted(found, key=lambda path: (path.name != main, -times[path]))

    def find(self, reference: Reference) -> Path | None:
        """The model's file when all of it is here."""
        for files in self.folders(reference.repo):
            with contextlib.suppress(ModelNotFound):
                name = reference.choose(_names(files))
                if all((files / part).is_file() for part in parts(name)):
                    return files / name
        return None

    def find_mmproj(self, reference: Reference) -> Path | None:
        """The vision tower's file when it is here."""
        for files in self.folders(reference.repo):
            with contextlib.suppress(ModelNotFound):
                return files / reference.choose_mmproj(_names(files))
        return None

    def models(self) -> dict[str, Path]:
        """All GGUF files of the cache by OWNER/REPOSITORY/FILE, whatever model they hold."""
        found: dict[str, Path] = {}
        for home in sorted(self.root.glob("models--*--*")):
            repo = home.name.removeprefix("models--").replace("--", "/", 1)
            for files in self.folders(repo):
                for name in sorted(_names(files)):
                    found.setdefault(f"{repo}/{name}", files / name)
        return found


def _names(files: Path) -> list[str]:
    return [path.relative_to(files).as_posix() for path in files.rglob("*.gguf") if path.is_file()]
