"""An endless, seeded stream of packed rows: documents of all skills in the wanted shares."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tiny import clips, draw, passages, pictures, screens, vocabulary
from tiny.chat_format import MERGE, PATCH, Encoded, Renderer
from tiny.draw import Box
from tiny.skills import SKILLS

# Row lengths; a batch holds ROW_TOKENS tokens, so 8, 2 and 1 rows.
LENGTHS = (512, 2048, 4096)
ROW_TOKENS = 4096
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
    """Random tokens that come again, or pairs of which the first asks for the second.

    Nothing but looking back helps here, so it is learnt sooner than from the skills, where only one
    answer in a long text needs it. Most documents use few of the tokens, digits among them, so
    that each is met often.
    """
    out = Encoded("drill")
    pool = _POOL[: int(16 * (len(_POOL) / 16) ** (rng.random() ** 2))]
    if rng.random() < 0.5:
        line = rng.choices(pool, k=int(8 * 12 ** rng.random()))
        again = rng.randint(1, 2)
        out.ids = line * (1 + again)
        out.trained = [False] * (len(line) + 1) + [True] * (again * len(line) - 1)
        return out
    pairs = min(len(pool), int(4 * 10 ** rng.random()))
    keys = rng.sample(pool, pairs)
    values = {key: rng.choice(pool) for key in keys}
    asked = rng.choices(keys, k=pairs)
    out.ids = [token for key in [*keys, *asked] for token in (key, values[key])]
    out.trained = [False] * (2 * pairs) + [False, True] * pairs
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
class Batch:
    """Rows [B, T] of ids, documents and skills; weights [B, T] of predicting each token.

    `patches` maps a grid (rows, columns) to patches [images, rows * columns, 1536]; `slots` maps it
    to the flat token positions [images * tokens] that its merged patches fill, -1 for none.
    """

    ids: Tensor
    documents: Tensor
    positions: Tensor
    weights: Tensor
    skills: Tensor
    trained: Tensor
    patches: dict[tuple[int, int], Tensor]
    slots: dict[tuple[int, int], Tensor]


@dataclass
class _Open:
    length: int
    rows: list[list[Encoded]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    def place(self, document: Encoded) -> bool:
        """Puts a document where it leaves the least room; False when it fits nowhere."""
        fits = [i for i, n in enumerate(self.used) if n + len(document) <= self.length]
        if fits:
            row = max(fits, key=lambda i: self.used[i])
        elif len(self.rows) < ROW_TOKENS // self.length:
            self.rows.append([])
            self.used.append(0)
            row = len(self.rows) - 1
        else:
            return False
        self.rows[row].append(document)
        self.used[row] += len(document)
        return True


class Stream:
    """Draws documents so that every skill keeps its share of the tokens.

    Passages have up to `longest` words, texts with a needle 3.5 times as many.
    """

    def __init__(
        self, renderer: Renderer, shares: dict[str, float], seed: int, longest: int = 700
    ) -> None:
        self._renderer, self._shares, self._longest = renderer, shares, longest
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
                words = self._words(60, 3.5 * self._longest)
                sample = passages.needle(self._rng, False, words, self._rng.random())
            elif name == "passage":
                sample = passages.make(self._rng, False, self._words(40, self._longest))
            else:
                sample = SKILLS[name].make(self._rng, False)
            document = self._renderer.sample(sample)
            if len(document) <= LENGTHS[-1]:
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
        open_rows = {length: _Open(length) for length in LENGTHS}
        while True:
            document = self.document()
            length = next(n for n in LENGTHS if len(document) <= n)
            if open_rows[length].place(document):
                continue
            yield collate(open_rows[length].rows, length)
            open_rows[length] = _Open(length)
            open_rows[length].place(document)


def collate(rows: list[list[Encoded]], length: int) -> Batch:
    """Packs documents into rows of `length` tokens."""
    count = ROW_TOKENS // length
    pad = vocabulary.SPECIAL_IDS["<|endoftext|>"]
    ids = np.full((count, length), pad)
    documents = np.full((count, length), PADDING)
    positions = np.zeros((3, count, length), np.int64)
    weights = np.zeros((count, length), np.float32)
    trained = np.zeros((count, length), bool)
    skills = np.zeros((count, length), np.int64)
    patches: dict[tuple[int, int], list[np.ndarray]] = {}
    slots: dict[tuple[int, int], list[np.ndarray]] = {}
    for r, row in enumerate(rows):
        at = 0
        for n, document in enumerate(row):
            here = slice(at, at + len(document))
            line = np.array(document.ids)
            ids[r, here], documents[r, here] = line, n
            positions[:, r, here] = document.positions()
            answered = np.array(document.trained)
            trained[r, here] = answered
            weights[r, here] = answered * (PLAIN_WEIGHT if document.plain else 1.0)
            weights[r, at] = 0  # nothing precedes the first token
            skills[r, here] = NAMES.index(document.skill)
            pads = np.flatnonzero(np.isin(line, IGNORED)) + r * length + at
            for grid, values in zip(document.grids, document.patches, strict=True):
                tokens = grid[0] * grid[1] // 4
                patches.setdefault(grid, []).append(values)
                places = pads[:tokens]
                if document.cells:
                    places = np.full(tokens, -1)
                    places[document.cells] = pads
                slots.setdefault(grid, []).append(places)
                pads = pads[tokens:]
            at += len(document)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(documents),
        torch.from_numpy(positions),
        torch.from_numpy(weights),
        torch.from_numpy(skills),
        torch.from_numpy(trained),
        {grid: torch.from_numpy(np.stack(v)) for grid, v in patches.items()},
        {grid: torch.from_numpy(np.concatenate(v)) for grid, v in slots.items()},
    )
