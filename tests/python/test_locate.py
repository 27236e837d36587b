"""Answers with places -> pixels."""

from __future__ import annotations

import json
import random

import pytest

from qwen35cpp import ImageInvalid, Llama
from qwen35cpp.vision import Place, read_places
from qwen35cpp.vision.locate import question


def test_boxes_and_points_become_pixels() -> None:
    text = '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "red star"}]\n```'
    assert read_places(text, 640, 480) == [
        Place("red star", (128.0, 144.0), (64.0, 96.0, 192.0, 192.0))
    ]
    text = 'There: [{"point_2d": [500, 1000], "label": "ok"}, {"point_2d": [0, 0]}]'
    assert read_places(text, 200, 100) == [Place("ok", (100.0, 100.0)), Place("", (0.0, 0.0))]


def test_corners_in_any_order() -> None:
    (place,) = read_places('[{"bbox_2d": [300, 400, 100, 200], "label": 3}]', 1000, 1000)
    assert place == Place("3", (200.0, 300.0), (100.0, 200.0, 300.0, 400.0))


@pytest.mark.parametrize(
    "entry",
    [
        {"bbox_2d": [1, 2, 3]},
        {"bbox_2d": [1, 2, 3, 1001]},
        {"bbox_2d": [1, 2, 3, -1]},
        {"bbox_2d": "1,2,3,4"},
        {"bbox_2d": [True, 1, 2, 3]},
        {"point_2d": [None, 1]},
        {"label": "nothing else"},
        {},
    ],
)
def test_impossible_places_are_left_out(entry: dict[str, object]) -> None:
    good = {"point_2d": [10, 20], "label": "good"}
    assert [p.label for p in read_places(json.dumps([entry, good]), 100, 100)] == ["good"]


def test_cut_and_random_texts_give_what_is_whole() -> None:
    whole = json.dumps([{"bbox_2d": [i, i, i + 5, i + 5], "label": str(i)} for i in range(20)])
    for end in range(len(whole)):
        places = read_places(whole[:end], 100, 100)
        assert [p.label for p in places] == [str(i) for i in range(len(places))]
    rng = random.Random(0)
    for _ in range(500):
        read_places("".join(rng.choices('[]{}":,0123456789bbox_2dNaN1e999', k=80)), 10, 10)
    assert read_places('{"point_2d": [NaN, Infinity]}', 10, 10) == []


def test_the_question_reads_well() -> None:
    assert question("the Save button", "box") == "Find the Save button. Answer with a box in JSON."
    assert question("Save button", "point") == "Where is the Save button? Give a point."


def test_locate_asks_the_model() -> None:
    import numpy as np

    with Llama.tiny(n_ctx=2048) as llama:
        pixels = np.full((256, 256, 3), 255, np.uint8)
        places = llama.locate("the red circle", pixels, max_tokens=60, budget="default")
        assert all(0 <= value <= 256 for place in places for value in place.point)
        with pytest.raises(ImageInvalid):
            llama.locate("x", b"junk")
