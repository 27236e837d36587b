"""One session on its way through the tree: where it stands, what its caches hold, what is kept.

The caches of a session hold entries of `held`, of which those up to the session's position are its
present; the others are leftovers that stay of use until they are overwritten. A node of the tree
whose entries nobody copied lies on `held`: before the session overwrites them, they are copied.
All methods belong to the caller who has the turn, with the engine's locks held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from .._handles import Session
from ..errors import Qwen35Error
from .boundaries import MIN_GAP, Markers
from .disk import DiskCache
from .tree import Node, Tree, common_length


class Timeline:
    """A session, the tokens in its caches and the tree."""

    def __init__(
        self, session: Session, limit: int, markers: Markers, disk: DiskCache | None = None
    ) -> None:
        self._session = session
        self._markers = markers
        self.disk = disk
        self.tree = Tree(limit, session.token_bytes)
        self.held: list[int] = []
        self.logits_kept = False  # those of the last token before the position
        if disk is not None:
            disk.load(self.tree)

    @property
    def tokens(self) -> list[int]:
        """The tokens that the session stands behind."""
        return self.held[: self._session.position]

    # ---- going somewhere -------------------------------------------------------------------------

    def begin(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Goes as far along `tokens` as is known; how far, and how far earlier prompts went."""
        known = self._live(tokens)
        path, common = self.tree.walk(tokens)
        while True:
            node = self._deepest(path, len(tokens))
            if node is None or node.end <= known:
                break
            if self.go(node):
                return node.end, max(common, node.end)
            path = self.tree.walk(tokens)[0]  # its file was damaged: it is gone
        if known == 0:
            self.reset()
        return known, max(common, known, common_length(self.held, list(tokens)))

    def _live(self, tokens: Sequence[int]) -> int:
        """The position, when everything before it begins `tokens`; else 0."""
        position = self._session.position
        if position > len(tokens) or (position == len(tokens) and not self.logits_kept):
            return 0
        return position if self.held[:position] == list(tokens[:position]) else 0

    @staticmethod
    def _deepest(path: Sequence[Node], n: int) -> Node | None:
        for node in reversed(path):
            if node.restorable and (node.end < n or node.logits):
                return node
        return None

    def go(self, node: Node) -> bool:
        """Goes to the end of a node; False when its file turned out to be damaged."""
        self.park()
        path = node.path()
        tokens = node.all_tokens()
        common = common_length(self.held, tokens)
        if not self._loaded(path, common):
            return False
        self._rescue(common)
        self._forget(common)
        for each in path:
            if each.end > common:
                first = max(each.start, common)
                assert each.entries is not None
                skip = (first - each.start) * self._session.token_bytes
                self._session.import_entries(first, memoryview(each.entries)[skip:])
        self.held = tokens
        assert node.snapshot is not None
        self._session.restore(node.snapshot)
        self.logits_kept = node.logits
        self.tree.touch(node)
        self._shrink(node)
        return True

    def _loaded(self, path: Sequence[Node], common: int) -> bool:
        """Reads from files what the session lacks beyond `common` and the snapshot of the last."""
        for node in path:
            snapshot = node is path[-1] and node.snapshot is None
            entries = node.end > common and node.entries is None
            if not (snapshot or entries):
                continue
            if self.disk is None or not self.disk.read(node, entries=entries, snapshot=snapshot):
                self.tree.remove(node)
                return False
        return True

    def reset(self) -> None:
        """Forgets every token; what the tree needs of them is copied first."""
        self.park()
        self._rescue(0)
        self._forget(0)
        self._session.reset()
        self.logits_kept = False

    def forget(self) -> None:
        """Empties the tree, except for what sessions stand on; files stay."""
        for node in list(self.tree.nodes()):
            if not node.pinned and not node.file:
                self.tree.remove(node)
        self._rescue(0)
        self._forget(0)
        self._session.reset()

    # ---- going on --------------------------------------------------------------------------------

    def advancing(self) -> None:
        """To be called before the session evaluates: what it will overwrite is copied."""
        position = self._session.position
        self._rescue(position)
        self._forget(position)
        self.logits_kept = False

    def advanced(self, tokens: Sequence[int]) -> None:
        """To be called when it has evaluated, or a beginning of, these tokens."""
        self.held.extend(tokens[: self._session.position - len(self.held)])

    def _forget(self, position: int) -> None:
        del self.held[position:]

    def _rescue(self, position: int) -> None:
        """Copies the entries behind `position` that only the session holds for the tree."""
        if position >= len(self.held):
            return
        for node in self.tree.walk(self.held)[0]:
            in_file = node.file is not None and not node.pinned
            if node.end <= position or node.entries is not None or in_file:
                continue
            try:
                node.entries = self._session.export_entries(node.start, len(node.tokens))
            except MemoryError:
                self.tree.remove(node)
                return
        self._shrink()

    # ---- keeping ---------------------------------------------------------------------------------

    def keep(self, *, pinned: bool = False) -> Node | None:
        """Takes a snapshot here, so that the session can come back; None when it is not worth it.

        `pinned`: in any case, and for good until its pins are gone.
        """
        tokens = self.tokens
        if not tokens or (not pinned and self.tree.limit <= 0):
            return None
        node = self.tree.add(tokens)
        if node.snapshot is None or (self.logits_kept and not node.logits):
            try:
                node.snapshot = self._session.snapshot()
            except MemoryError:
                if pinned:
                    raise
                return None
            node.logits = self.logits_kept
        node.pins += pinned
        self.tree.touch(node)
        self._shrink(node)
        return node

    def park(self) -> None:
        """Keeps the present when a later prompt may begin with it."""
        tokens = self.tokens
        path = self.tree.walk(tokens)[0]
        saved = len(tokens) - max((node.end for node in path if node.restorable), default=0)
        if saved >= MIN_GAP and self._markers.keeps_answer(tokens):
            self.keep()

    def unpin(self, node: Node) -> None:
        """Gives back a pin."""
        node.pins -= 1
        self._shrink()

    def _shrink(self, keep: Node | None = None) -> None:
        """Drops the least useful until the limit holds."""
        excess = self.tree.n_bytes - self.tree.limit
        while excess > 0:
            node = self.tree.least_useful(keep)
            if node is None:
                return
            before = node.n_bytes
            if self.disk is not None:
                self.save(node)
            self.tree.drop(node)
            excess -= before - node.n_bytes

    # ---- files -----------------------------------------------------------------------------------

    def save(self, node: Node) -> None:
        """Writes a node, and those before it, to the disk cache."""
        if self.disk is None:
            return
        with contextlib.suppress(OSError, MemoryError, Qwen35Error):
            for each in node.path():
                if each.file is None or (each.snapshot is not None and not each.stored):
                    entries = each.entries
                    if entries is None and each.file is None:
                        entries = self._session.export_entries(each.start, len(each.tokens))
                    self.disk.write(each, entries)

    def save_all(self) -> None:
        """Writes every state that took long to compute to the disk cache."""
        if self.disk is None:
            return
        for node in list(self.tree.nodes()):
            if node.snapshot is not None and not node.stored and self.disk.wants(node):
                self.save(node)
        self.disk.trim(self.tree)
