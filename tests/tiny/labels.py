"""Classification: sentiment, topic, yes or no, and the kind of a customer's message."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from tiny.passages import norm
from tiny.sample import Sample, Skill, assistant, draw, held_out, system, user
from tiny.stories import articles, plural
from tiny.world import ANIMALS, CITIES, COLOURS, DAYS, FOODS, NAMES, THINGS, TOWN, WEATHER, a

GOOD = [
    "great",
    "lovely",
    "wonderful",
    "perfect",
    "excellent",
    "very good",
    "beautiful",
    "fantastic",
]
BAD = ["terrible", "awful", "broken", "very bad", "horrible", "ugly", "useless", "cheap and weak"]
PLAIN = ["okay", "average", "normal", "as expected", "neither good nor bad", "fine but not special"]
OPINIONS = {
    "positive": (GOOD, ["I love it.", "I am very happy with it.", "It works well.",
                        "I would buy it again.", "My friends like it too.", "Five stars!"]),
    "negative": (BAD, ["I hate it.", "I want my money back.", "It broke after one day.",
                       "I would not buy it again.", "Do not buy it.", "What a waste of money."]),
    "neutral": (PLAIN, ["It does what it should.", "I have no strong opinion.", "It is what it is.",
                        "Some things are good, some are bad.", "Not great, not bad."]),
}  # fmt: skip
OPENERS = [
    "I bought the {} last week.",
    "This is my review of the {}.",
    "I used the {} for a month.",
]
VISITS = ["I went to the {} on {}.", "We visited the {} last {}."]
SENTIMENT_ASKS = [
    "Answer with positive, negative or neutral.",
    "Is this review positive, negative or neutral?",
    "What is the sentiment: positive, negative or neutral?",
]
TOPICS = {
    "sports": ["The team won the game.", "{name} ran the race in {n} minutes.",
               "The match ended {n} to 2.",
               "{name} kicked the ball into the goal.", "The players trained for the cup on {day}.",
               "The coach was proud of {name}."],
    "food": ["{name} cooked soup with carrot and rice.", "The {food} tasted sweet and fresh.",
             "Bake the bread for {n} minutes.", "Add some salt and butter.",
             "{name} ate {foods} for lunch.",
             "The new menu has {foods} and cheese."],
    "weather": ["It will be {weather} on {day}.", "The rain will stop in the evening.",
                "It is {n} degrees in {city}.", "A storm is coming from the north.",
                "Snow fell on the hills of {city}.", "The wind will be strong tomorrow."],
    "travel": ["The train to {city} leaves at {n}.", "{name} booked a hotel in {city}.",
               "The flight to {city} was long.", "Take your ticket and your passport.",
               "{name} packed a bag for the trip.", "We took the bus from the airport on {day}."],
    "animals": ["The {animal} slept in its nest.", "{name} fed the {animal} at the zoo.",
                "The {animal} has soft fur and a tail.", "A young {animal} follows its mother.",
                "The vet looked at the {animal}.", "Wild animals like the {animal} hunt at night."],
    "music": ["{name} played the drum in a band.", "The singer sang {n} songs.",
              "The concert in {city} was loud.",
              "{name} learns the piano on {day}.", "The new album has a slow tune.",
              "The choir sang in the hall."],
}  # fmt: skip
CUSTOMER = {
    "billing": ["I was charged {n} coins twice for the {thing}.",
                "My invoice for the {thing} is wrong.",
                "Why do I have to pay {n} coins more?", "I need a refund for the {colour} {thing}.",
                "My card was not accepted when I paid for the {thing}."],
    "bug": ["The app crashes when I open the {thing} page.",
            "I see error {n} when I click on the {thing}.",
            "The search for {a_thing} does not work on my phone.",
            "The page of the {colour} {thing} stays white.",
            "I can not log in since {day}."],
    "shipping": ["My {colour} {thing} did not arrive on {day}.",
                 "Where is my package with the {thing}?",
                 "The delivery of the {thing} is {n} days late.",
                 "You sent the {thing} to the wrong address in {city}.",
                 "When will you ship the {thing} to {city}?"],
    "other": ["Do you have a shop in {city}?", "Are you open on {day}?",
              "I would like to work for you in {city}.",
              "Do you like the {colour} {thing}?",
              "My name is {name} and I just want to say thank you."],
}  # fmt: skip
POLITE = ["", "Hello. ", "Hi, I am {name}. ", "Dear team, "]
CLOSING = ["", " Thank you.", " Please help me.", " Best wishes, {name}."]


def _fill(rng: random.Random, template: str, **given: str) -> str:
    """The template with words of the world."""
    food, thing = rng.choice(FOODS), rng.choice(THINGS)
    words = {
        "name": rng.choice(NAMES), "food": food, "foods": plural(food), "city": rng.choice(CITIES),
        "animal": rng.choice(ANIMALS), "weather": rng.choice(WEATHER), "day": rng.choice(DAYS),
        "thing": thing, "a_thing": a(thing), "colour": rng.choice(COLOURS),
        "n": str(rng.randint(3, 40)),
    }  # fmt: skip
    return template.format_map({**words, **given})


def _ask(rng: random.Random, instruction: str, text: str, answer: str) -> Sample:
    """The instruction in a system message, before the text or after it."""
    form, text = rng.randrange(4), articles(text)
    final = assistant(answer)
    if form == 0:
        messages = [system(instruction), user(text), final]
    elif form == 1:
        messages = [user(f"{text}\n\n{instruction}"), final]
    else:
        messages = [user(f"{instruction}\n\n{text}"), final]
    return Sample("classify", messages, expect=answer)


def sentiment(rng: random.Random, test: bool) -> Sample:
    """The opinion of a short review."""
    label = rng.choice(list(OPINIONS))
    adjectives, remarks = OPINIONS[label]
    if rng.random() < 0.7:
        colour, thing, adjective = draw(rng, test, COLOURS, THINGS, adjectives)
        what, opener = f"{colour} {thing}", rng.choice(OPENERS).format(thing)
    else:
        what, day, adjective = draw(rng, test, TOWN, DAYS, adjectives)
        opener = rng.choice(VISITS).format(what, day)
        remarks = [each for each in remarks if not re.search(r"\b[Ii]t\b", each)]
        remarks = remarks if label != "positive" else ["I was very happy.", "Five stars!"]
    lines = [f"The {what} is {adjective}."]
    if what in TOWN or rng.random() < 0.5:
        lines.insert(0, opener)
    lines += rng.sample(remarks, min(len(remarks), rng.randint(0, 2)))
    return _ask(rng, rng.choice(SENTIMENT_ASKS), " ".join(lines), label)


def topic(rng: random.Random, test: bool) -> Sample:
    """What a text is about, out of a list of topics."""
    label = rng.choice(list(TOPICS))
    while True:
        lines = [_fill(rng, each) for each in rng.sample(TOPICS[label], rng.randint(1, 3))]
        text = " ".join(lines)
        if held_out(text) == test:
            break
    names = rng.sample(list(TOPICS), len(TOPICS))
    if rng.random() < 0.4:
        names = [label, *[name for name in names if name != label][: rng.randint(2, 3)]]
        rng.shuffle(names)
    asks = [
        "What is the topic? Choose one: {}.",
        "Choose the topic of the text: {}.",
        "Topics: {}. Answer with one word.",
    ]
    return _ask(rng, rng.choice(asks).format(", ".join(names)), text, label)


def yes_no(rng: random.Random, test: bool) -> Sample:
    """Whether a statement says what the question asks."""
    name, thing, colour = draw(rng, test, NAMES, THINGS, COLOURS)
    city, place, food = rng.choice(CITIES), rng.choice(TOWN), rng.choice(FOODS)
    true = rng.random() < 0.5

    def claim(facet: tuple[str, str, list[str]], right: bool) -> str:
        wording, value, pool = facet
        named = value if right else rng.choice([each for each in pool if each != value])
        return wording.format(a(named) if pool is THINGS else named)

    is_coloured = (f"Is the {thing} {{}}?", colour, COLOURS)
    has = (f"Does {name} have {{}}?", thing, THINGS)
    stands = (f"Is the {colour} {thing} in the {{}}?", place, TOWN)
    lives = (f"Does {name} live in {{}}?", city, CITIES)
    eats = (f"Did {name} eat {{}}?", food, FOODS)
    statements = [  # each with what can be asked about it, the tested question first
        (f"{name} has a {colour} {thing}.", [is_coloured, has]),
        (f"{name} has a {colour} {thing}.", [has, is_coloured]),
        (f"{name} put the {colour} {thing} in the {place}.", [stands, is_coloured]),
        (f"{name} has a {colour} {thing} and lives in {city}.", [lives, is_coloured, has]),
        (f"{name} ate {food} and lost a {colour} {thing}.", [eats, is_coloured]),
    ]
    asked_of = [(told, claim(facets[0], true), facets) for told, facets in statements]
    told, asked, facets = rng.choice(asked_of)
    other = rng.choice([each for each in NAMES if each != name])
    extra = [f"{other} went to the {place}.", f"{other} was happy.", "It was a long day.",
             f"{other} likes tea."]  # fmt: skip
    lines = [told, *rng.sample(extra, rng.randint(0, 2))]
    rng.shuffle(lines)
    question = f"{asked} {rng.choice(['Answer yes or no.', 'Yes or no?'])}"
    sample = _ask(rng, question, " ".join(lines), "yes" if true else "no")
    sample.messages[-1]["clue"] = (articles(told), facets[0][1])
    for facet in [] if test else rng.choices(facets, k=rng.randint(0, 5)):
        right = rng.random() < 0.5
        more = f"{claim(facet, right)} {rng.choice(['Answer yes or no.', 'Yes or no?'])}"
        reply = assistant("yes" if right else "no")
        sample.messages.extend([user(more), {**reply, "clue": (articles(told), facet[1])}])
    return replace(sample, expect=sample.messages[-1]["content"])


def customer(rng: random.Random, test: bool) -> Sample:
    """Who should read a customer's message, out of a list in any order."""
    label = rng.choice(list(CUSTOMER))
    name = rng.choice(NAMES)
    while True:
        form = rng.choice(POLITE) + rng.choice(CUSTOMER[label]) + rng.choice(CLOSING)
        text = _fill(rng, form, name=name)
        if held_out(text) == test:
            break
    names = ", ".join(rng.sample(list(CUSTOMER), len(CUSTOMER)))
    asks = [
        "Classify the message. Labels: {}.",
        "Which label fits the message? {}.",
        "Choose one label: {}.",
    ]
    return _ask(rng, rng.choice(asks).format(names), text, label)


def make(rng: random.Random, test: bool) -> Sample:
    """A text to put into one of a few classes; the answer is one word."""
    kinds = [sentiment, topic, yes_no, customer]
    return rng.choice(kinds if test else [*kinds, yes_no, yes_no])(rng, test)


def check(sample: Sample, reply: str) -> bool:
    """Whether the reply is the label, whatever its case and closing period."""
    return norm(reply) == norm(sample.expect)


SKILLS = [Skill("classify", make, check)]
