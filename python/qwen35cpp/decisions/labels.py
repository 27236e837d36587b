"""The likelihood of each of a few labels behind the tokens that a slot holds.

Labels share a tree of their tokens. A node's children are rated with the logits behind the node;
those behind the prompt are there already, so that labels of one token cost nothing more. The others
are continuations of the prompt, which are evaluated in the pass that reads its end, as long as they
have few tokens together. Else the likely nodes come first, some at a time: what cannot reach a
ten-thousandth of the best label is left at its upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._handles import MAX_BRANCH, Branches, Outputs
from .score import log_mass

if TYPE_CHECKING:
    from .._handles import Floats
    from .._slot import Slot

_NEGLIGIBLE = math.log(1e-4)
_MOST = 64  # tokens at a time: their logits take 64 MB with the published vocabulary


@dataclass
class _Node:
    """A beginning of labels, or a whole one."""

    path: tuple[int, ...]
    logprob: float = math.nan  # of the path, once it is rated
    children: dict[int, _Node] = field(default_factory=dict)

    def rate(self, logits: Floats) -> None:
        """Rates the children with the logits behind this node."""
        base = self.logprob - log_mass(logits)
        for token, child in self.children.items():
            child.logprob = base + float(logits[token])

    @property
    def is_rated(self) -> bool:
        """Whether the children are."""
        return not math.isnan(next(iter(self.children.values())).logprob)

    def begun(self) -> list[_Node]:
        """The children that labels go on from."""
        return [child for child in self.children.values() if child.children]

    def leaves(self) -> Iterator[_Node]:
        """The whole labels below, or this one."""
        if not self.children:
            yield self
        for child in self.children.values():
            yield from child.leaves()


class LabelTree:
    """The labels of a field, to be rated behind one prompt."""

    def __init__(self, labels: Sequence[Sequence[int]], end: int, n_vocab: int) -> None:
        """A label that another one begins with counts together with the end of the answer.

        Args:
            labels: token ids, all different, none empty.
            end: the token that ends an answer.
            n_vocab: rows of the logits.
        """
        self._root = _Node((), 0.0)
        self._leaves = [_insert(self._root, path) for path in _told_apart(labels, end)]
        paths = _paths(self._root)
        if sum(map(len, paths)) > _MOST:
            paths = []
        self._ahead: list[_Node] = []  # the nodes that have a row then
        seen = set()
        want = bytearray()
        for path in paths:
            for node in path:
                want.append(node.path not in seen)
                if want[-1]:
                    seen.add(node.path)
                    self._ahead.append(node)
        logits = np.empty((1 + len(self._ahead), n_vocab), np.float32)
        self.branches = Branches([path[-1].path for path in paths], bytes(want), logits)

    def rate(self, slot: Slot, *, every: bool = False) -> list[float]:
        """The natural logarithm of each label's probability as the beginning of an answer.

        Args:
            slot: held behind the prompt, with which `branches` were evaluated; it comes back there.
            every: rate all labels in full, however unlikely they are.
        """
        nodes = [self._root, *self._ahead]
        for node, logits in zip(nodes, self.branches.logits, strict=True):
            node.rate(logits)
        waiting = [node for parent in nodes for node in parent.begun() if not node.is_rated]
        n_vocab = self.branches.logits.shape[1]
        while waiting:
            best = max((x.logprob for x in self._leaves if x.logprob <= 0), default=-math.inf)
            waiting.sort(key=lambda node: node.logprob, reverse=True)
            if not every and waiting[0].logprob < best + _NEGLIGIBLE:
                break
            # What a step takes at once costs little more than its first token; the rest may turn
            # out negligible meanwhile.
            chains = _batch(waiting, _MOST if every else MAX_BRANCH)
            _explore(slot, chains, n_vocab)
            waiting = waiting[len(chains) :]
            waiting += [node for chain in chains for node in chain[-1].begun()]
        for node in waiting:
            for leaf in node.leaves():
                leaf.logprob = node.logprob
        return [leaf.logprob for leaf in self._leaves]


def _paths(root: _Node) -> list[list[_Node]]:
    """The nodes on the way to each from which no other one is begun, as far as a branch may go."""
    paths: list[list[_Node]] = []
    waiting = [[node] for node in root.begun()]
    while waiting:
        path = waiting.pop()
        further = path[-1].begun() if len(path) < MAX_BRANCH else []
        waiting += [[*path, node] for node in further]
        if not further:
            paths.append(path)
    return paths


def _told_apart(labels: Sequence[Sequence[int]], end: int) -> list[tuple[int, ...]]:
    """The labels, with the end behind those that others begin with."""
    paths = [tuple(label) for label in labels]
    begun = {path[:n] for path in paths for n in range(1, len(path))}
    return [(*path, end) if path in begun else path for path in paths]


def _insert(root: _Node, path: tuple[int, ...]) -> _Node:
    node = root
    for n, token in enumerate(path, 1):
        node = node.children.setdefault(token, _Node(path[:n]))
    return node


def _chain(node: _Node) -> list[_Node]:
    """A node and those below it up to where labels part."""
    chain = [node]
    while len(chain[-1].children) == 1:
        (child,) = chain[-1].children.values()
        if not child.children:
            break
        chain.append(child)
    return chain


def _batch(nodes: Sequence[_Node], most: int) -> list[list[_Node]]:
    """The chains of as many of the nodes, from the first on, as have `most` tokens together."""
    chains: list[list[_Node]] = []
    tokens = 0
    for node in nodes:
        chain = _chain(node)
        tokens += len(chain[-1].path)
        if chains and tokens > most:
            break
        chains.append(chain)
    return chains


def _explore(slot: Slot, chains: Sequence[list[_Node]], n_vocab: int) -> None:
    """Rates what is below the nodes of the chains; the slot stays where it is."""
    short = [chain for chain in chains if len(chain[-1].path) <= MAX_BRANCH]
    if short:
        want = b"".join(map(_wanted, short))
        rows = np.empty((want.count(1), n_vocab), np.float32)
        slot.branch([chain[-1].path for chain in short], want, rows)
        for node, logits in zip((node for chain in short for node in chain), rows, strict=True):
            node.rate(logits)
    for chain in chains:
        if len(chain[-1].path) <= MAX_BRANCH:
            continue
        mark = slot.mark()
        rows = np.empty((len(chain), n_vocab), np.float32)
        slot.eval(chain[-1].path, Outputs(want=_wanted(chain), logits=rows))
        slot.return_to(mark)
        for node, logits in zip(chain, rows, strict=True):
            node.rate(logits)


def _wanted(chain: Sequence[_Node]) -> bytes:
    """Which tokens of the chain's path end at a node of it."""
    return bytes(len(chain[0].path) - 1) + b"\1" * len(chain)
