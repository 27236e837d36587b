"""The likelihood of each of a few labels behind the tokens that a slot holds.

Labels share a tree of their tokens. A node's children are rated with the logits behind the node;
those behind the prompt are there already, so that labels of one token cost nothing more. For the
others the slot goes back to the prompt and evaluates the tokens of a label in one batch. The most
likely nodes come first: what cannot reach a ten-thousandth of the best label is left at its upper
bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._handles import Outputs
from .score import log_mass

if TYPE_CHECKING:
    from .._handles import Floats
    from .._slot import Slot

_NEGLIGIBLE = math.log(1e-4)


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

    def leaves(self) -> Iterator[_Node]:
        """The whole labels below, or this one."""
        if not self.children:
            yield self
        for child in self.children.values():
            yield from child.leaves()


def label_logprobs(
    slot: Slot, labels: Sequence[Sequence[int]], end: int, n_vocab: int, *, every: bool = False
) -> list[float]:
    """The natural logarithm of each label's probability as the beginning of an answer.

    A label that another one begins with counts together with the end of the answer.

    Args:
        slot: held, with the logits behind the prompt kept; it comes back to there.
        labels: token ids, all different, none empty.
        end: the token that ends an answer.
        n_vocab: rows of the logits.
        every: rate all labels in full, however unlikely they are.
    """
    root = _Node((), 0.0)
    leaves = [_insert(root, path) for path in _told_apart(labels, end)]
    root.rate(slot.logits(n_vocab))
    waiting = [node for node in root.children.values() if node.children]
    if waiting:
        mark = slot.mark()
    while waiting:
        node = max(waiting, key=lambda each: each.logprob)
        best = max((leaf.logprob for leaf in leaves if leaf.logprob <= 0), default=-math.inf)
        if not every and node.logprob < best + _NEGLIGIBLE:
            break
        waiting.remove(node)
        waiting += _explore(slot, node, n_vocab)
        slot.return_to(mark)
    for node in waiting:
        for leaf in node.leaves():
            leaf.logprob = node.logprob
    return [leaf.logprob for leaf in leaves]


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


def _explore(slot: Slot, node: _Node, n_vocab: int) -> list[_Node]:
    """Rates what is below a node up to where labels part; returns the nodes to go on from."""
    chain = [node]
    while len(chain[-1].children) == 1:
        (child,) = chain[-1].children.values()
        if not child.children:
            break
        chain.append(child)
    tokens = list(chain[-1].path)
    first = len(node.path) - 1  # the token behind which the first row is wanted
    rows = np.empty((len(chain), n_vocab), np.float32)
    want = bytes(first) + b"\1" * len(chain)
    slot.eval(tokens, Outputs(want=want, logits=rows))
    for each, logits in zip(chain, rows, strict=True):
        each.rate(logits)
    return [child for child in chain[-1].children.values() if child.children]
