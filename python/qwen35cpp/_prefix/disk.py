"""A folder of states that survives restarts: a file for each node, named by its tokens.

Files of another model, kv_type or version are left alone; damaged ones count as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

from .._handles import Buffer
from ..errors import Qwen35Error
from . import state_file
from .tree import Node, Tree

MIN_TOKENS = 64  # fewer are read again faster than a file
_SUFFIX = ".q35state"


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.blake2b(array("q", tokens).tobytes(), digest_size=16).hexdigest()


class DiskCache:
    """The files of one model in a folder."""

    def __init__(self, folder: Path, model: str, limit: int = 4 << 30) -> None:
        """`model`: fingerprint of everything that states depend on; `limit`: bytes of its files."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._model, self._limit = folder, model, limit
        self._token_bytes = 0

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"{self._model[:16]}-*{_SUFFIX}"))

    def load(self, tree: Tree) -> None:
        """Puts the files into the tree: their tokens only, the rest is read when it is needed."""
        self._token_bytes = tree.token_bytes
        found: list[tuple[state_file.Header, list[int]]] = []
        for path in self._files():
            with contextlib.suppress(OSError, Qwen35Error):
                header = state_file.read_header(path)
                tokens = state_file.read_tokens(header)
                if header.model == self._model and 0 <= header.start < len(tokens):
                    found.append((header, tokens))
        for header, tokens in sorted(found, key=lambda each: len(each[1])):
            if header.start:
                tree.add(tokens[: header.start], None)
            node = tree.add(tokens, None)
            node.stored, node.logits = header.size("snapshot") > 0, header.logits
            node.drawn = bool(header.notes.get("drawn"))
            while node.parent is not None and node.end > header.start:
                if node.file is None:
                    node.file, node.skip = header.path, node.start - header.start
                node = node.parent
        for node in list(tree.nodes()):
            if node.file is None and node.parent is not None:
                tree.remove(node)  # what came before it is gone

    def wants(self, node: Node) -> bool:
        """Whether a node is worth a file: its state took some time to compute."""
        return node.end >= MIN_TOKENS

    def write(self, node: Node, entries: Buffer | None) -> None:
        """Writes a node; without `entries`, those of its old file."""
        tokens = node.all_tokens()
        path = self._folder / f"{self._model[:16]}-{_digest(tokens)}{_SUFFIX}"
        if entries is None:
            if not self.read(node, entries=True, snapshot=False) or node.entries is None:
                return
            entries = node.entries
        state_file.write(
            path,
            model=self._model,
            start=node.start,
            tokens=tokens,
            entries=entries,
            snapshot=node.snapshot,
            logits=node.logits,
            notes={"drawn": node.drawn},
        )
        node.file, node.skip, node.stored = path, 0, node.snapshot is not None

    def read(self, node: Node, *, entries: bool, snapshot: bool) -> bool:
        """Reads a node's file into it; False when it is gone, damaged or another."""
        if node.file is None:
            return False
        try:
            header = state_file.read_header(node.file)
            if header.model != self._model or (snapshot and not header.size("snapshot")):
                return False
            node.file.touch()  # the oldest are deleted first
            if entries:
                data = state_file.read_section(header, "entries")
                first = node.skip * self._token_bytes
                last = first + len(node.tokens) * self._token_bytes
                if last > len(data):
                    return False
                node.entries = data if last - first == len(data) else data[first:last]
            if snapshot:
                node.snapshot = state_file.read_section(header, "snapshot")
        except (OSError, Qwen35Error):
            return False
        return True

    def trim(self, tree: Tree) -> None:
        """Deletes the files used longest ago until the limit holds."""
        files = []
        for path in self._files():
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit
        gone = set()
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                gone.add(path)
                excess -= size
        for node in list(tree.nodes()):
            if node.file in gone:
                node.file, node.stored = None, False
                if node.entries is None and node.holder is None and not node.pinned:
                    tree.remove(node)
