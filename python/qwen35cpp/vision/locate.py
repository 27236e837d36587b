"""Places in a picture: the question, and the answer's grid of 0 to 1000 as pixels.

The models answer with JSON, often fenced: `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]`, or
`point_2d` with two numbers. The numbers are thousandths of the picture's width and height.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["box", "point"]
GRID = 1000

QUESTIONS: dict[Kind, str] = {
    "box": "Find the {}. Answer with a box in JSON.",
    "point": "Where is the {}? Give a point.",
}
_OBJECT = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Place:
    """Something found in a picture, in its pixels.

    `box` is (left, top, right, bottom), None when the model gave only a point; `point` is what to
    click: the point given, or the middle of the box.
    """

    label: str
    point: tuple[float, float]
    box: tuple[float, float, float, float] | None = None


def question(what: str, kind: Kind) -> str:
    """What to ask for a thing; "the " is not doubled."""
    return QUESTIONS[kind].format(re.sub(r"^the\s+", "", what.strip(), flags=re.IGNORECASE))


def read_places(text: str, width: int, height: int) -> list[Place]:
    """The places that an answer names, in order; those with impossible numbers are left out.

    A list that was cut off gives what is whole.
    """
    places = []
    for found in _OBJECT.finditer(text):
        try:
            entry = json.loads(found[0])
        except (ValueError, RecursionError):
            continue
        place = _place(entry, width, height)
        if place is not None:
            places.append(place)
    return places


def _place(entry: dict[str, Any], width: int, height: int) -> Place | None:
    label = entry.get("label", "")
    label = label if isinstance(label, str) else json.dumps(label)
    corners = _numbers(entry.get("bbox_2d"), 4)
    if corners is not None:
        x1, x2 = sorted((_pixels(corners[0], width), _pixels(corners[2], width)))
        y1, y2 = sorted((_pixels(corners[1], height), _pixels(corners[3], height)))
        return Place(label, ((x1 + x2) / 2, (y1 + y2) / 2), (x1, y1, x2, y2))
    point = _numbers(entry.get("point_2d"), 2)
    if point is None:
        return None
    return Place(label, (_pixels(point[0], width), _pixels(point[1], height)))


def _numbers(value: Any, count: int) -> list[float] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        return None
    if not all(math.isfinite(v) and 0 <= v <= GRID for v in value):
        return None
    return [float(v) for v in value]


def _pixels(value: float, side: int) -> float:
    return value / GRID * side
