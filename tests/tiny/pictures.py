"""Pictures of 256 x 256: coloured shapes on a 3 x 3 layout, rendered words, and small charts."""

from __future__ import annotations

import math
import random

from tiny import draw, world
from tiny.draw import Box, Scene, Turn, conversation, said
from tiny.sample import Place, Sample, Shown, Skill, held_out

SIDE = 256
PLACES = [
    "at the top left", "at the top", "at the top right", "at the left", "in the middle",
    "at the right", "at the bottom left", "at the bottom", "at the bottom right",
]  # fmt: skip
WORDS = sorted(
    word
    for word in {*world.NAMES, *world.COLOURS, *world.THINGS, *world.ANIMALS, *world.FOODS}
    | {*world.DRINKS, *world.PLACES, *world.CITIES}
    if len(word) <= 6
)
SIGNS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"  # without O and I, which look like 0 and l
BAR_LABELS = [
    [day[:3] for day in world.DAYS],
    [month[:3] for month in world.MONTHS],
    ["apple", "pear", "plum", "fig", "kiwi", "lime"],
    ["dog", "cat", "fish", "bird", "cow", "fox"],
]


def at(text: str, box: Box, picture: int = 0) -> Shown:
    """A part of an answer that shows a box."""
    return text, picture, *box.centre


def spelled(text: str, box: Box) -> list[Shown]:
    """The letters of a text that a box is full of, each where it stands."""
    step = (box.x2 - box.x1) / len(text)
    return [(c, 0, box.x1 + (i + 0.5) * step, box.centre[1]) for i, c in enumerate(text)]


def place(box: Box) -> str:
    """Where a box is, in words."""
    x, y = box.centre
    return PLACES[int(3 * y / SIDE) * 3 + int(3 * x / SIDE)]


# Shapes


def _novel(box: Box) -> bool:
    return held_out("shapes", box.label, box.kind, place(box))


def shapes_scene(rng: random.Random, test: bool) -> Scene:
    """1 to 6 shapes of few colours and kinds; no two are alike."""
    while True:
        count = rng.randint(1, 6)
        colours = rng.sample(draw.PAINTS, rng.randint(2, 4))
        kinds = rng.sample(draw.SHAPES, rng.randint(3, 4))
        pairs = rng.sample([(c, k) for c in colours for k in kinds], count)
        cells = sorted(rng.sample(range(9), count))
        novel = [
            held_out("shapes", *pair, PLACES[cell]) for pair, cell in zip(pairs, cells, strict=True)
        ]
        if any(novel) == test:
            break
    image, pen = draw.canvas(SIDE, SIDE, draw.background(rng))
    boxes = []
    for (name, kind), cell in zip(pairs, cells, strict=True):
        radius = rng.randint(18, 34)
        room = 42 - radius
        x = (cell % 3 + 0.5) * SIDE / 3 + rng.randint(-room, room)
        y = (cell // 3 + 0.5) * SIDE / 3 + rng.randint(-room, room)
        boxes.append(draw.shape(pen, kind, x, y, radius, draw.colour(rng, name), name))
    return Scene(draw.pixels(image), boxes)


def _shapes_turn(rng: random.Random, boxes: list[Box], target: Box) -> Turn:
    name = f"{target.label} {target.kind}"
    form = rng.choice(["describe", "how many", "where", "what", "locate"])
    if form == "describe":
        items = [f"{world.a(f'{b.label} {b.kind}')} {place(b)}" for b in boxes]
        start = "There is 1 shape" if len(boxes) == 1 else f"There are {len(boxes)} shapes"
        wordings = ["Describe the picture.", "What do you see?", "Describe what is in the image."]
        seen = [at(item, box) for item, box in zip(items, boxes, strict=True)]
        turn = said(rng.choice(wordings), f"{start}: {', '.join(items)}.", *seen)
        return turn._replace(counted=_places(boxes))
    if form == "how many":
        return _count(rng, boxes, target)
    if form == "where":
        wording = rng.choice(["Where is the {}?", "In which place is the {}?"])
        answer = place(target)
        answer = f"{answer[0].upper()}{answer[1:]}."
        return said(wording.format(name), answer, at(answer, target))
    if form == "locate":
        wording = rng.choice(
            ["Locate the {}, answer with JSON.", "Find the {}. Answer with a box in JSON."]
        )
        bbox = draw.relative(target, SIDE, SIDE)
        expect = {"bbox": bbox, "label": name}
        shown = (at(str(bbox), target),)
        return Turn(wording.format(name), draw.grounding("bbox_2d", bbox, name), expect, shown)
    what = rng.choice(["colour", "place", "yes", "no"])
    if what == "colour" and sum(b.kind == target.kind for b in boxes) == 1:
        answer = f"{target.label.capitalize()}."
        return said(f"What colour is the {target.kind}?", answer, at(answer, target))
    if what == "no":
        present = {(b.label, b.kind) for b in boxes}
        near = [(target.label, kind) for kind in draw.SHAPES]
        near += [(other, target.kind) for other in draw.PAINTS]
        absent = rng.choice([pair for pair in near if pair not in present])
        return draw.counted(f"Is there {world.a(' '.join(absent))}?", (), "No.")
    if what == "yes":
        return said(f"Is there {world.a(name)}?", "Yes.", at("Yes.", target))
    answer = f"{world.a(name).capitalize()}."
    return said(f"What is {place(target)}?", answer, at(answer, target))


def _count(rng: random.Random, boxes: list[Box], target: Box) -> Turn:
    what = rng.choice(["shapes", "colour", "kind"])
    thing, meant = "shapes", boxes
    if what == "colour":
        wanted = target.label if rng.random() < 0.8 else rng.choice(draw.PAINTS)
        thing, meant = f"{wanted} shapes", [b for b in boxes if b.label == wanted]
    elif what == "kind":
        wanted = target.kind if rng.random() < 0.8 else rng.choice(draw.SHAPES)
        plural = f"{wanted}es" if wanted == "cross" else f"{wanted}s"
        thing, meant = plural, [b for b in boxes if b.kind == wanted]
    wording = rng.choice(["How many {} are there?", "Count the {}.", "How many {} do you see?"])
    return draw.counted(wording.format(thing), _places(meant))


def _places(boxes: list[Box]) -> tuple[Place, ...]:
    """Where boxes are, for lessons of counting."""
    return tuple((0, *box.centre) for box in boxes)


def make_shapes(rng: random.Random, test: bool) -> Sample:
    """Questions about a picture of shapes; in tests one, about a shape at a new place."""
    scene = shapes_scene(rng, test)
    targets = [box for box in scene.boxes if _novel(box) == test]
    count = rng.randint(2, 5) if not test and rng.random() < 0.6 else 1
    drawn = [_shapes_turn(rng, scene.boxes, rng.choice(targets)) for _ in range(count)]
    if not test:  # few tokens, and learnt last
        drawn += [_count(rng, scene.boxes, rng.choice(targets)) for _ in range(3)]
        rng.shuffle(drawn)
    turns = list({turn.question: turn for turn in drawn}.values())
    if not test and rng.random() < 0.6:
        lines = [
            f"{b.label} {b.kind}: {place(b)}, {draw.relative(b, SIDE, SIDE)}" for b in scene.boxes
        ]
        seen = [at(line, box) for line, box in zip(lines, scene.boxes, strict=True)]
        turns = [*turns[:4], draw.listed(lines, *seen)]
    return conversation("shapes", turns, scene.image)


# Reading


def _word(rng: random.Random, novel: bool) -> str:
    while True:
        if rng.random() < 0.5:
            word = "".join(rng.choice(SIGNS) for _ in range(rng.randint(1, 4)))
        else:
            word = rng.choice(WORDS)
            word = word if rng.random() < 0.5 else word.capitalize()
        if held_out("reading", word) == novel:
            return word


def word_scene(rng: random.Random, test: bool) -> Scene:
    """One word anywhere on the picture, dark on light or light on dark."""
    text, paper = _word(rng, test), draw.background(rng)
    size = rng.choice([draw.SIZES["big"], draw.SIZES["huge"]])
    if rng.random() < 0.3:
        paper = draw.jitter(rng, rng.choice([(30, 30, 35), (30, 50, 110), (90, 30, 40)]))
    image, pen = draw.canvas(SIDE, SIDE, paper)
    x = rng.randrange(0, SIDE - draw.text_width(text, size) - draw.INSET, draw.GRID)
    y = rng.randrange(2 * draw.GRID, SIDE - draw.GRID, draw.GRID)
    box = draw.write(pen, x + draw.INSET, y, text, size, draw.ink(paper), "lm")
    return Scene(draw.pixels(image), [box])


def plates_scene(rng: random.Random, test: bool) -> tuple[Scene, dict[str, str]]:
    """2 or 3 coloured plates with a word each, and the words by colour; the first is the target."""
    count = rng.randint(2, 3)
    image, pen = draw.canvas(SIDE, SIDE, draw.background(rng))
    rows = rng.sample(range(3), count)
    texts: dict[str, str] = {}
    boxes = []
    for row, name in zip(rows, rng.sample(draw.PAINTS, count), strict=True):
        text = _word(rng, test and not texts)
        size, fill = draw.SIZES["big"], draw.colour(rng, name)
        wide = draw.up(draw.text_width(text, size) + 2 * draw.INSET)
        x, y = rng.randrange(0, SIDE - wide + 1, draw.GRID), 48 + 80 * row
        y += rng.choice([-draw.GRID, 0, draw.GRID])
        pen.rounded_rectangle((x, y - 24, x + wide, y + 24), 5, fill=fill)
        boxes.append(Box(x, y - 24, x + wide, y + 24, "plate", name))
        boxes.append(draw.write(pen, x + draw.INSET, y, text, size, draw.ink(fill), "lm"))
        texts[name] = text
    return Scene(draw.pixels(image), sorted(boxes, key=lambda b: b.centre[1])), texts


def _inside(plate: Box, boxes: list[Box]) -> Box:
    """The text on a plate."""
    return next(b for b in boxes if b.kind != "plate" and plate.y1 < b.centre[1] < plate.y2)


def make_reading(rng: random.Random, test: bool) -> Sample:
    """Read the word, or the word on one of several plates; in tests a word never read before."""
    if rng.random() < 0.6:
        scene = word_scene(rng, test)
        text = scene.boxes[0].label
        wordings = ["What does the picture say?", "Read the text.", "What is written here?"]
        shown = tuple(spelled(text, scene.boxes[0]))
        turn = Turn(rng.choice(wordings), text, {"exact": text}, shown)
        return conversation("reading", [turn], scene.image)
    scene, texts = plates_scene(rng, test)
    wording = rng.choice(["What is written on the {} plate?", "What does the {} plate say?"])
    names = list(texts)[:1] if test else rng.sample(list(texts), len(texts))
    plates = [box for box in scene.boxes if box.kind == "plate"]
    words = {plate.label: _inside(plate, scene.boxes) for plate in plates}
    turns = [
        Turn(wording.format(n), texts[n], {"exact": texts[n]}, tuple(spelled(texts[n], words[n])))
        for n in names
    ]
    if not test and rng.random() < 0.5:
        lines = [f"{plate.label}: {texts[plate.label]}" for plate in plates]
        seen = [
            part
            for plate in plates
            for part in (at(plate.label, plate), *spelled(texts[plate.label], words[plate.label]))
        ]
        turns = [draw.listed(lines, *seen)]
    return conversation("reading", turns, scene.image)


# Charts


def chart_scene(rng: random.Random, test: bool, pie: bool | None = None) -> Scene:
    """Labelled bars, or a pie of three slices; the boxes' kinds are bar or slice, and text.

    The label of a bar is "Tue 7", that of a slice "apple 7 red".
    """
    pie = rng.random() < 0.15 if pie is None else pie
    while True:
        count = 3 if pie else rng.randint(3, 4)
        pool = rng.choice(BAR_LABELS)
        labels = [pool[i] for i in sorted(rng.sample(range(len(pool)), count))]
        values = [rng.randint(1, 10) for _ in labels]
        if pie:
            values = [max(3, value) for value in values]
        top, low = max(values), min(values)
        novel = [held_out("charts", *pair) for pair in zip(labels, values, strict=True)]
        if values.count(top) == values.count(low) == 1 and any(novel) == test:
            break
    image, pen = draw.canvas(SIDE, SIDE, draw.background(rng))
    names = rng.sample(draw.PAINTS, count)
    boxes: list[Box] = []
    if pie:
        turn = float(rng.randint(0, 359))
        for label, value, name in zip(labels, values, names, strict=True):
            end, fill = turn + 360 * value / sum(values), draw.colour(rng, name)
            pen.pieslice((28, 28, 228, 228), turn, end, fill=fill, outline="white", width=2)
            angle = math.radians((turn + end) / 2)
            x, y = 128 + 62 * math.cos(angle), 128 + 62 * math.sin(angle)
            boxes.append(Box(x - 30, y - 30, x + 30, y + 30, "slice", f"{label} {value} {name}"))
            x = draw.GRID * round((x - draw.text_width(label, 16) / 2) / draw.GRID) + draw.INSET
            y = draw.GRID * round(y / draw.GRID)
            boxes.append(draw.write(pen, x, y, label, 16, draw.ink(fill), "lm"))
            turn = end
        return Scene(draw.pixels(image), boxes)
    for value in range(0, 11, 2):
        y = 224 - draw.GRID * value
        pen.line((32, y, 248, y), fill=(205, 205, 205) if value else (60, 60, 60))
        draw.write(pen, draw.INSET, y, str(value), draw.SIZES["small"], (90, 90, 90), "lm")
    slot, plain = 48, rng.random() < 0.5
    for i, (label, value, name) in enumerate(zip(labels, values, names, strict=True)):
        x, y = 48 + slot * i, 224 - draw.GRID * value
        pen.rectangle((x, y, x + 24, 224), fill=draw.RGB[names[0] if plain else name])
        boxes.append(Box(x, y, x + 24, 224, "bar", f"{label} {value}"))
        for text, height, size in ((str(value), y - draw.GRID, "plain"), (label, 240, "small")):
            at = x + draw.INSET
            boxes.append(draw.write(pen, at, height, text, draw.SIZES[size], (20, 20, 20), "lm"))
    return Scene(draw.pixels(image), boxes)


def _row_shown(row: list[str], box: Box) -> list[Shown]:
    """Where the parts of "Tue 7" or "apple 7 red" can be seen."""
    if box.kind == "slice":
        return [at(part, box) for part in row]
    x = box.centre[0]
    return [(row[0], 0, x, 240), (row[1], 0, x, box.y1 - draw.GRID)]


def make_charts(rng: random.Random, test: bool) -> Sample:
    """Questions about a chart; in tests one, about a value that its label never had."""
    scene = chart_scene(rng, test)
    bars = [b for b in scene.boxes if b.kind in ("bar", "slice")]
    rows = [b.label.split() for b in bars]
    part = bars[0].kind
    best, least = ("biggest", "smallest") if part == "slice" else ("tallest", "shortest")
    ordered = sorted(rows, key=lambda row: int(row[1]))
    seen = {row[0]: _row_shown(row, box) for row, box in zip(rows, bars, strict=True)}
    turns = [
        said(f"Which {part} is the {best}?", f"{ordered[-1][0]}.", seen[ordered[-1][0]][0]),
        said(f"Which {part} is the {least}?", f"{ordered[0][0]}.", seen[ordered[0][0]][0]),
        said(f"How many {part}s are there?", str(len(bars))),
    ]
    if part == "bar":
        fresh = [row for row in rows if held_out("charts", row[0], int(row[1])) == test]
        wordings = ["What is the value of {}?", "How high is the bar of {}?"]
        asked = rng.sample(fresh, min(len(fresh), 1 if test else 2))
        turns += [
            said(rng.choice(wordings).format(label), value, seen[label][1])
            for label, value in asked
        ]
        turns.append(turns[-1])  # twice as often
    else:
        row = rng.choice(rows)
        answer = f"{row[2].capitalize()}."
        question = f"What colour is the slice of {row[0]}?"
        turns.append(said(question, answer, (answer, *seen[row[0]][2][1:])))
    count = 1 if test or rng.random() < 0.4 else rng.randint(2, 4)
    drawn = rng.sample(turns, min(count, len(turns)))
    if not test and rng.random() < 0.5:
        every = [shown for row in rows for shown in seen[row[0]]]
        drawn = [*drawn[:1], draw.listed([b.label for b in bars], *every)]
    unique = list({turn.question: turn for turn in drawn}.values())
    return conversation("charts", unique, scene.image)


def scene(rng: random.Random, test: bool) -> Scene:
    """A picture of any of the three skills, for training with dense labels."""
    kind = rng.randrange(4)
    if kind == 0:
        return shapes_scene(rng, test)
    if kind == 1:
        return word_scene(rng, test)
    return plates_scene(rng, test)[0] if kind == 2 else chart_scene(rng, test)


SKILLS = [
    Skill("shapes", make_shapes, draw.check),
    Skill("reading", make_reading, draw.check),
    Skill("charts", make_charts, draw.check),
]
