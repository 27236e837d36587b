"""An endless, seeded stream of packed rows: documents of all skills in the wanted shares."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tiny import clips, draw, eyes, passages, pictures, screens, vocabulary
from tiny.chat_format import MERGE, PATCH, Encoded, Renderer
from tiny.draw import Box
from tiny.skills import SKILLS

# A batch has rows of one of these lengths, as many as make up its number of tokens. Rows longer
# than PACKED are one document each: attention to long rows pays without a mask only.
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
PACKED = 2048
CELL = PATCH * MERGE  # pixels along a side of a token
PADDING = 9999  # document number of what no document fills
# Only answers and plain texts are trained. Plain texts count less, because they can be predicted
# only so far: their noise would drown what the answers teach.
PLAIN_WEIGHT = 0.5
IGNORED = (vocabulary.SPECIAL_IDS["<|image_pad|>"], vocabulary.SPECIAL_IDS["<|video_pad|>"])
NAMES = [*SKILLS, "drill", "look"]
_DIGITS = list(range(15, 25))  # "0" is the 16th byte of the alphabet
_POOL = [*_DIGITS, *random.Random(0).sample(range(256, vocabulary.NORMAL), vocabulary.NORMAL - 256)]


def drill(rng: random.Random) -> Encoded:
    """Random tokens that come again, or keys with values of which the second half asks.

    Nothing but looking back helps here, so it is learnt sooner than from the skills, where only one
    answer in a long text needs it. Most documents use few of the tokens, digits among them, so
    that each is met often. Up to 30 keys a linear layer can keep; hundreds of them only attention
    finds, and it stays a plain mean as long as nothing asks for more than linear layers keep.
    """
    out = Encoded("drill")
    pool = _POOL[: int(16 * (len(_POOL) / 16) ** (rng.random() ** 2))]
    kind = rng.random()
    if kind < 0.3:
        line = rng.choices(pool, k=int(8 * 60 ** rng.random()))
        again = rng.randint(1, 2)
        out.ids = line * (1 + again)
        out.trained = [False] * (len(line) + 1) + [True] * (again * len(line) - 1)
        out.sources = {i: i - len(line) for i, trained in enumerate(out.trained) if trained}
        return out
    width = rng.choice([1, 1, 2, 4])
    number = int(4 * (PACKED / 8 / (2 + width)) ** rng.random())
    if kind < 0.65:
        keys = [(key,) for key in rng.sample(pool, min(len(pool), number))]
    else:  # neither half of a key is enough
        side = max(3, int(1.5 * number**0.5))
        some = rng.sample(_POOL, 2 * side)
        both = [(one, two) for one in some[:side] for two in some[side:]]
        keys = rng.sample(both, min(len(both), number))
        if rng.random() < 0.5:
            pool = _DIGITS
    values = {key: rng.choices(pool, k=width) for key in keys}
    asked = rng.choices(keys, k=len(keys))
    out.ids = [token for key in [*keys, *asked] for token in (*key, *values[key])]
    head, each = len(keys[0]), len(keys[0]) + width
    out.trained = [False] * (each * len(keys)) + (head * [False] + width * [True]) * len(keys)
    stands = {key: each * i for i, key in enumerate(keys)}
    for turn, key in enumerate(asked):
        here = each * (len(keys) + turn)
        out.sources |= {here + i: stands[key] + i for i in range(head, each)}
    return out


def look(rng: random.Random, renderer: Renderer) -> Encoded:
    """Single tokens of a picture, each followed by what is there.

    To answer about a picture takes two things, to find the token and to say what it shows. This is
    the second alone, and nearly every token trains it.
    """
    source = rng.choice([pictures.scene, pictures.scene, screens.scene, clips.frame_scene])
    scene = source(rng, False)
    height, width, _ = scene.image.shape
    rows, columns = height // CELL, width // CELL
    covered: dict[Box | None, list[int]] = {}
    for cell in range(rows * columns):
        x, y = (cell % columns + 0.5) * CELL, (cell // columns + 0.5) * CELL
        over = [b for b in scene.boxes if b.x1 <= x < b.x2 and b.y1 <= y < b.y2]
        box = min(over, key=lambda b: (b.x2 - b.x1) * (b.y2 - b.y1), default=None)
        covered.setdefault(box, []).append(cell)
    lines = []  # one for each thing: a second could copy the first
    for box, cells in covered.items():
        told = "nothing"
        if box:
            centre = draw.relative_centre(box, width, height)
            told = f"{box.label} {box.kind}: {centre}, {draw.relative(box, width, height)}"
        lines.append((rng.choice(cells), told))
    rng.shuffle(lines)
    return renderer.cells("look", scene.image, lines)


@dataclass
class Targets:
    """Tokens to predict: from which places of the flattened rows, which ids, how much they count,
    of which skill (a place in NAMES) they are.
    """

    places: Tensor
    ids: Tensor
    weights: Tensor
    skills: Tensor


@dataclass
class Batch:
    """Rows [B, T] of ids and documents, positions [3, B, T], and targets one and two tokens ahead.

    The pictures lie behind each other in `patches` [patches, 1536] (bytes), ordered by `grids`:
    pairs of a grid (rows, columns) and its number of pictures. The merged rows `shown` of the tower
    fill the flat `places`. The flat tokens `seeking` precede tokens that repeat, show or count the
    flat tokens `sought` of their document; `now` show the places that `before` showed a moment ago.
    """

    ids: Tensor
    documents: Tensor
    positions: Tensor
    targets: list[Targets]
    grids: list[tuple[tuple[int, int], int]]
    patches: Tensor
    shown: Tensor
    places: Tensor
    seeking: Tensor
    sought: Tensor
    now: Tensor
    before: Tensor
    alone: bool  # rows are one document each
    tokens: int  # without padding

    def tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """This batch with its tensors moved or pinned."""
        targets = [eyes.changed(each, change) for each in self.targets]
        return replace(eyes.changed(self, change), targets=targets)

    def pin_memory(self) -> Batch:
        """What torch's loader calls so that copies to a GPU need not be waited for."""
        return self.tensors(Tensor.pin_memory)


@dataclass
class _Open:
    length: int
    most: int  # rows
    rows: list[list[Encoded]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    def place(self, document: Encoded) -> bool:
        """Puts a document where it leaves the least room; False when it fits nowhere."""
        fits = [i for i, n in enumerate(self.used) if n + len(document) <= self.length]
        if fits and self.length <= PACKED:
            row = max(fits, key=lambda i: self.used[i])
        elif len(self.rows) < self.most:
            self.rows.append([])
            self.used.append(0)
            row = len(self.rows) - 1
        else:
            return False
        self.rows[row].append(document)
        self.used[row] += len(document)
        return True


class Stream:
    """Draws documents so that every skill keeps its share of the tokens, `size` tokens a batch.

    Passages have up to `longest` words, texts with a needle up to `farthest`.
    """

    def __init__(
        self,
        renderer: Renderer,
        shares: dict[str, float],
        seed: int,
        *,
        size: int = 4096,
        longest: int = 700,
        farthest: int = 2500,
    ) -> None:
        self._renderer, self._shares = renderer, shares
        self._size, self._longest, self._farthest = size, longest, farthest
        self._lengths = [n for n in LENGTHS if n <= size]
        self._rng = random.Random(seed)
        self._spent = dict.fromkeys(shares, 0.0)

    def document(self) -> Encoded:
        """The next document: of the skill that lags most behind its share."""
        name = min(self._shares, key=lambda n: self._spent[n] / self._shares[n])
        while True:
            if name == "drill":
                return self._spend(name, drill(self._rng))
            if name == "look":
                return self._spend(name, look(self._rng, self._renderer))
            if name == "needle":
                words = self._words(60, self._farthest)
                sample = passages.needle(self._rng, False, words, self._rng.random())
            elif name == "passage":
                sample = passages.make(self._rng, False, self._words(40, self._longest))
            else:
                sample = SKILLS[name].make(self._rng, False)
            document = self._renderer.sample(sample)
            if len(document) <= self._lengths[-1]:
                break
        return self._spend(name, document)

    def _spend(self, name: str, document: Encoded) -> Encoded:
        cost = sum(grid[0] * grid[1] for grid in document.grids) / 4  # the tower's share
        self._spent[name] += len(document) + cost
        document.skill = name
        return document

    def _words(self, low: float, high: float) -> int:
        """A length, every order of magnitude as often as any other."""
        return int(low * (high / low) ** self._rng.random())

    def __iter__(self) -> Iterator[Batch]:
        rows = {length: _Open(length, self._size // length) for length in self._lengths}
        while True:
            document = self.document()
            length = next(n for n in self._lengths if len(document) <= n)
            if rows[length].place(document):
                continue
            yield collate(rows[length].rows, length, self._size // length)
            rows[length] = _Open(length, self._size // length)
            rows[length].place(document)


class Batches(IterableDataset[tuple[Batch, eyes.Lesson | None]]):
    """Batches for torch's loader, each process with a stream of its own, and with each a lesson of
    `scenes` pictures for the tower. `make` gives the stream of a seed.
    """

    def __init__(self, make: Callable[[int], Stream], seed: int, scenes: int = 0) -> None:
        self._make, self._seed, self._scenes = make, seed, scenes

    def __iter__(self) -> Iterator[tuple[Batch, eyes.Lesson | None]]:
        worker = get_worker_info()
        seed = self._seed + 1_000_003 * (worker.id if worker else 0)
        rng = random.Random(seed)
        for batch in self._make(seed):
            yield batch, eyes.lesson(rng, self._scenes) if self._scenes else None


def collate(rows: list[list[Encoded]], length: int, count: int | None = None) -> Batch:
    """Packs documents into `count` rows of `length` tokens."""
    count = count or len(rows)
    pad = vocabulary.SPECIAL_IDS["<|endoftext|>"]
    ids = np.full((count, length), pad)
    documents = np.full((count, length), PADDING)
    positions = np.zeros((3, count, length), np.int64)
    weights = np.zeros((count, length), np.float32)
    skills = np.zeros((count, length), np.int64)
    sources: list[tuple[int, int]] = []
    moments: list[tuple[int, int]] = []
    seen: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for r, row in enumerate(rows):
        at = 0
        for n, document in enumerate(row):
            here = slice(at, at + len(document))
            line = np.array(document.ids)
            ids[r, here], documents[r, here] = line, n
            positions[:, r, here] = document.positions()
            weights[r, here] = np.array(document.trained) * (
                PLAIN_WEIGHT if document.plain else 1.0
            )
            weights[r, at] = 0  # nothing precedes the first token
            skills[r, here] = NAMES.index(document.skill)
            start = r * length + at
            sources += [
                (start + token - 1, start + source)
                for token, source in document.sources.items()
                # What goes on as its source does is easily found.
                if token % 4 == 0 or document.sources.get(token - 1) != source - 1
            ]
            sources += [
                (start + token - 1, start + thing)
                for token, things in document.counted.items()
                for thing in things
            ]
            moments += [(start + now, start + before) for now, before in document.before.items()]
            pads = np.flatnonzero(np.isin(line, IGNORED)) + start
            for grid, values in zip(document.grids, document.patches, strict=True):
                tokens = grid[0] * grid[1] // 4
                places = pads[:tokens]
                if document.cells:
                    places = np.full(tokens, -1)
                    places[document.cells] = pads
                seen.setdefault(grid, []).append((values, places))
                pads = pads[tokens:]
            at += len(document)
    pictures = [picture for found in seen.values() for picture in found]
    slots = np.concatenate([places for _, places in pictures] or [np.zeros(0, np.int64)])
    shown = np.flatnonzero(slots >= 0)
    patches = [values for values, _ in pictures] or [np.zeros((0, 3 * 2 * PATCH**2), np.uint8)]
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(documents),
        torch.from_numpy(positions),
        [_targets(ahead, ids, documents, weights, skills) for ahead in (1, 2)],
        [(grid, len(found)) for grid, found in seen.items()],
        torch.from_numpy(np.concatenate(patches)),
        torch.from_numpy(shown),
        torch.from_numpy(slots[shown]),
        *torch.tensor(sources, dtype=torch.int64).view(-1, 2).unbind(1),
        *torch.tensor(moments, dtype=torch.int64).view(-1, 2).unbind(1),
        alone=all(len(row) == 1 for row in rows),
        tokens=int((documents != PADDING).sum()),
    )


def _targets(
    ahead: int, ids: np.ndarray, documents: np.ndarray, weights: np.ndarray, skills: np.ndarray
) -> Targets:
    """The tokens that count and are `ahead` of a token of the same document."""
    counted = weights[:, ahead:] * (documents[:, :-ahead] == documents[:, ahead:])
    row, column = np.nonzero(counted)
    after = (row, column + ahead)
    found = (row * ids.shape[1] + column, ids[after], weights[after], skills[after])
    return Targets(*map(torch.from_numpy, found))
