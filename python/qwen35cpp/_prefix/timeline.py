"""One session on its way through the tree: where it stands, what its caches hold, what is kept.

The caches of a session hold entries of `held`, of which those up to the session's position are its
present; the others are leftovers that stay of use until they are overwritten. A node of the tree
may leave its entries there: before the session overwrites them, they are copied. Whoever calls
holds the session's slot and lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._handles import Buffer, Session
from ..errors import ContextTooLong, Qwen35Error, StateInvalid
from .boundaries import GRID, Markers
from .tree import Node, Tree, common_length

if TYPE_CHECKING:
    from .disk import DiskCache
    from .state_file import Header


@dataclass(frozen=True)
class Mark:
    """A place to come back to, see Timeline.mark."""

    snapshot: Buffer
    logits: bool
    drawn: bool


class Timeline:
    """A session, the tokens in its caches and the tree that it shares with others."""

    def __init__(
        self, session: Session, tree: Tree, markers: Markers, disk: DiskCache | None = None
    ) -> None:
        self._session, self._markers, self._disk = session, markers, disk
        self.tree = tree
        self.held: list[int] = []
        self.logits_kept = False  # those of the last token before the position
        self._drawn = False  # the present stands behind tokens that were not read as a prompt
        with tree.lock:
            if not tree.token_bytes:
                tree.token_bytes = session.token_bytes
                if disk is not None:
                    disk.load(tree)

    @property
    def tokens(self) -> list[int]:
        """The tokens that the session stands behind."""
        return self.held[: self._session.position]

    def copy_entries(self, first: int, n: int) -> Buffer:
        """The entries of n tokens. Others may ask, also while the session reads further tokens."""
        return self._session.export_entries(first, n)

    # ---- going somewhere -------------------------------------------------------------------------

    def ahead(self, tokens: Sequence[int], fits: Callable[[int], bool]) -> int:
        """How far begin() would go."""
        with self.tree.lock:
            node = self._deepest(self.tree.walk(tokens)[0], len(tokens), fits)
            return max(self._live(tokens), 0 if node is None else node.end)

    def begin(self, tokens: Sequence[int], fits: Callable[[int], bool]) -> tuple[int, int]:
        """Goes as far along `tokens` as is known; how far, and how far earlier prompts went.

        `fits`: whether going on from a position computes the same bits as reading everything.
        """
        known = self._live(tokens)
        with self.tree.lock:
            path, common = self.tree.walk(tokens)
            while True:
                node = self._deepest(path, len(tokens), fits)
                if node is None or node.end <= known:
                    break
                if self.go(node):
                    return node.end, max(common, node.end)
                path = self.tree.walk(tokens)[0]  # its file was damaged: it is gone
            common = max(common, known, common_length(self.held, list(tokens)))
            if known == 0:
                self.reset()
            return known, common

    def _live(self, tokens: Sequence[int]) -> int:
        """The position, when everything before it begins `tokens`; else 0."""
        position = self._session.position
        if position > len(tokens) or (position == len(tokens) and not self.logits_kept):
            return 0
        return position if self.held[:position] == list(tokens[:position]) else 0

    @staticmethod
    def _deepest(path: Sequence[Node], n: int, fits: Callable[[int], bool]) -> Node | None:
        for node in reversed(path):
            if node.restorable and (node.logits if node.end == n else node.drawn or fits(node.end)):
                return node
        return None

    def go(self, node: Node) -> bool:
        """Goes to the end of a node; False when its file turned out to be damaged."""
        with self.tree.lock:
            node.pins += 1  # what is dropped on the way is not this one
            try:
                self.park()
                if not self._go(node):
                    return False
            finally:
                node.pins -= 1
            self.tree.touch(node)
            self._shrink(node)
            return True

    def _go(self, node: Node) -> bool:
        path, tokens = node.path(), node.all_tokens()
        common = self._shared(path, tokens)
        for each in path:
            lacks_entries = each.end > common and each.entries is None
            if not self._load(each, lacks_entries, each is node and node.snapshot is None):
                self.tree.remove(each)
                return False
        self._rescue(common)
        del self.held[common:]
        for each in path:
            if each.end > common:
                self._put(each, max(each.start, common))
        assert node.snapshot is not None
        self._session.restore(node.snapshot)
        self.logits_kept, self._drawn = node.logits, node.drawn
        return True

    def _shared(self, path: Sequence[Node], tokens: Sequence[int]) -> int:
        """How far the caches hold the very entries of a path.

        The last few tokens of a prompt may have been computed in another order than within a longer
        one, so only what lies before a boundary counts.
        """
        common = common_length(self.held, tokens)
        ends = (each.end for each in path if each.restorable and not each.drawn)
        return max((end for end in ends if end <= common), default=0)

    def _load(self, node: Node, entries: bool, snapshot: bool) -> bool:
        """Brings entries or snapshot into memory: from another session or from a file."""
        if entries and node.holder is not None:
            node.entries, node.holder = node.holder.copy_entries(node.start, len(node.tokens)), None
            entries = False
        if not (entries or snapshot):
            return True
        return self._disk is not None and self._disk.read(node, entries=entries, snapshot=snapshot)

    def _put(self, node: Node, first: int) -> None:
        """Copies a node's entries from token `first` on into the caches."""
        assert node.entries is not None
        skip = (first - node.start) * self.tree.token_bytes
        self._session.import_entries(first, memoryview(node.entries)[skip:])
        self.held.extend(node.tokens[first - node.start :])

    def reset(self) -> None:
        """Forgets every token; what the tree needs of them is copied first."""
        self.park()
        self._rescue(0)
        self.held.clear()
        self._session.reset()
        self.logits_kept = self._drawn = False

    def forget(self) -> None:
        """Empties the tree in memory, except for what sessions stand on, and resets."""
        with self.tree.lock:
            for node in list(self.tree.nodes()):
                if not node.pinned and node.file is None:
                    self.tree.remove(node)
        self._rescue(0)
        self.held.clear()
        self._session.reset()
        self.logits_kept = self._drawn = False

    def mark(self) -> Mark:
        """The present, to come back to within the same request."""
        return Mark(self._session.snapshot(), self.logits_kept, self._drawn)

    def return_to(self, mark: Mark) -> None:
        """Goes back to a mark; the tokens before it must not have changed since."""
        self._session.restore(mark.snapshot)
        self.logits_kept, self._drawn = mark.logits, mark.drawn

    # ---- going on --------------------------------------------------------------------------------

    def overwriting(self) -> None:
        """To be called before entries behind the position are overwritten: they are copied."""
        position = self._session.position
        if position < len(self.held):
            self._rescue(position)
            del self.held[position:]

    def advancing(self) -> None:
        """To be called before the session evaluates."""
        self.overwriting()
        self.logits_kept = False

    def advanced(self, tokens: Sequence[int], *, drawn: bool) -> None:
        """To be called when it has evaluated these tokens, or a beginning of them.

        `drawn`: not as a prompt is read, so that the state may differ in the last bits.
        """
        self.held.extend(tokens[: self._session.position - len(self.held)])
        self._drawn = self._drawn or drawn

    def _rescue(self, position: int) -> None:
        """Copies the entries behind `position` that only this session holds for the tree."""
        with self.tree.lock:
            for node in self.tree.walk(self.held)[0]:
                if node.holder is not self or node.end <= position:
                    continue
                if node.entries is None and (node.file is None or node.pinned):
                    try:
                        node.entries = self.copy_entries(node.start, len(node.tokens))
                    except MemoryError:
                        self.tree.remove(node)
                        break
                node.holder = None
            self._shrink()

    # ---- keeping ---------------------------------------------------------------------------------

    def keep(self, *, pinned: bool = False) -> Node | None:
        """Takes a snapshot here, so that a session can come back; None when it is not worth it.

        `pinned`: in any case, and for good until the pin is given back.
        """
        tokens = self.tokens
        if not tokens:
            return None
        with self.tree.lock:
            node = self.tree.add(tokens, self)
            if not node.restorable or (self.logits_kept and not node.logits):
                try:
                    snapshot = self._session.snapshot()
                except MemoryError:
                    if pinned:
                        raise
                    return None
                self._store(node, snapshot, self.logits_kept)
            node.pins += pinned
            self.tree.touch(node)
            self._shrink(node)
        return node

    def keep_snapshot(self, position: int, snapshot: Buffer) -> None:
        """Puts a snapshot that was taken on the way into the tree."""
        with self.tree.lock:
            node = self.tree.add(self.held[:position], self)
            if not node.restorable:
                self._store(node, snapshot, False)
            self.tree.touch(node)
            self._shrink(node)

    def _store(self, node: Node, snapshot: Buffer, logits: bool) -> None:
        node.snapshot, node.logits, node.drawn = snapshot, logits, self._drawn
        node.stored = False

    def park(self) -> None:
        """Keeps the present when a later prompt may begin with it."""
        tokens = self.tokens
        if not tokens or not self._drawn or not self._markers.keeps_answer(tokens):
            return  # what was only read has its snapshots
        with self.tree.lock:
            path = self.tree.walk(tokens)[0]
            last = max((node.end for node in path if node.restorable), default=0)
            if len(tokens) - last >= GRID:
                self.keep()

    def _shrink(self, keep: Node | None = None) -> None:
        """Drops the least useful until the limit holds."""
        excess = self.tree.n_bytes - self.tree.limit
        while excess > 0:
            node = self.tree.least_useful(keep)
            if node is None:
                return
            before = node.n_bytes
            if self._disk is not None and self._disk.wants(node):
                self._save(node)
            self.tree.drop(node)
            excess -= before - node.n_bytes

    # ---- nodes for the caller --------------------------------------------------------------------

    def copy_node(self, node: Node) -> tuple[Buffer, Buffer]:
        """All entries up to a node, and its snapshot."""
        with self.tree.lock:
            parts: list[Buffer] = []
            for each in node.path():
                if each.entries is None and each.holder is not None:
                    parts.append(each.holder.copy_entries(each.start, len(each.tokens)))
                elif self._load(each, each.entries is None, each is node and not node.snapshot):
                    parts.append(each.entries or b"")
                else:
                    raise StateInvalid("a file of the disk cache is gone or damaged")
            assert node.snapshot is not None
            return b"".join(parts) if len(parts) != 1 else parts[0], node.snapshot

    def add_node(
        self, header: Header, tokens: Sequence[int], entries: Buffer, snapshot: Buffer
    ) -> Node:
        """Puts a saved state into the tree, with a pin."""
        size, state = self.tree.token_bytes, self._session.state_bytes
        position = int.from_bytes(snapshot[4:8], "little")  # see csrc/runtime/snapshot.cpp
        if (
            not tokens
            or header.start
            or len(entries) != len(tokens) * size
            or len(snapshot) < state
            or position != len(tokens)
        ):
            raise StateInvalid(f"{header.path} is damaged: its parts do not fit together")
        if len(tokens) > self._session.n_ctx:
            raise ContextTooLong(
                f"{header.path} has {len(tokens)} tokens, the context holds {self._session.n_ctx}"
            )
        with self.tree.lock:
            node = self.tree.add(tokens, None)
            for each in node.path():
                if each.entries is None and each.holder is None and each.file is None:
                    each.entries = memoryview(entries)[each.start * size : each.end * size]
            if node.snapshot is None:
                node.snapshot, node.logits = snapshot, header.logits
                node.drawn = bool(header.notes.get("drawn"))
            node.pins += 1
            self.tree.touch(node)
            self._shrink(node)
        return node

    # ---- files -----------------------------------------------------------------------------------

    def _save(self, node: Node) -> None:
        """Writes a node, and those before it, to the disk cache."""
        if self._disk is None:
            return
        with contextlib.suppress(OSError, MemoryError, Qwen35Error):
            for each in node.path():
                if each.file is None or (each.snapshot is not None and not each.stored):
                    entries = each.entries
                    if entries is None and each.holder is not None:
                        entries = each.holder.copy_entries(each.start, len(each.tokens))
                    self._disk.write(each, entries)

    def save_all(self) -> None:
        """Writes every state that took long to compute to the disk cache."""
        if self._disk is None:
            return
        with self.tree.lock:
            for node in list(self.tree.nodes()):
                if node.snapshot is not None and not node.stored and self._disk.wants(node):
                    self._save(node)
            self._disk.trim(self.tree)
