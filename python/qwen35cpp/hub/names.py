"""Names of models on a hub: short ones such as 2b or 2b-q8_0, owner/repo:type, owner/repo/file."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument, ModelNotFound

# One plain name of a repository or file. It may not begin with a dot: no "..", no hidden file.
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"{_PLAIN}/{_PLAIN}")
_FILE = re.compile(rf"(?P<repo>{_PLAIN}/{_PLAIN})/(?P<file>(?:{_PLAIN}/)*{_PLAIN}\.gguf)")
_TYPED = re.compile(rf"(?P<repo>{_PLAIN}/{_PLAIN}):(?P<type>[A-Za-z0-9_.-]+)")
_SHORT = re.compile(r"(?P<size>[0-9.]+b)(?:[-:](?P<type>[A-Za-z0-9_-]+))?")
# What a repository may call a file: no part that begins with a dot, nothing special to a system.
_SAFE = re.compile(r"(?:(?!\.)[^/\\:\0]+/)*(?!\.)[^/\\:\0]+")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")


@dataclass(frozen=True)
class Reference:
    """A model in a repository: its exact file, or a pattern that picks one of the files there."""

    name: str  # as it was given
    repo: str
    file: str | None = None
    pattern: str | None = None  # for fnmatch, against lower case
    mmproj: str | None = None  # None: whichever file of that name there is

    def choose(self, files: Sequence[str]) -> str:
        """The model's file among those of the repository; for a sharded model its first.

        Raises:
            ModelNotFound: none of them is it, or more than one.
        """
        models = [f for f in _gguf(files) if not _is_later_part(f)]
        if self.file is not None:
            found = [f for f in models if f == parts(self.file)[0]]
        else:
            assert self.pattern is not None
            found = [f for f in models if fnmatch.fnmatchcase(f.lower(), self.pattern)]
            found = [f for f in found if "mmproj" not in f.lower()] or found
        if len(found) == 1:
            return found[0]
        trouble = "more than one model" if found else "no model"
        there = found or models
        hint = f"it has {', '.join(there[:12])}" if there else "it has no GGUF file at all"
        raise ModelNotFound(f"{self.repo} has {trouble} for {self.name!r}", hint=hint)

    def choose_mmproj(self, files: Sequence[str]) -> str:
        """The vision tower's file among those of the repository.

        Raises:
            ModelNotFound: there is none.
        """
        towers = [f for f in _gguf(files) if "mmproj" in f.lower()]
        if self.mmproj in towers:
            return self.mmproj
        if not towers:
            raise ModelNotFound(f"{self.repo} has no vision tower (no mmproj file)")
        half = [f for f in towers if re.search("(?<!b)f16", f.lower())]
        return (half or towers)[0]


def _gguf(files: Sequence[str]) -> list[str]:
    return sorted(f for f in files if f.endswith(".gguf") and _SAFE.fullmatch(f))


def _is_later_part(file: str) -> bool:
    """Whether a file is a later part of a sharded model."""
    match = _SHARD.fullmatch(file)
    return match is not None and int(match["part"]) != 1


def parts(file: str) -> list[str]:
    """All files of a model: the one named, or the shards that its name counts."""
    match = _SHARD.fullmatch(file)
    if match is None:
        return [file]
    count = int(match["parts"])
    if not 1 <= count <= 999:
        raise InvalidArgument(f"{file}: {count} parts are not believable")
    return [f"{match['stem']}-{part:05}-of-{match['parts']}.gguf" for part in range(1, count + 1)]


def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("models.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def short_names() -> list[str]:
    """The names of the table: "0.8b", ..."""
    return list(_table()["models"])


def published() -> dict[str, Reference]:
    """What the short names stand for."""
    found = {name: parse(name) for name in short_names()}
    return {name: each for name, each in found.items() if each is not None}


def parse(name: str) -> Reference | None:
    """What a name stands for; None when it cannot be a name of a model on a hub.

    The forms: `2b`, `2b-q8_0`, `owner/repo:q8_0`, `owner/repo/file.gguf`.
    """
    match = _SHORT.fullmatch(name.lower())
    if match is not None:
        table = _table()
        entry = table["models"].get(match["size"])
        if entry is None:
            return None
        kind = (match["type"] or table["default_type"]).upper()
        file = entry["main"].format(type=kind)
        return Reference(name, entry["repo"], file=file, mmproj=entry["mmproj"])
    match = _TYPED.fullmatch(name)
    if match is not None:
        return Reference(name, match["repo"], pattern=_pattern(match["type"]))
    match = _FILE.fullmatch(name)
    if match is not None:
        return Reference(name, match["repo"], file=match["file"])
    return None


def parse_or_fail(name: str) -> Reference:
    """`parse`, with an error that says what would be right."""
    reference = parse(name)
    if reference is None:
        short = ", ".join(short_names())
        if _REPOSITORY.fullmatch(name):
            hint = f"say which of its files: {name}:q4_k_m or {name}/FILE.gguf"
        else:
            hint = f"give OWNER/REPOSITORY:TYPE, OWNER/REPOSITORY/FILE.gguf, or one of {short}"
        raise ModelNotFound(f"{name!r} names no model to download", hint=hint)
    return reference


def in_repository(repo: str, pattern: str) -> Reference:
    """The model of a repository whose file has this name or matches this pattern of fnmatch."""
    if not _REPOSITORY.fullmatch(repo):
        raise InvalidArgument(f"{repo!r} is no repository", hint="give OWNER/NAME")
    name = f"{repo}/{pattern}"
    if any(c in pattern for c in "*?["):
        return Reference(name, repo, pattern=pattern.lower())
    return Reference(name, repo, file=pattern)


def _pattern(kind: str) -> str:
    """A pattern for file names with a type: `-TYPE.gguf`, in one file or in shards."""
    return f"*[-._]{kind.lower()}[.-]*gguf"
