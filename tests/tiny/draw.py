"""What the vision generators share: colours, shapes, text, scenes, and checks of short answers.

Read next: pictures.py, screens.py and clips.py, which draw with it.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from tiny import sample
from tiny.sample import Place, Shown

RGB = {
    "red": (220, 40, 40),
    "blue": (40, 80, 220),
    "green": (40, 160, 60),
    "yellow": (245, 215, 40),
    "orange": (245, 140, 30),
    "purple": (140, 50, 180),
    "pink": (250, 130, 190),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}
# The ones that stand out from every background below.
PAINTS = ["red", "blue", "green", "yellow", "orange", "purple", "pink", "black"]
SHAPES = ["circle", "square", "triangle", "star", "cross", "diamond"]
# Letters begin 8 pixels after a line of this grid and are centred on one, in few sizes: so a word
# meets the patches of the vision tower in one way and can be learnt from few pictures.
GRID, INSET = 16, 8
SIZES = {"small": 13, "plain": 16, "big": 24, "huge": 32}
TINTS = [(228, 240, 250), (230, 245, 232), (244, 236, 248), (250, 240, 228)]

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A thing in a picture, in pixels. `label` is a shape's colour or a text element's text."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str
    label: str

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box, in pixels."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


@dataclass(frozen=True)
class Scene:
    """A picture and everything that can be found in it, in reading order."""

    image: sample.Image
    boxes: list[Box]


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """Pillow's embedded font, which every machine has."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """The width of a text in whole pixels, rounded up."""
    return math.ceil(float(font(size).getlength(text)))


def jitter(rng: random.Random, rgb: Rgb, amount: int = 10) -> Rgb:
    """A colour close to the given one."""
    red, green, blue = (min(255, max(0, c + rng.randint(-amount, amount))) for c in rgb)
    return red, green, blue


def colour(rng: random.Random, name: str) -> Rgb:
    """A shade of a colour of the world."""
    return jitter(rng, RGB[name])


def background(rng: random.Random) -> Rgb:
    """Mostly white, sometimes light grey or a pale colour."""
    draw = rng.random()
    if draw < 0.5:
        return (255, 255, 255)
    if draw < 0.75:
        level = rng.randint(225, 250)
        return level, level, level
    return jitter(rng, rng.choice(TINTS), 4)


def ink(fill: Rgb) -> Rgb:
    """Black or white, whichever reads better on `fill`."""
    luminance = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2]
    return (20, 20, 20) if luminance > 125 else (250, 250, 250)


def canvas(width: int, height: int, fill: Rgb) -> tuple[Pil.Image, ImageDraw.ImageDraw]:
    """An empty picture and the pen to draw on it."""
    image = Pil.new("RGB", (width, height), fill)
    return image, ImageDraw.Draw(image)


def pixels(image: Pil.Image) -> sample.Image:
    """The picture as an array."""
    return np.array(image, dtype=np.uint8)


def _outline(kind: str, radius: float) -> list[tuple[float, float]]:
    """The corners of a shape around the origin."""
    if kind == "square":
        s = 0.86 * radius
        return [(-s, -s), (s, -s), (s, s), (-s, s)]
    if kind == "triangle":
        return [(0, -radius), (0.95 * radius, 0.8 * radius), (-0.95 * radius, 0.8 * radius)]
    if kind == "diamond":
        return [(0, -radius), (0.75 * radius, 0), (0, radius), (-0.75 * radius, 0)]
    if kind == "cross":
        r, s = radius, 0.34 * radius
        return [
            (-s, -r), (s, -r), (s, -s), (r, -s), (r, s), (s, s),
            (s, r), (-s, r), (-s, s), (-r, s), (-r, -s), (-s, -s),
        ]  # fmt: skip
    spokes = [(radius if i % 2 == 0 else 0.42 * radius, math.pi * i / 5) for i in range(10)]
    return [(r * math.sin(angle), -r * math.cos(angle)) for r, angle in spokes]


def shape(
    pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, radius: float, fill: Rgb, name: str
) -> Box:
    """Draw one of SHAPES and return its box, labelled with the colour's name."""
    if kind == "circle":
        x1, y1, x2, y2 = x - radius, y - radius, x + radius, y + radius
        pen.ellipse((x1, y1, x2, y2), fill=fill)
    else:
        points = [(x + dx, y + dy) for dx, dy in _outline(kind, radius)]
        pen.polygon(points, fill=fill)
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return Box(x1, y1, x2, y2, kind, name)


def up(length: float) -> int:
    """Rounded up to the grid."""
    return GRID * math.ceil(length / GRID)


def write(
    pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, fill: Rgb, anchor: str
) -> Box:
    """Draw a text at Pillow's anchor ("mm": centred, "lm": from the left) and return its box."""
    pen.text((x, y), text, font=font(size), fill=fill, anchor=anchor)
    box = Box(*pen.textbbox((x, y), text, font=font(size), anchor=anchor), "text", text)
    if _letters is not None:
        scale = (box.x2 - box.x1) / max(1.0, float(font(size).getlength(text)))
        for i, letter in enumerate(text):
            ends = [float(font(size).getlength(text[:n])) for n in (i, i + 1)]
            _letters.append((letter, box.x1 + scale * sum(ends) / 2, (box.y1 + box.y2) / 2))
    return box


_letters: list[tuple[str, float, float]] | None = None


@contextmanager
def lettering() -> Iterator[list[tuple[str, float, float]]]:
    """Collects every letter drawn inside, with its centre in pixels."""
    global _letters
    _letters = []
    try:
        yield _letters
    finally:
        _letters = None


def relative(box: Box, width: int, height: int) -> list[int]:
    """The box as integers from 0 to 1000, which is how the model speaks of places."""
    scaled = (box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height)
    return [min(1000, max(0, round(1000 * v))) for v in scaled]


def relative_centre(box: Box, width: int, height: int) -> list[int]:
    """The centre of the box as integers from 0 to 1000."""
    x, y = box.centre
    return [round(1000 * x / width), round(1000 * y / height)]


def grounding(key: str, place: list[int], label: str) -> str:
    """An answer in Qwen's grounding form; `key` is bbox_2d or point_2d."""
    return f"```json\n{json.dumps([{key: place, 'label': label}])}\n```"


class Turn(NamedTuple):
    """A question, its answer, what `check` expects, and what parts of the answer show or what it
    counts: see `shown` and `counted` of `Sample`.
    """

    question: str
    answer: str
    expect: dict[str, Any]
    shown: tuple[Shown, ...] = ()
    counted: tuple[Place, ...] | None = None


def said(question: str, answer: str, *shown: Shown) -> Turn:
    """A turn whose answer must come back word by word."""
    return Turn(question, answer, {"text": answer}, shown)


def counted(question: str, places: tuple[Place, ...], answer: str = "") -> Turn:
    """A turn that says how many things there are, or of none that there is none."""
    return said(question, answer or str(len(places)))._replace(counted=places)


def listed(lines: list[str], *shown: Shown, question: str = "List everything.") -> Turn:
    """The last turn of many training samples: everything that can be seen, line by line. Few
    tokens of other answers need the picture; here nearly all do.
    """
    return said(question, "\n".join(lines), *shown)


def conversation(
    skill: str, turns: list[Turn], image: sample.Image | None = None,
    video: sample.Video | None = None,
) -> sample.Sample:  # fmt: skip
    """Questions about one picture or clip, which stands in the first; the last is the tested."""
    messages: list[dict[str, Any]] = []
    place = "<video>" if image is None else "<image>"
    for number, turn in enumerate(turns):
        question = turn.question
        messages.append(sample.user(question if number else sample.parts(place, question)))
        lessons = {"shown": turn.shown, "counted": turn.counted}
        messages.append({**sample.assistant(turn.answer), **lessons})
    images, videos = [] if image is None else [image], [] if video is None else [video]
    expect = turns[-1].expect
    return sample.Sample(skill, messages, images=images, videos=videos, expect=expect)


def normal(text: str) -> str:
    """A text for comparison: no case, single spaces, no full stop at the end."""
    return " ".join(text.casefold().split()).rstrip(".").rstrip()


def inside(point: Any, box: list[int]) -> bool:
    """Whether a value is a point inside a box."""
    if not isinstance(point, list) or len(point) != 2 or not all(map(_number, point)):
        return False
    return bool(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def overlap(a: Any, b: list[int]) -> float:
    """Intersection over union of two boxes; 0 for anything that is no box."""
    if not isinstance(a, list) or len(a) != 4 or not all(map(_number, a)):
        return 0.0
    if a[2] <= a[0] or a[3] <= a[1]:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return float(both / total)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check(example: sample.Sample, reply: str) -> bool:
    """Compare a reply with `expect`: {"text"}, {"exact"}, {"bbox"} or {"point"} (inside a box)."""
    expect: dict[str, Any] = example.expect
    if "text" in expect:
        return normal(reply) == normal(expect["text"])
    if "exact" in expect:
        return reply.strip() == str(expect["exact"])
    found = re.fullmatch(r"\s*(?:```(?:json)?\s*)?(\[.*\])\s*(?:```)?\s*", reply, re.DOTALL)
    try:
        items = json.loads(found[1]) if found else []
    except (ValueError, RecursionError):
        return False
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict):
        return False
    label = items[0].get("label")
    if not isinstance(label, str) or normal(label) != normal(expect["label"]):
        return False
    if "bbox" in expect:
        return overlap(items[0].get("bbox_2d"), expect["bbox"]) >= 0.5
    return inside(items[0].get("point_2d"), expect["point"])
