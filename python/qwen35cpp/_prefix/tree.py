"""A radix tree over token ids: edges hold cache entries, nodes may hold a snapshot.

A node without entries of its own lies in the caches of a session, its holder, or in a file; see
timeline.py. One tree serves all sessions: everything happens under its lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from .._handles import Buffer
from ..errors import NotEnoughMemory


class Holder(Protocol):
    """Who has the entries of a node in its caches."""

    def copy_entries(self, first: int, n: int) -> Buffer:
        """The entries of n tokens from `first` on."""


class Node:
    """The tokens from the parent's end to `end`, and what was kept of them."""

    __slots__ = (
        "children", "clock", "drawn", "end", "entries", "file", "holder", "logits", "parent",
        "pins", "skip", "snapshot", "stored", "tokens",
    )  # fmt: skip

    def __init__(self, parent: Node | None, tokens: list[int]) -> None:
        self.parent = parent
        self.tokens = tokens
        self.end: int = len(tokens) + (parent.end if parent is not None else 0)
        self.children: dict[int, Node] = {}
        self.entries: Buffer | None = None  # [len(tokens), bytes of a token]
        self.holder: Holder | None = None
        self.snapshot: Buffer | None = None
        self.drawn = False  # the state stands behind tokens that were not read as a prompt
        self.logits = False  # the snapshot has them
        self.file: Path | None = None  # with the entries too, behind those of `skip` tokens
        self.skip = 0
        self.stored = False  # the file has the snapshot as well
        self.pins = 0  # sessions that stand here
        self.clock = 0.0

    @property
    def start(self) -> int:
        """Where its tokens begin."""
        return self.end - len(self.tokens)

    @property
    def root(self) -> Node:
        """The beginning of its tree."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    @property
    def restorable(self) -> bool:
        """Whether a session can go on from its end."""
        return self.snapshot is not None or self.stored

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        return len(self.entries or b"") + len(self.snapshot or b"")

    @property
    def pinned(self) -> bool:
        """Whether a session stands here or behind."""
        waiting = [self]  # no recursion: a long conversation is a long chain
        while waiting:
            node = waiting.pop()
            if node.pins > 0:
                return True
            waiting += node.children.values()
        return False

    def path(self) -> list[Node]:
        """The nodes from below the root to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def all_tokens(self) -> list[int]:
        """Every token from the root on."""
        return [token for node in self.path() for token in node.tokens]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two lists have in common at their beginning."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] is common, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Tree:
    """All that is kept, within a limit of bytes.

    What sessions hold is counted but never dropped; `bounded`: `check_pins` keeps that within the
    limit as well.
    """

    def __init__(self, limit: int, *, bounded: bool = False) -> None:
        self.limit, self.bounded = limit, bounded
        self.token_bytes = 0  # set with the first session
        self.lock = threading.RLock()
        self._clock = 0.0
        self.root = Node(None, [])

    def nodes(self) -> Iterator[Node]:
        """Every node but the root."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            if node is not self.root:
                yield node

    @property
    def n_bytes(self) -> int:
        """Bytes in memory. Summed when asked, so that an interrupt cannot leave it wrong."""
        return sum(node.n_bytes for node in self.nodes())

    def check_pins(self, more: int) -> None:
        """Refuses one more state of `more` bytes when what sessions hold leaves no room for it.

        Raises:
            NotEnoughMemory: the tree is bounded, and it would go beyond its limit.
        """
        with self.lock:
            held = self._held()
        if self.bounded and held + more > self.limit:
            raise NotEnoughMemory(
                f"the snapshots of sessions take {held / 1e6:.0f} MB, one more takes "
                f"{more / 1e6:.0f} MB, the memory limit leaves {self.limit / 1e6:.0f} MB for them",
                hint="let go of snapshots and sessions, or give prefix_cache_bytes a larger part",
            )

    def walk(self, tokens: Sequence[int]) -> tuple[list[Node], int]:
        """The nodes that lie wholly on `tokens`, and how many tokens the tree has in common."""
        node = self.root
        path: list[Node] = []
        while node.end < len(tokens):
            child = node.children.get(tokens[node.end])
            if child is None:
                break
            ahead = list(tokens[node.end : child.end])
            if ahead != child.tokens:
                return path, node.end + common_length(ahead, child.tokens)
            path.append(child)
            node = child
        return path, node.end

    def add(self, tokens: Sequence[int], holder: Holder | None) -> Node:
        """The node at the end of `tokens`, which is made when there is none, held by `holder`."""
        path, common = self.walk(tokens)
        node = path[-1] if path else self.root
        if common > node.end:
            node = self._split(node.children[tokens[node.end]], common)
        if node.end < len(tokens):
            child = Node(node, list(tokens[node.end :]))
            child.holder = holder
            node.children[child.tokens[0]] = child
            node = child
        return node

    def _split(self, lower: Node, at: int) -> Node:
        """Cuts the edge to `lower` in two and returns the new node at `at`."""
        parent = lower.parent
        assert parent is not None
        count = at - lower.start
        upper = Node(parent, lower.tokens[:count])
        upper.clock = lower.clock
        if lower.entries is not None:
            cut = count * self.token_bytes
            upper.entries, rest = lower.entries[:cut], lower.entries[cut:]
        else:
            rest = None
        upper.holder = lower.holder
        upper.file, upper.skip = lower.file, lower.skip
        lower.skip += count
        upper.children[lower.tokens[count]] = lower
        parent.children[upper.tokens[0]] = upper
        lower.parent, lower.tokens, lower.entries = upper, lower.tokens[count:], rest
        return upper

    def touch(self, node: Node) -> None:
        """Notes that a node was of use; the states on the way to it count as used as well."""
        for each in node.path():
            each.clock = self._clock

    def remove(self, node: Node) -> None:
        """Takes out a node with all behind it, and nodes before it that lead nowhere any more."""
        parent = node.parent
        while parent is not None:
            parent.children.pop(node.tokens[0], None)
            node.parent = None
            if parent is self.root or parent.children or parent.restorable or parent.pins:
                return
            node, parent = parent, parent.parent

    def least_useful(self, keep: Node | None = None) -> Node | None:
        """The node whose bytes save least work, unless it is pinned or `keep`.

        Work is counted in tokens that would be read again, and it counts less the longer nobody
        asked (greedy dual size: the clock of a node is the value of what was dropped when it was
        last used).
        """
        best, least = None, 0.0
        for node in self.nodes():
            if node.pins or node is keep or not node.n_bytes:
                continue
            if node.snapshot is None and node.children:
                continue  # its entries serve what lies behind
            value = node.clock + self._saved(node) / max(self._freed(node), 1)
            if best is None or value < least:
                best, least = node, value
        if best is not None:
            self._clock = max(self._clock, least)
        return best

    def _held(self) -> int:
        """Bytes that cannot be dropped: snapshots of sessions, and entries on the way to them."""
        total, seen = 0, {id(self.root)}
        for pinned in self.nodes():
            if not pinned.pins:
                continue
            total += len(pinned.snapshot or b"")
            node: Node | None = pinned
            while node is not None and id(node) not in seen:
                seen.add(id(node))
                total += len(node.entries or b"")
                node = node.parent
        return total

    @staticmethod
    def _freed(node: Node) -> int:
        return len(node.snapshot or b"") if node.children else node.n_bytes

    @staticmethod
    def _saved(node: Node) -> int:
        """Tokens between the node and the nearest state before it."""
        before = node.parent
        while before is not None and before.parent is not None and not before.restorable:
            before = before.parent
        return node.end - (before.end if before is not None else 0)

    def drop(self, node: Node) -> None:
        """Frees what least_useful() counted; a node that a file holds stays in the tree."""
        node.snapshot = None
        if node.children:
            return
        node.entries = node.holder = None
        if not node.stored:
            self.remove(node)
