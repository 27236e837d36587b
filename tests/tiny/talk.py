"""Chats: personas, memory of earlier turns, sums, letters, ages and knowledge of the world."""

from __future__ import annotations

import random
from typing import Any

from tiny.passages import norm
from tiny.sample import Sample, Skill, assistant, draw, held_out, system, user
from tiny.stories import articles
from tiny.world import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    MONTHS,
    NAMES,
    OPPOSITES,
    PETS,
    SOUNDS,
    THINGS,
    a,
)

Turns = list[dict[str, Any]]
ROLES = ["friendly helper", "kind teacher", "funny robot", "helpful assistant", "quiet guide"]
SYSTEMS = ["You are a helpful assistant.", "You are a friendly helper.", "Give short answers."]
ONE_WORD = ["Answer in one word.", "Use only one word.", "Give one word as the answer."]
ASKS = ["{}", "Please tell me: {}", "I have a question. {}", "Tell me: {}", "Hi! {}", "Quick: {}"]
SMALL_TALK = [
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there!", "Hi! What can I do for you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("How are you?", "I am fine, thank you. And you?"),
    ("How are you today?", "I am very well, thank you."),
    ("I am tired today.", "I am sorry to hear that. Take some rest."),
    ("I am so happy!", "That is great to hear!"),
    ("It is a sunny day.", "That sounds nice. Enjoy the sun!"),
    ("It is raining here.", "Then take a coat with you."),
    ("Thank you!", "You are welcome!"),
    ("Thanks for your help.", "You are welcome!"),
    ("You are funny.", "Thank you! I try my best."),
    ("I am hungry.", "Then you should eat something good."),
    ("Goodbye!", "Goodbye! Have a nice day."),
    ("Good night!", "Good night! Sleep well."),
]
# Each: what the user says ({0} is the value), the reply, the later questions, the later answer.
MEMORIES: list[tuple[list[str], list[str], str, list[str], str]] = [
    (NAMES, ["My name is {0}.", "I am {0}.", "Hello, I am {0}."], "Nice to meet you, {0}!",
     ["What is my name?", "Do you know my name?", "Who am I?"], "Your name is {0}."),
    (COLOURS, ["My favourite colour is {0}.", "I like {0} best of all colours."],
     "{0} is a nice colour.", ["What is my favourite colour?", "Which colour do I like best?"],
     "Your favourite colour is {0}."),
    (FOODS, ["My favourite food is {0}.", "I like {0} best of all food."], "That sounds good!",
     ["What is my favourite food?", "Which food do I like best?"], "Your favourite food is {0}."),
    (CITIES, ["I live in {0}.", "My home is in {0}."], "{0} is a nice city.",
     ["Where do I live?", "In which city do I live?"], "You live in {0}."),
    ([str(age) for age in range(5, 60)], ["I am {0} years old."], "Thank you for telling me.",
     ["How old am I?", "What is my age?"], "You are {0} years old."),
    ([a(job) for job in JOBS], ["I am {0}.", "I work as {0}."], "That is a nice job.",
     ["What is my job?", "What do I work as?"], "You are {0}."),
    ([f"{animal} named {pet}" for animal in ANIMALS for pet in PETS],
     ["I have a pet. It is a {0}.", "My pet is a {0}."], "How nice!",
     ["What pet do I have?", "What did I say about my pet?"], "You have a {0}."),
]  # fmt: skip
WORK = {
    "teacher": "teaches children", "baker": "bakes bread", "doctor": "helps sick people",
    "farmer": "grows food", "sailor": "sails a ship", "painter": "paints pictures",
    "driver": "drives a car", "singer": "sings songs",
}  # fmt: skip
LOOKS = {
    "grass": "green", "snow": "white", "the sky": "blue", "a carrot": "orange", "the sun": "yellow",
    "milk": "white", "coal": "black", "blood": "red", "a tree leaf": "green", "the night": "black",
}  # fmt: skip
LEGS = {"dog": "four", "cat": "four", "bird": "two", "horse": "four", "cow": "four", "duck": "two",
        "fox": "four", "bear": "four", "mouse": "four", "owl": "two", "fish": "zero"}  # fmt: skip


def _knowledge() -> list[tuple[str, str, str]]:
    """Question, answer in a sentence, answer in one word or the same sentence."""
    facts = [
        (f"What does {a(x)} say?", f"{a(x).capitalize()} says {y}.", y) for x, y in SOUNDS.items()
    ]
    facts += [(f"What colour is {x}?", f"{x.capitalize()} is {y}.", y) for x, y in LOOKS.items()]
    facts += [(f"What does {a(x)} do?", f"{a(x).capitalize()} {y}.", "") for x, y in WORK.items()]
    facts += [(f"Who {y}?", f"{a(x).capitalize()} {y}.", x) for x, y in WORK.items()]
    facts += [(f"How many legs does {a(x)} have?", f"{a(x).capitalize()} has {y} legs.", y)
              for x, y in LEGS.items()]  # fmt: skip
    for cycle, unit in ((DAYS, "day"), (MONTHS, "month")):
        for this, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            facts += [
                (
                    f"Which {unit} comes after {this}?",
                    f"{following} comes after {this}.",
                    following,
                ),
                (
                    f"Which {unit} comes before {following}?",
                    f"{this} comes before {following}.",
                    this,
                ),
            ]
    for pair in OPPOSITES:
        facts += [(f"What is the opposite of {x}?", f"The opposite of {x} is {y}.", y)
                  for x, y in (pair, pair[::-1])]  # fmt: skip
    return facts


FACTS = _knowledge()
WORDS = [*THINGS, *ANIMALS, *FOODS, *COLOURS]


def _chat(rng: random.Random, turns: Turns, thinking: bool = False, head: str = "") -> Sample:
    """The turns after an optional system message and some small talk."""
    before: Turns = []
    for said, reply in rng.sample(SMALL_TALK[:-2], rng.choice([0, 0, 0, 1, 1, 2])):
        before += [user(said), assistant(reply)]
    if not head and rng.random() < 0.3:
        head = rng.choice(SYSTEMS)
    messages = [*([system(head)] if head else []), *before, *turns]
    return Sample("chat", messages, thinking=thinking, expect=turns[-1]["content"])


def small_talk(rng: random.Random) -> Sample:
    """Greetings and kind words alone."""
    turns: Turns = []
    for said, reply in rng.sample(SMALL_TALK, rng.randint(1, 3)):
        turns += [user(said), assistant(reply)]
    return Sample("chat", turns, expect=turns[-1]["content"])


def persona(rng: random.Random, test: bool) -> Sample:
    """The system message says who the assistant is."""
    name, role = draw(rng, test, [*PETS, *NAMES], ROLES)
    head = rng.choice(["You are {}, a {}.", "Your name is {}. You are a {}."]).format(name, role)
    question, answer = rng.choice(
        [
            ("What is your name?", f"My name is {name}."),
            ("Can you tell me your name?", f"My name is {name}."),
            ("Who are you?", f"I am {name}, a {role}."),
            ("What are you?", f"I am a {role}."),
        ]
    )
    return _chat(rng, [user(question), assistant(answer)], head=head)


def memory(rng: random.Random, test: bool) -> Sample:
    """The user asks for something that was said some turns ago."""
    while True:
        turns = _remembered(rng)
        if held_out(*(turn["content"] for turn in turns)) == test:
            return _chat(rng, turns)


def _remembered(rng: random.Random) -> Turns:
    """One to three facts about the user, perhaps small talk, and a question about a fact."""
    turns: Turns = []
    last: list[Turns] = []
    chosen = rng.sample(MEMORIES, rng.choice([1, 2, 2, 3]))
    for values, said, reply, questions, answer in chosen:
        value = rng.choice(values)
        told = reply.format(value)
        turns += [
            user(articles(rng.choice(said).format(value))),
            assistant(told[0].upper() + told[1:]),
        ]
        last.append([user(rng.choice(questions)), assistant(articles(answer.format(value)))])
    if len(chosen) == 1 or rng.random() < 0.4:
        said_too, heard = rng.choice(SMALL_TALK[3:-2])
        turns += [user(said_too), assistant(heard)]
    return turns + rng.choice(last)


def steps(x: int, sign: str, y: int) -> str:
    """How to work out the sum or difference of two numbers below 100."""
    ones, tens = y % 10, y // 10 * 10
    if sign == "-":
        if not (ones and tens):
            return f"{x} - {y} = {x - y}."
        return f"{x} - {y}: {x} - {tens} = {x - tens}, {x - tens} - {ones} = {x - y}."
    if x < 10 and y < 10:
        return f"{x} + {y} = {x + y}."
    text = f"{x} + {y}: {x % 10} + {ones} = {x % 10 + ones}"
    if x >= 10 and y >= 10:
        text += f", {x // 10 * 10} + {tens} = {x // 10 * 10 + tens}"
    return f"{text}, {x // 10 * 10 + tens} + {x % 10 + ones} = {x + y}."


def arithmetic(rng: random.Random, test: bool) -> Sample:
    """A sum or difference of numbers up to 50."""
    small = rng.random() < 0.4
    pool = list(range(21 if small else 51))
    x, sign, y = draw(rng, test, pool, ["+", "-"], pool)
    if sign == "-" and x < y:
        return arithmetic(rng, test)
    result = x + y if sign == "+" else x - y
    word = "plus" if sign == "+" else "minus"
    asks = [f"What is {x} {sign} {y}?", f"{x} {sign} {y} = ?", f"How much is {x} {word} {y}?"]
    thinking = rng.random() < 0.5
    thought = steps(x, sign, y) if thinking else ""
    return _chat(rng, [user(rng.choice(asks)), assistant(f"{result}.", thought)], thinking)


def letters(rng: random.Random, test: bool) -> Sample:
    """How many letters a word has."""
    word, wording = draw(rng, test, WORDS, ['the word "{}"', '"{}"', "the word {}"])
    thinking = rng.random() < 0.5
    counted = ", ".join(f"{letter} {i}" for i, letter in enumerate(word, 1))
    thought = f"{counted}. So there are {len(word)}." if thinking else ""
    question = f"How many letters are in {wording.format(word)}?"
    return _chat(rng, [user(question), assistant(f"{len(word)}.", thought)], thinking)


def ages(rng: random.Random, test: bool) -> Sample:
    """Who of two or three persons is the oldest or youngest."""
    count = rng.choice([2, 2, 3])
    people, years = rng.sample(NAMES, count), rng.sample(range(4, 60), count)
    people[0], people[1], years[0] = draw(rng, test, NAMES, NAMES, list(range(4, 60)))
    if len(set(people)) < count or len(set(years)) < count:
        return ages(rng, test)
    order = sorted(zip(years, people, strict=True))
    old = rng.random() < 0.5
    ending = "er" if count == 2 else "est"
    degree = f"{'old' if old else 'young'}{ending}"
    told = " ".join(f"{name} is {age}." for name, age in zip(people, years, strict=True))
    asked = f"Who is {degree}?" if count == 2 else f"Who is the {degree}?"
    age, name = order[-1 if old else 0]
    thinking = rng.random() < 0.5
    row = " < ".join(str(each) for each, _ in order)
    thought = f"{row}. {name} is {age}." if thinking else ""
    return _chat(rng, [user(f"{told} {asked}"), assistant(f"{name}.", thought)], thinking)


def knowledge(rng: random.Random, test: bool) -> Sample:
    """What the toy world knows, in a sentence or in one word."""
    while True:
        (question, answer, word), ask = rng.choice(FACTS), rng.choice(ASKS)
        style = rng.choice(["", *ONE_WORD]) if word else ""
        if held_out(question, ask, style) == test:
            break
    head = ""
    if style:
        answer = f"{word[0].upper()}{word[1:]}."
        head, question = (style, question) if rng.random() < 0.5 else ("", f"{question} {style}")
    return _chat(rng, [user(ask.format(question)), assistant(answer)], head=head)


KINDS = [persona, memory, memory, arithmetic, arithmetic, letters, ages, knowledge, knowledge]


def make(rng: random.Random, test: bool) -> Sample:
    """A chat that, in tests, ends with a question of one right answer."""
    if not test and rng.random() < 0.08:
        return small_talk(rng)
    return rng.choice(KINDS)(rng, test)


def check(sample: Sample, reply: str) -> bool:
    """Whether the reply is the answer, whatever its case and closing period."""
    return norm(reply) == norm(sample.expect)


SKILLS = [Skill("chat", make, check)]
