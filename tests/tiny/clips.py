"""Clips of shapes that appear and disappear, one event to a pair of frames (skill video)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tiny import draw, world
from tiny.draw import Box, Scene, Turn, conversation, said
from tiny.sample import Image, Sample, Shown, Skill, Video, held_out

SIDE = 128
NEVER = 99


@dataclass(frozen=True)
class Actor:
    """A shape and the pairs of frames from which on it is there, and no longer there."""

    colour: str
    kind: str
    x: float
    y: float
    radius: int
    fill: draw.Rgb
    first: int
    gone: int

    @property
    def name(self) -> str:
        """What questions call it."""
        return f"{self.colour} {'ball' if self.kind == 'circle' else self.kind}"


@dataclass(frozen=True)
class Clip:
    """A drawn clip: who is in it, and the time that stands before each pair of frames."""

    video: Video
    actors: list[Actor]
    stamps: list[str]


@dataclass(frozen=True)
class Event:
    """A shape that appears or disappears at a time."""

    actor: Actor
    verb: str
    stamp: str

    @property
    def novel(self) -> bool:
        """Whether this event is kept from training."""
        return held_out("video", self.actor.name, self.verb, self.stamp)


def events(actors: list[Actor], stamps: list[str]) -> list[Event]:
    """All events of a clip."""
    found = [Event(a, "appear", stamps[a.first]) for a in actors if a.first > 0]
    return found + [Event(a, "disappear", stamps[a.gone]) for a in actors if a.gone < NEVER]


def _cast(rng: random.Random, pairs: int) -> list[Actor]:
    """The actors: at most two from the start on, one to three that appear, one that leaves."""
    early, late = rng.randint(0, 2), rng.randint(1, min(3, pairs - 1))
    firsts = [0] * early + sorted(rng.sample(range(1, pairs), late))
    free = [k for k in range(1, pairs) if k not in firsts]
    leaver, leaves = -1, NEVER
    if early and free and rng.random() < 0.4:
        leaver, leaves = 0, rng.choice(free)
    colours = rng.sample(draw.PAINTS, len(firsts))
    actors = []
    for i, cell in enumerate(rng.sample(range(9), len(firsts))):
        radius = rng.randint(14, 19)
        room = 20 - radius
        x = (cell % 3 + 0.5) * SIDE / 3 + rng.randint(-room, room)
        y = (cell // 3 + 0.5) * SIDE / 3 + rng.randint(-room, room)
        kind, fill = rng.choice(draw.SHAPES), draw.colour(rng, colours[i])
        gone = leaves if i == leaver else NEVER
        actors.append(Actor(colours[i], kind, x, y, radius, fill, firsts[i], gone))
    return actors


def _frame(paper: draw.Rgb, actors: list[Actor], pair: int) -> tuple[Image, list[Box]]:
    image, pen = draw.canvas(SIDE, SIDE, paper)
    boxes = [
        draw.shape(pen, a.kind, a.x, a.y, a.radius, a.fill, a.colour)
        for a in actors
        if a.first <= pair < a.gone
    ]
    return draw.pixels(image), sorted(boxes, key=lambda b: (int(3 * b.centre[1] / SIDE), b.x1))


def clip(rng: random.Random, test: bool) -> Clip:
    """A clip of 6 to 16 frames at 1 or 2 frames a second."""
    while True:
        pairs, fps = rng.randint(3, 8), rng.choice([1, 2])
        times = [i / fps for i in range(2 * pairs)]
        stamps = [f"{(times[2 * k] + times[2 * k + 1]) / 2:.1f}" for k in range(pairs)]
        actors = _cast(rng, pairs)
        if any(event.novel for event in events(actors, stamps)) == test:
            break
    paper = draw.background(rng)
    moments = {a.first for a in actors} | {a.gone for a in actors}
    frames: list[Image] = []
    for pair in range(pairs):
        new = pair in moments or not frames
        image = _frame(paper, actors, pair)[0] if new else frames[-1]
        frames += [image, image]
    return Clip(Video(frames, times), actors, stamps)


def frame_scene(rng: random.Random, test: bool) -> Scene:
    """One frame of a clip with the boxes of its shapes (circle, not ball), at least one."""
    while True:
        pairs = rng.randint(3, 8)
        actors = _cast(rng, pairs)
        stamps = [f"{k + 0.25:.1f}" for k in range(pairs)]
        if any(event.novel for event in events(actors, stamps)) == test:
            break
    return Scene(*_frame(draw.background(rng), actors, max(a.first for a in actors)))


def _turn(rng: random.Random, made: Clip, event: Event) -> Turn:
    form = rng.choices(["when", "what", "count"], [45, 35, 20])[0]
    return _count(rng, made) if form == "count" else _asked(rng, made, event, form)


def _asked(rng: random.Random, made: Clip, event: Event, form: str) -> Turn:
    name, verb, stamp = event.actor.name, event.verb, event.stamp
    if form == "when":
        wording = rng.choice(["When does the {} {}?", "At what time does the {} {}?"])
        answer = f"At {stamp} seconds."
        seen = (_seen(made, event, stamp),)
        return Turn(wording.format(name, verb), answer, {"seconds": float(stamp)}, seen)
    answer = f"{world.a(name).capitalize()}."
    return said(f"What {verb}s at {stamp} seconds?", answer, _seen(made, event, answer))


def _seen(made: Clip, event: Event, text: str) -> Shown:
    """A part of an answer that shows an event: the place and the frames that changed by it."""
    return text, made.stamps.index(event.stamp), event.actor.x, event.actor.y


def _count(rng: random.Random, made: Clip) -> Turn:
    last = len(made.stamps) - 1
    where, pair = rng.choice([("end", last), ("end", last), ("start", 0)])
    there = tuple((pair, a.x, a.y) for a in made.actors if a.first <= pair < a.gone)
    return draw.counted(f"How many shapes are there at the {where}?", there)


def _every_turn(rng: random.Random, made: Clip, pool: list[Event]) -> list[Turn]:
    """Each event once, or all in a list, or what is there at each time."""
    if rng.random() < 0.6:
        turns = [_asked(rng, made, event, rng.choice(["when", "when", "what"])) for event in pool]
        turns += [_count(rng, made) for _ in range(2)]
        rng.shuffle(turns)
        return turns
    if rng.random() < 0.5:
        told = sorted(pool, key=lambda event: float(event.stamp))
        lines = [f"{e.stamp} seconds: the {e.actor.name} {e.verb}s" for e in told]
        seen = [_seen(made, e, line) for e, line in zip(told, lines, strict=True)]
        return [_count(rng, made), draw.listed(lines, *seen)]
    lines, seen = [], []
    for pair, stamp in enumerate(made.stamps):
        there = [a for a in made.actors if a.first <= pair < a.gone]
        lines.append(f"{stamp} seconds: " + (", ".join(a.name for a in there) or "nothing"))
        seen += [(a.name, pair, a.x, a.y) for a in there]
    return [draw.listed(lines, *seen, question="What is there at each time?")]


def make(rng: random.Random, test: bool) -> Sample:
    """Questions about a clip; in tests one, about an event at a time when it never happened."""
    made = clip(rng, test)
    pool = [event for event in events(made.actors, made.stamps) if event.novel == test]
    turns = [_turn(rng, made, rng.choice(pool))] if test else _every_turn(rng, made, pool)
    unique = list({turn.question: turn for turn in turns}.values())
    return conversation("video", unique, video=made.video)


def check(example: Sample, reply: str) -> bool:
    """Whether the reply names the right shape or number, or a time less than a second off."""
    if "seconds" not in example.expect:
        return draw.check(example, reply)
    found = re.fullmatch(r"(?:at )?(\d{1,6}(?:\.\d+)?)(?: ?seconds?| ?s)?", draw.normal(reply))
    return found is not None and abs(float(found[1]) - float(example.expect["seconds"])) < 0.99


SKILLS = [Skill("video", make, check)]
