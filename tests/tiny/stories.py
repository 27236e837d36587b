"""Short stories and descriptions of the toy world, and filler sentences without facts.

Every story has a child, an animal with a name and a place, so a request can name any of them.
"""

from __future__ import annotations

import random
import re

from tiny.sample import Sample, Skill, assistant, draw, user
from tiny.world import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    DRINKS,
    FOODS,
    GIRLS,
    JOBS,
    NAMES,
    PETS,
    PLACES,
    THINGS,
    WEATHER,
    a,
    possessive,
    pronoun,
)

TRAITS = ["kind", "brave", "clever", "quiet", "funny", "happy", "shy", "curious"]
INTROS = [
    "Once there was a {trait} {kid} named {hero}. {He} had {a_pet} named {pet}.",
    "{hero} was a {trait} {kid}. {His} best friend was {a_pet} named {pet}.",
    "Once there was {a_pet} named {pet}. {pet} lived with a {trait} {kid} named {hero}.",
    "{hero} and {a_pet} named {pet} were good friends.",
]
SCENES = [
    "One {weather} day, {hero} and {pet} went to the {place}.",
    "On {day}, they walked to the {place}. It was a {weather} day.",
    "One morning, {hero} took {pet} to the {place}.",
    "It was {weather}, so {hero} and {pet} played near the {place}.",
]
ENDINGS = [
    "{hero} was very happy.", "Then they all went home and ate {some_food}.",
    "From that day on, {hero} and {friend} were good friends.",
    "{hero} hugged {pet} and laughed. It was a good day.",
    "At night, {hero} told {his} mother about it. She smiled.", "And {pet} slept well that night.",
]  # fmt: skip
FRIEND = ['Then {friend} came by. "Can I help you?" asked {friend}.', "{hero} called {friend}."]
# A plot is a row of steps, a step a choice of wordings.
PLOTS: list[list[list[str]]] = [
    [
        ["{hero} wanted to play with {his} {thing}, but it was gone."],
        ['"Where is my {thing}?" asked {hero}.', '"Oh no, I lost my {thing}!" said {hero}.'],
        ["{He} looked here and there.", "{He} looked under the bench. It was not there."],
        ["But {pet} ran to a tree and found the {thing}.", "{pet} found it behind a big stone."],
        ['"Good {animal}!" said {hero}.', '"Thank you, {pet}!" said {hero}.'],
    ],
    [
        ["{pet} went up a tall tree and could not come down."],
        ['"Help!" cried {hero}. "{pet} is stuck!"', "{hero} was afraid for {pet}."],
        FRIEND,
        ["{friend} came with a ladder.", "Together they put a ladder at the tree."],
        ["{hero} went up and carried {pet} down.", "Step by step, {pet} came down."],
    ],
    [
        ["Soon dark clouds came and it began to rain.", "Then it rained and rained."],
        ["{hero} got wet and cold.", "{pet} did not like the rain."],
        ["They saw a small house with a {colour} door.",
         "They ran to a house with a {colour} door."],
        ['{friend} opened the door. "Come in," said {friend}.'],
        ["They drank warm {drink} and waited.", "They sat by the fire until the rain stopped."],
    ],
    [
        ["It was the birthday of {friend}.", "{friend} had a birthday on that day."],
        ["{hero} wanted to give {friend} a {thing}.", "{hero} had no gift for {friend}."],
        ["But the {thing} cost too much.", "{He} had only two coins."],
        ["So {hero} made a {thing} out of paper.", "So {he} painted an old {thing} {colour}."],
        ['"This is the best gift of all," said {friend}.', '{friend} loved the gift. "Thank you!"'],
    ],
    [
        ["{hero} dropped the {thing} and it broke.", "The {thing} fell down and broke."],
        ["{hero} began to cry.", '"Oh no!" said {hero}. {He} was sad.'],
        FRIEND,
        ['"We can fix it," said {friend}.', '{friend} said, "Do not cry. I have some glue."'],
        ["They fixed the {thing} together.", "Soon the {thing} was as good as new."],
    ],
    [
        ["They met a hungry {other}.", "A little {other} sat there. It was thin and hungry."],
        ['"I am so hungry," said the {other}.', "The {other} looked at the {food} of {hero}."],
        ["{hero} had only {some_food}.", "{hero} thought about it for a while."],
        ["{He} gave half of the {food} to the {other}.",
         "{He} shared the {food} with the {other}."],
        ['"You are very kind," said the {other}.', "The {other} ate and danced with joy."],
    ],
    [
        ["{friend} was there with a fast {other}.", "There they met {friend} and a {other}."],
        ['"Let us have a race!" said {friend}.', '"{pet} is slow," laughed {friend}.'],
        ["The {other} ran fast, but then it fell asleep.", "The {other} ran the wrong way."],
        ["{pet} did not stop.", "{pet} went on, step by step."],
        ['{pet} won the race. "Well done!" said {friend}.'],
    ],
    [
        ["They stayed too long and it got dark.", "Soon the sun went down."],
        ['"I am afraid of the dark," said {hero}.', "{hero} heard a strange sound and was afraid."],
        ["{pet} came close and was warm and soft.", "{pet} was not afraid at all."],
        ["Then {friend} came with a {colour} lamp.", "{friend} had a lamp and showed the way."],
        ['"Look, it was only an owl," said {friend}.', "Now the dark was not so bad."],
    ],
    [
        ["{hero} had a {thing}. {friend} wanted it too.",
         "{hero} and {friend} saw the same {thing}."],
        ['"It is mine!" said {hero}.', '"Give it to me!" said {friend}.'],
        ["They pulled and pulled, and {pet} looked sad.", "{friend} walked away and was sad."],
        ["{hero} felt bad about it.", '"I am sorry," said {hero}.'],
        ['"We can share it," said {hero}.', "So they took turns with the {thing}."],
    ],
    [
        ["{hero} wanted to bake a cake for {friend}.", "{hero} wanted to make a soup."],
        ["But there was no {drink} left.", '"Oh, we need some {drink}," said {hero}.'],
        ["{pet} knew a cow that gave milk.", "{hero} asked a farmer for help."],
        ["Then they mixed it all in a {colour} bowl.", "They worked until noon."],
        ['"This is so good!" said {friend}.', "It smelled so good that {friend} came at once."],
    ],
    [
        ["All at once, {pet} ran away.", "{hero} looked around. {pet} was gone!"],
        ['"{pet}! Where are you?" called {hero}.', "{hero} called and called, but no one came."],
        ['"Did you see {my_pet}?" {he} asked {friend}.', FRIEND[0]],
        ["They saw small steps in the mud.", "Then they heard a soft sound."],
        ["{pet} sat in a big box and slept.", "{pet} was safe. It played with a {other}."],
    ],
    [
        ["A new {kid2} named {friend} sat there all alone.", "{friend} was new in town and sad."],
        ['"Why are you sad?" asked {hero}.', '"Hello, I am {hero}," said {hero}.'],
        ['"I have no friends here," said {friend}.', '"I miss my old home," said {friend}.'],
        ["{hero} gave {friend} a {thing}.", '"Come and play with us!" said {hero}.'],
        ["They played until the evening.", "{pet} jumped around them and {friend} laughed."],
    ],
    [
        ["They came to a wide river with no bridge.", "A deep river was in the way."],
        ['"How can we cross it?" asked {hero}.', "{pet} could not swim."],
        ["They saw a fallen tree.", "{hero} found a long rope."],
        ["A {other} said, \"Hold on to me.\"", "A {other} showed them the best way."],
        ["Slowly, they came to the other side.", '"We did it!" cried {hero}.'],
    ],
    [
        ["{hero} wanted to play the drum.", "{hero} wanted to learn how to swim."],
        ["At first it was very hard.", '"I can not do it," said {hero}.'],
        ['"Try again," said {friend}.', "{friend} showed {hero} how to do it."],
        ["{hero} tried again and again.", "{He} tried each day for a week."],
        ['At last {he} could do it. "Look at me!"', '"See, I knew it," said {friend}.'],
    ],
    [
        ["{hero} found an old map.", "There was an old map under a stone."],
        ['"It shows a treasure!" said {hero}.', "It showed a way to a big tree."],
        ["They walked ten steps and began to dig.", "{pet} dug a deep hole."],
        ["In the hole was a {colour} box.", "There they found a box."],
        ["It was full of {colour} coins.", "A {colour} {thing} was in the box."],
    ],
]  # fmt: skip
REQUESTS = [
    "Tell me a story about {a_animal} named {pet}.",
    "Write a short story about a {kid} named {hero}.",
    "Tell me a story about {hero} and {a_animal} named {pet}.",
    "Can you tell a story about {hero}?",
    "Please write a story about {a_animal} named {pet} and a {kid} named {hero}.",
]  # fmt: skip
PEOPLE = [
    "{hero} is {a_job} and lives in {city}.", "{He} has {colour} shoes and a {colour2} {thing}.",
    "{He} is {trait} and likes to laugh.", "Each {day} {he} goes to the {place}.",
    "{His} best friend is {friend}.", "In the evening {he} drinks {drink} and reads.",
]  # fmt: skip
CREATURES = [
    "{pet} is a {colour} {animal}.", "It is {trait} and has soft ears.", "It likes to eat {foods}.",
    "It sleeps near the {place}.", "When it is {weather}, {pet} stays at home.",
    "{hero} plays with {pet} each {day}.",
]  # fmt: skip
SIGHTS = [
    "The {place} is a quiet place.", "There is a {colour} bench under an old tree.",
    "On a {weather} day many people come.", "You can hear {a_animal} there.",
    "{hero} likes to walk there with {friend}.", "In the morning the air smells of {food}.",
]  # fmt: skip
TIMES = [
    "{day} was a {weather} day.", "In the morning {hero} ate {some_food} and drank {drink}.",
    "Then {he} went to the {place}.", "There {he} met {friend}, and they played with a {thing}.",
    "A {colour} {animal} came and sat with them.", "At night {hero} was tired but happy.",
]  # fmt: skip
FILLER = [
    "The sun was warm and the sky was clear.", "A {trait} {animal} ran over the grass.",
    "The wind moved the leaves of the old tree.", "{name} smiled and waved to {name2}.",
    "Some children played near the {place}.", "It was {weather} all morning.",
    "{name} walked slowly past the {place}.", "Nobody said a word for a while.",
    "A {colour} leaf fell to the ground.", "{name} told {name2} a funny story.",
    "The {animal} looked up and listened.", "Far away, a bell began to ring.",
    "{name} opened the window and looked out.", "Two birds sang on the roof.",
    "The clouds were big and {colour}.", "{name} and {name2} laughed for a long time.",
    "{name} was tired after the long walk.", "The {animal} slept in the sun.",
    "Then it began to rain a little.", "{name} helped {name2} to carry a bag.",
    "In the evening the air was cool.", "People talked and drank warm {drink}.",
    "{name} thought about the next day.", "The little {animal} was not afraid.",
    "There was a soft sound from the {place}.", "The stars were bright that night.",
]  # fmt: skip


class _Words(dict[str, str]):
    """A new word at each look-up."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def __missing__(self, key: str) -> str:
        pool = POOLS[key]
        return pool[int(self.rng.random() * len(pool))]


POOLS = {
    "trait": TRAITS, "animal": ANIMALS, "name": NAMES[::2], "name2": NAMES[1::2], "place": PLACES,
    "weather": WEATHER, "colour": COLOURS, "drink": DRINKS,
}  # fmt: skip


def articles(text: str) -> str:
    """The text with "an" before vowels."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def plural(food: str) -> str:
    """More than one of what can be counted, else the food itself."""
    return food if food in ("bread", "soup", "cheese", "rice") else f"{food}s"


def sentences(rng: random.Random, n: int) -> list[str]:
    """`n` sentences of stories that state none of the facts that passages ask for."""
    words = _Words(rng)
    return [articles(rng.choice(FILLER).format_map(words)) for _ in range(n)]


def _cast(rng: random.Random, test: bool) -> dict[str, str]:
    """The words that fill the templates of one story."""
    hero, thing, place = draw(rng, test, NAMES, THINGS, PLACES)
    friend = rng.choice([name for name in NAMES if name != hero])
    animal, other = rng.sample(ANIMALS, 2)
    colour, colour2 = rng.sample(COLOURS, 2)
    food = rng.choice(FOODS)
    he, his, job = pronoun(hero), possessive(hero), rng.choice(JOBS)
    return {
        "hero": hero, "friend": friend, "thing": thing, "place": place, "animal": animal,
        "other": other, "colour": colour, "colour2": colour2, "pet": rng.choice(PETS),
        "he": he, "He": he.capitalize(), "his": his, "His": his.capitalize(),
        "kid": "girl" if hero in GIRLS else "boy", "kid2": "girl" if friend in GIRLS else "boy",
        "a_animal": a(animal), "a_pet": a(f"{rng.choice(COLOURS)} {animal}"),
        "my_pet": f"my {animal}", "a_job": a(job), "city": rng.choice(CITIES),
        "trait": rng.choice(TRAITS), "weather": rng.choice(WEATHER), "day": rng.choice(DAYS),
        "food": food, "foods": plural(food), "some_food": f"some {plural(food)}",
        "drink": rng.choice(DRINKS),
    }  # fmt: skip


def _tell(rng: random.Random, cast: dict[str, str]) -> str:
    """A story of the cast."""
    steps = [INTROS, SCENES, *rng.choice(PLOTS), ENDINGS]
    lines = [rng.choice(step) for step in steps]
    while "{friend}" in lines[-1] and "{friend}" not in "".join(lines[:-1]):
        lines[-1] = rng.choice(ENDINGS)
    return articles(" ".join(lines).format_map(cast))


def story(rng: random.Random, test: bool) -> str:
    """A story with a problem, help and a happy end."""
    return _tell(rng, _cast(rng, test))


def description(rng: random.Random, test: bool) -> str:
    """A few sentences about a person, an animal, a place or a day."""
    first, *rest = rng.choice([PEOPLE, CREATURES, SIGHTS, TIMES])
    chosen = sorted(rng.sample(range(len(rest)), rng.randint(3, len(rest))))
    lines = [first, *(rest[i] for i in chosen)]
    if first.startswith("{day}") and 0 not in chosen:
        lines.insert(1, rest[0])  # names the hero
    return articles(" ".join(lines).format_map(_cast(rng, test)))


def make(rng: random.Random, test: bool) -> Sample:
    """A story or description as plain text, or a story that someone asked for."""
    kind = rng.random()
    if kind < 0.15:
        cast = _cast(rng, test)
        request = rng.choice(REQUESTS).format_map(cast)
        return Sample("story", messages=[user(request), assistant(_tell(rng, cast))])
    text = description(rng, test) if kind < 0.35 else story(rng, test)
    return Sample("story", text=text)


def check(sample: Sample, reply: str) -> bool:
    """A story has no single right reply: anything but silence passes."""
    return sample.skill == "story" and bool(reply.strip())


SKILLS = [Skill("story", make, check)]
