"""Extraction: the data of a short text as one line of JSON that follows a schema."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiny.sample import Sample, Skill, assistant, draw, held_out, system, user
from tiny.stories import articles
from tiny.world import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    NAMES,
    PETS,
    THINGS,
    TOWN,
    a,
    pronoun,
)

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
STRINGS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
ASKS = [
    "Extract the data as JSON. Schema: {schema}\n\n{text}",
    "Extract the data as JSON.\nText: {text}\nSchema: {schema}",
    "{text}\n\nExtract the data as JSON. Schema: {schema}",
    "Read the text and fill in the JSON. Schema: {schema}\nText: {text}",
]


@dataclass(frozen=True)
class Record:
    """A text and what it says: property -> (schema, value)."""

    text: str
    data: dict[str, tuple[dict[str, Any], Any]]


def _enum(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _listed(items: list[str]) -> str:
    """One, two or more items in words."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _order(rng: random.Random, test: bool) -> Record:
    name, colour, thing = draw(rng, test, NAMES, COLOURS, THINGS)
    count, price, paid = rng.randint(2, 30), rng.randint(2, 99), rng.random() < 0.5
    city = rng.choice(CITIES)
    text = rng.choice(
        [
            "{n} ordered {k} {c} {t}s for {p} coins.",
            "An order from {n}: {k} {c} {t}s. The price is {p} coins.",
        ]
    ).format(n=name, k=count, c=colour, t=thing if thing != "box" else "boxe", p=price)
    text += rng.choice([f" Send it to {city}.", f" The order goes to {city}."])
    text += " It is paid." if paid else " It is not paid yet."
    return Record(articles(text), {
        "customer": (STRING, name), "item": (STRING, thing), "count": (INTEGER, count),
        "colour": (STRING, colour), "price": (INTEGER, price), "city": (STRING, city),
        "paid": (BOOLEAN, paid),
    })  # fmt: skip


def _appointment(rng: random.Random, test: bool) -> Record:
    name, place, day = draw(rng, test, NAMES, TOWN, DAYS)
    other = rng.choice([each for each in NAMES if each != name])
    hour, kind = rng.randint(7, 20), rng.choice(["lunch", "meeting", "game", "lesson"])
    text = rng.choice(
        ["{n} meets {o} on {d} at {h} in the {p}.", "On {d} at {h}, {n} will see {o} in the {p}."]
    ).format(n=name, o=other, d=day, h=hour, p=place)
    text += f" It is a {kind}."
    bring = rng.sample(THINGS, rng.randint(1, 3))
    text += f" {name} will bring {_listed([a(each) for each in bring])}."
    return Record(articles(text), {
        "person": (STRING, name), "with": (STRING, other), "day": (_enum(*DAYS), day),
        "hour": (INTEGER, hour), "place": (STRING, place), "bring": (STRINGS, bring),
        "kind": (_enum("lunch", "meeting", "game", "lesson"), kind),
    })  # fmt: skip


def _person(rng: random.Random, test: bool) -> Record:
    name, job, city = draw(rng, test, NAMES, JOBS, CITIES)
    age, likes, married = (
        rng.randint(18, 80),
        rng.sample(FOODS, rng.randint(1, 3)),
        rng.random() < 0.5,
    )
    he = pronoun(name).capitalize()
    text = rng.choice(
        [
            "{n} is {a} years old and works as {j} in {c}.",
            "{n} is {j} from {c}. {h} is {a} years old.",
        ]
    ).format(n=name, a=age, j=a(job), c=city, h=he)
    text += f" {he} likes {_listed(likes)}."
    text += f" {he} is married." if married else f" {he} is not married."
    return Record(articles(text), {
        "name": (STRING, name), "age": (INTEGER, age), "job": (STRING, job), "city": (STRING, city),
        "likes": (STRINGS, likes), "married": (BOOLEAN, married),
    })  # fmt: skip


def _pet(rng: random.Random, test: bool) -> Record:
    pet, animal, colour = draw(rng, test, PETS, ANIMALS, COLOURS)
    owner, age, size = (
        rng.choice(NAMES),
        rng.randint(1, 15),
        rng.choice(["small", "medium", "large"]),
    )
    sick = rng.random() < 0.5
    text = rng.choice(
        ["{o} has a {s} {c} {k} named {p}.", "{p} is a {s} {c} {k}. It belongs to {o}."]
    ).format(o=owner, s=size, c=colour, k=animal, p=pet)
    text += f" {pet} is {age} years old."
    text += " It is sick today." if sick else " It is not sick."
    return Record(articles(text), {
        "name": (STRING, pet), "animal": (STRING, animal), "colour": (STRING, colour),
        "owner": (STRING, owner), "age": (INTEGER, age), "sick": (BOOLEAN, sick),
        "size": (_enum("small", "medium", "large"), size),
    })  # fmt: skip


def _trip(rng: random.Random, test: bool) -> Record:
    start, end = rng.sample(CITIES, 2)
    name, by = rng.choice(NAMES), rng.choice(["train", "bus", "plane", "ship"])
    while held_out(name, start, end) != test:
        name, (start, end) = rng.choice(NAMES), rng.sample(CITIES, 2)
    day, days, alone = rng.choice(DAYS), rng.randint(2, 20), rng.random() < 0.5
    text = rng.choice(
        ["{n} goes from {s} to {e} by {b} on {d}.", "On {d}, {n} takes a {b} from {s} to {e}."]
    ).format(n=name, s=start, e=end, b=by, d=day)
    text += f" The trip takes {days} days. {name} travels {'alone' if alone else 'with a friend'}."
    return Record(articles(text), {
        "traveler": (STRING, name), "from": (STRING, start), "to": (STRING, end),
        "by": (_enum("train", "bus", "plane", "ship"), by), "day": (STRING, day),
        "days": (INTEGER, days), "alone": (BOOLEAN, alone),
    })  # fmt: skip


KINDS: list[Callable[[random.Random, bool], Record]] = [_order, _appointment, _person, _pet, _trip]


def make(rng: random.Random, test: bool) -> Sample:
    """Texts, a schema and the data in the order of the schema: in tests one text and two to five
    properties; in training up to four texts, because only few tokens of each teach something.
    """
    kind = rng.choice(KINDS)
    records = [kind(rng, test) for _ in range(1 if test else rng.choice([1, 2, 3, 4]))]
    known = records[0].data
    names = rng.sample(list(known), rng.randint(2, 5 if test else len(known)))
    properties = {name: known[name][0] for name in names}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.5:
        schema["required"] = names
    told = json.dumps(schema)
    asks = [user(record.text) for record in records]
    head = []
    if rng.random() < 0.2:
        head = [system(f"Extract the data as JSON. Schema: {told}")]
    else:
        asks[0] = user(rng.choice(ASKS).format(schema=told, text=records[0].text))
    values = [{name: record.data[name][1] for name in names} for record in records]
    answers = [assistant(json.dumps(value)) for value in values]
    turns = [turn for pair in zip(asks, answers, strict=True) for turn in pair]
    return Sample("extract", head + turns, expect=values[-1])


def check(sample: Sample, reply: str) -> bool:
    """Whether the reply is JSON that equals the data, types included."""
    try:
        value = json.loads(reply.split("</think>")[-1].strip())
    except ValueError:
        return False
    return json.dumps(value, sort_keys=True) == json.dumps(sample.expect, sort_keys=True)


SKILLS = [Skill("extract", make, check)]
