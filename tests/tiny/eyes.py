"""The vision tower in training: batches of equal grids, and its first lessons without words.

A tower that starts from noise gives the text model nothing to learn from. So it is first trained
alone, densely: every merged token says which thing covers it, that thing's colour and corners, and
which letters have their centre in it.

    python tests/tiny/eyes.py --minutes 10 --out build/tiny/eyes.pt
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny import draw

Grid = tuple[int, int]  # patches: rows, columns


Record = TypeVar("Record")


def changed(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """A dataclass with its tensors moved or pinned."""
    found = {f.name: getattr(record, f.name) for f in fields(record)}  # type: ignore[arg-type]
    tensors = {name: change(value) for name, value in found.items() if isinstance(value, Tensor)}
    return replace(record, **tensors)  # type: ignore[type-var]


@dataclass
class Lesson:
    """Pictures of one grid: patches [images, patches, 1536] (bytes), answers [tokens, asked]."""

    grid: Grid
    patches: Tensor
    answers: Tensor

    def tensors(self, change: Callable[[Tensor], Tensor]) -> Lesson:
        """This lesson with its tensors moved or pinned."""
        return changed(self, change)

    def pin_memory(self) -> Lesson:
        """What torch's loader calls so that copies to a GPU need not be waited for."""
        return self.tensors(Tensor.pin_memory)


@lru_cache(maxsize=256)
def _order(grid: Grid, device: torch.device) -> Tensor:
    """Raster index of each patch in block-major order."""
    rows, cols = grid
    index = torch.arange(rows * cols, device=device).view(rows // 2, 2, cols // 2, 2)
    return index.permute(0, 2, 1, 3).reshape(-1)


def positions(tower: Any, grid: Grid) -> Tensor:
    """Learned positions [rows * columns, hidden], resampled bilinearly with aligned corners."""
    side = tower.num_grid_per_side
    table = tower.pos_embed.weight.view(side, side, -1).permute(2, 0, 1)[None]
    at = F.interpolate(table, size=grid, mode="bilinear", align_corners=True)
    return at[0].flatten(1).T[_order(grid, at.device)]


@lru_cache(maxsize=256)
def rotary(dim: int, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cos and sin [rows * columns, dim] of the patch coordinates."""
    freq = 10000.0 ** (-torch.arange(0, dim // 2, 2, device=device).float() / (dim // 2))
    order = _order(grid, device)
    row, col = order // grid[1], order % grid[1]
    angle = torch.cat([row[:, None] * freq, col[:, None] * freq], -1)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def normalised(patches: Tensor) -> Tensor:
    """Bytes of pixels as the tower takes them, from -1 to 1."""
    return patches.float() / 127.5 - 1


def states(tower: Any, patches: Tensor, grid: Grid) -> Tensor:
    """What the merger gets, [images, tokens, 4 * hidden], of bytes [images, patches, 1536]."""
    count, length, _ = patches.shape
    embed = tower.patch_embed.proj
    x = F.linear(normalised(patches), embed.weight.flatten(1), embed.bias)
    x = x + positions(tower, grid)
    attn = tower.blocks[0].attn
    heads, dim = attn.num_heads, attn.head_dim
    cos, sin = rotary(dim, grid, patches.device)

    def turn(t: Tensor) -> Tensor:
        half = torch.cat([-t[..., dim // 2 :], t[..., : dim // 2]], -1)
        return t * cos + half * sin

    for block in tower.blocks:
        h = block.norm1(x)
        qkv = block.attn.qkv(h).view(count, length, 3, heads, dim).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(turn(qkv[0]), turn(qkv[1]), qkv[2])
        x = x + block.attn.proj(o.transpose(1, 2).reshape(count, length, -1))
        h = block.norm2(x)
        x = x + block.mlp.linear_fc2(F.gelu(block.mlp.linear_fc1(h), approximate="tanh"))
    merged: Tensor = tower.merger.norm(x).view(count, length // 4, -1)
    return merged


def merge(tower: Any, x: Tensor) -> Tensor:
    """The merger behind its norm."""
    out: Tensor = tower.merger.linear_fc2(F.gelu(tower.merger.linear_fc1(x)))
    return out


def see(tower: Any, patches: Tensor, grid: Grid) -> Tensor:
    """Merged vectors [images, tokens, out] of bytes [images, rows * columns, 1536]."""
    return merge(tower, states(tower, patches, grid))


def insert(tower: Any, x: Tensor, batch: Any) -> Tensor:
    """Token embeddings [B, T, h] with the merged vectors of a batch's pictures in their places."""
    merged, at = [], 0
    for grid, count in batch.grids:
        size = count * grid[0] * grid[1]
        patches = batch.patches[at : at + size].view(count, -1, batch.patches.shape[1])
        merged.append(see(tower, patches, grid).flatten(0, 1))
        at += size
    shown = torch.cat(merged)[batch.shown]
    return x.flatten(0, 1).index_copy(0, batch.places, shown.to(x.dtype)).view_as(x)


# ---- first lessons -------------------------------------------------------------------------------

KINDS = [
    "", *draw.SHAPES, "plate", "bar", "slice", "text", "title", "menu", "button", "field",
    "check box",
]  # fmt: skip
SLOTS = 6  # letters told apart in one cell
ALPHABET = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@."
CORNERS = 6  # x1, y1, x2, y2 and the centre, each as two digits of the 0..1000 grid
_CELL = 32


@lru_cache
def _labels() -> list[str]:
    from tiny import pictures, screens, world

    words = [*screens.TITLES, *screens.MENUS, *screens.BUTTONS, *screens.FIELDS, *screens.CHECKS]
    more = [*world.NAMES, *world.THINGS, *world.FOODS, *world.CITIES, *world.ANIMALS]
    more += [label for pool in pictures.BAR_LABELS for label in pool]
    return ["", *dict.fromkeys([*draw.PAINTS, *words, *more])]


@lru_cache
def _label_numbers() -> dict[str, int]:
    return {label: number for number, label in enumerate(_labels())}


class Lessons(nn.Module):
    """Linear questions to every merged token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(KINDS), len(_labels()), *[len(ALPHABET)] * SLOTS, *[10] * 2 * CORNERS]
        self.heads = nn.Linear(width, sum(self.sizes))

    @torch.no_grad()
    def speak(self, table: Tensor, tokenizer: Any, loudness: float = 1.0) -> None:
        """Answers become the directions of the text model's words, at a length of `loudness`."""
        self.heads.weight.copy_(loudness * _words(table, tokenizer))
        self.heads.bias.zero_()

    def forward(self, merged: Tensor, answers: Tensor) -> Tensor:
        """Sum of the questions' mean losses; answers: [tokens, questions], -1 where none is due."""
        losses = []
        for logits, answer in zip(self.heads(merged).split(self.sizes, -1), answers.T, strict=True):
            weight = 3.0 if len(losses) == 1 else 1.0  # the label: what is asked for most
            losses.append(weight * F.cross_entropy(logits, answer, ignore_index=-1))
        return torch.stack(losses).nansum()

    @torch.no_grad()
    def right(self, merged: Tensor, answers: Tensor) -> Tensor:
        """Share of right answers to each question."""
        shares = []
        for logits, answer in zip(self.heads(merged).split(self.sizes, -1), answers.T, strict=True):
            asked = answer >= int(1 < len(shares) < 2 + SLOTS)  # an empty letter slot is no feat
            shares.append((logits.argmax(-1)[asked] == answer[asked]).float().mean())
        return torch.stack(shares)

    @staticmethod
    def summary(right: Tensor) -> str:
        """What `right` found, letters and first and second digits of corners together."""
        slots, digits = right[2 : 2 + SLOTS].nanmean(), right[2 + SLOTS :].view(-1, 2).nanmean(0)
        return (
            f"kind {right[0]:.3f} label {right[1]:.3f} letters {slots:.3f} "
            f"digits {digits[0]:.3f} {digits[1]:.3f}"
        )


def answers(scene: draw.Scene, letters: list[tuple[str, float, float]]) -> Any:
    """What each cell of a scene should say: [cells, questions], raster order."""
    height, width, _ = scene.image.shape
    rows, cols, labels = height // _CELL, width // _CELL, _label_numbers()
    result = np.full((rows, cols, 2 + SLOTS + 2 * CORNERS), -1, np.int64)
    result[..., 0] = 0
    boxes = sorted(scene.boxes, key=lambda b: -(b.x2 - b.x1) * (b.y2 - b.y1))
    for box in boxes:  # small ones last, on top
        span = [box.x1 / _CELL, box.y1 / _CELL, box.x2 / _CELL, box.y2 / _CELL]
        c1, r1 = (min(int(v), n - 1) for v, n in zip(span[:2], (cols, rows), strict=True))
        c2, r2 = (min(int(v - 0.01), n - 1) for v, n in zip(span[2:], (cols, rows), strict=True))
        corners = draw.relative(box, width, height) + draw.relative_centre(box, width, height)
        digits = [d for v in corners for d in (min(v, 999) // 100, min(v, 999) // 10 % 10)]
        here = result[max(r1, 0) : r2 + 1, max(c1, 0) : c2 + 1]
        here[..., 0] = KINDS.index(box.kind)
        here[..., 1] = labels.get(box.label, -1)
        here[..., 2 + SLOTS :] = digits
    filled = np.zeros((rows, cols), np.int64)
    for letter, x, y in sorted(letters, key=lambda item: (item[2] // 16, item[1])):
        row, col = int(y) // _CELL, int(x) // _CELL
        inside = letter in ALPHABET and letter != " " and 0 <= row < rows and 0 <= col < cols
        if inside and filled[row, col] < SLOTS:
            result[row, col, 2 + filled[row, col]] = ALPHABET.index(letter)
            filled[row, col] += 1
    for row, col in np.argwhere((filled > 0) & (filled < SLOTS)):  # where the letters end
        result[row, col, 2 + filled[row, col]] = 0
    return result.reshape(rows * cols, -1)


def wall(rng: random.Random, test: bool) -> draw.Scene:
    """A picture full of short labels: most of a screen is empty, and reading takes many words."""
    from tiny import screens

    del test  # lessons only
    theme = rng.choice(list(screens.THEMES.values()))
    image, pen = draw.canvas(192, 192, theme.page)
    boxes = []
    labels = _labels()[len(draw.PAINTS) + 1 :]
    y = draw.GRID * rng.randrange(0, 2)
    while y <= 160:
        x = draw.GRID * rng.randrange(0, 2)
        while x < 160:
            size = rng.choices(list(draw.SIZES.values()), [4, 4, 2, 1])[0]
            if rng.random() < 0.75:
                label = rng.choice(labels)
            else:
                label = "".join(rng.choices(ALPHABET[1:63], k=rng.randint(1, 4)))
            width = draw.up(draw.text_width(label, size) + 2 * draw.INSET)
            if x + width > 192:
                break
            fill = rng.choice([theme.button, theme.field, theme.title, theme.page])
            framed = rng.random() < 0.6
            if framed:
                pen.rectangle((x, y, x + width - 1, y + 31), fill=fill, outline=theme.line)
            else:
                fill = theme.page
            draw.write(pen, x + draw.INSET, y + 16, label, size, draw.ink(fill), "lm")
            kind = "button" if framed else "text"
            boxes.append(draw.Box(x, y, x + width, y + 32, kind, label))
            x += width + draw.GRID * rng.randrange(0, 2)
        y += 32 + draw.GRID * rng.randrange(0, 2)
    return draw.Scene(draw.pixels(image), boxes)


def lesson(rng: random.Random, count: int) -> Lesson:
    """Questions about `count` scenes of one grid."""
    from tiny import clips, pictures, screens
    from tiny.chat_format import PATCH, patches

    sources = [pictures.scene, screens.scene, clips.frame_scene, wall]
    source = rng.choices(sources, [0.22, 0.28, 0.05, 0.45])[0]
    grid: Grid | None = None
    seen, due = [], []
    while len(seen) < count:
        with draw.lettering() as letters:
            scene = source(rng, False)
        height, width, _ = scene.image.shape
        if grid is None:
            grid = (height // PATCH, width // PATCH)
        if (height // PATCH, width // PATCH) == grid:
            seen.append(patches(scene.image, scene.image))
            due.append(answers(scene, letters))
    assert grid is not None
    return Lesson(grid, torch.from_numpy(np.stack(seen)), torch.from_numpy(np.concatenate(due)))


# ---- second lessons: the text model's words --------------------------------------------------


LOUDNESS = 80.0  # length of what the tower gives: that of what the first layers add


def _words(table: Tensor, tokenizer: Any) -> Tensor:
    """A direction for every answer of the lessons: of its word in the text model.

    Letters and digits of different slots have the same words, so each slot turns them its own way.
    """
    table = table.detach().cpu()
    mean = table.mean(0)

    def direction(text: str) -> Tensor:
        if not text:
            return torch.zeros_like(mean)
        return F.normalize((table[tokenizer.encode(text).ids] - mean).sum(0), dim=0)

    def all_of(texts: list[str]) -> Tensor:
        return torch.stack([direction(text) for text in texts])

    generator = torch.Generator().manual_seed(0)

    def turned(rows: Tensor) -> Tensor:
        width = rows.shape[1]
        return rows @ torch.linalg.qr(torch.randn(width, width, generator=generator))[0]

    spaced = [[f" {text}" if text else "" for text in texts] for texts in (KINDS, _labels())]
    letters, digits = all_of([c.strip() for c in ALPHABET]), all_of([str(d) for d in range(10)])
    slots = [turned(letters) for _ in range(SLOTS)] + [turned(digits) for _ in range(2 * CORNERS)]
    return torch.cat([*map(all_of, spaced), *slots])


def teach_words(tower: Any, table: Tensor, tokenizer: Any, scenes: int, minutes: float) -> None:
    """Trains the merger to say what it sees in the directions of the text model's words.

    So the text model can find and repeat a picture's tokens as it does with those of a text. The
    rest of the tower stays; it is run once over `scenes` pictures.
    """
    rng, device = random.Random(5), table.device
    lessons = Lessons(tower.config.out_hidden_size).to(device)
    lessons.speak(table, tokenizer)
    inputs, dues = [], []
    with torch.no_grad():
        for _ in range(scenes // 16):
            one = lesson(rng, 16).tensors(lambda t: t.to(device))
            some = torch.rand(len(one.answers), device=device) < 0.1
            kept = (one.answers[:, 0] > 0) | some
            inputs.append(states(tower, one.patches, one.grid).flatten(0, 1)[kept])
            dues.append(one.answers[kept])
    x, due = torch.cat(inputs), torch.cat(dues)
    layers = [tower.merger.linear_fc1, tower.merger.linear_fc2]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    begin, step = time.monotonic(), 0
    while (spent := time.monotonic() - begin) < 60 * minutes:
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 - spent / 60 / minutes)
        chosen = torch.randint(len(x), (1024,))
        merged = merge(tower, x[chosen])
        loss = lessons(merged, due[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % 200 == 0:
            shown = lessons.summary(lessons.right(merged, due[chosen]))
            print(f"words: step {step} loss {loss:.2f}  {shown}", flush=True)
    with torch.no_grad():
        out = merge(tower, x[:4096])
        centre = out.mean(0)
        factor = LOUDNESS / (out - centre).norm(dim=1).mean()
        tower.merger.linear_fc2.bias.sub_(centre)
        for parameter in tower.merger.linear_fc2.parameters():
            parameter.mul_(factor)


def main() -> None:
    """Command line; see the file's head."""
    from tiny import model, train

    parser = argparse.ArgumentParser(description="Trains the vision tower alone.")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--start", type=Path, help="a tower written by an earlier run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(args.seed)
    tower = model.TinyModel().visual
    lessons = Lessons(tower.config.out_hidden_size)
    if args.start:
        tower.load_state_dict(torch.load(args.start, weights_only=True))
    both = nn.ModuleDict({"tower": tower, "lessons": lessons})
    opts = train.optimisers(both, args.rate)
    rates = [[group["lr"] for group in opt.param_groups] for opt in opts]
    begin, step, last = time.monotonic(), 0, -1e9
    sums: list[Tensor] = []
    while (spent := time.monotonic() - begin) < args.minutes * 60:
        scale = min(1.0, (step + 1) / 50, (1 - spent / args.minutes / 60) / 0.4)
        for opt, groups in zip(opts, rates, strict=True):
            for group, rate in zip(opt.param_groups, groups, strict=True):
                group["lr"] = rate * scale
        one = lesson(rng, 24)
        merged = see(tower, one.patches, one.grid).flatten(0, 1)
        loss = lessons(merged, one.answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 2.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        sums.append(lessons.right(merged, one.answers))
        step += 1
        if step % 50 == 0:
            shown = lessons.summary(torch.stack(sums).nanmean(0))
            sums.clear()
            head = f"step {step} min {spent / 60:.1f} lr {scale:.2f} loss {loss:.2f}"
            print(f"{head}  {shown}", flush=True)
        if spent - last > 60:
            last = spent
            torch.save(tower.state_dict(), args.out)
    torch.save(tower.state_dict(), args.out)


if __name__ == "__main__":
    main()
