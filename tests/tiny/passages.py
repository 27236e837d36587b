"""Questions about a passage: facts among filler sentences, and one fact in a very long text."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiny.sample import Sample, Skill, assistant, draw, held_out, user
from tiny.stories import sentences
from tiny.world import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    MONTHS,
    NAMES,
    PETS,
    ROOMS,
    THINGS,
    TOWN,
    a,
)

UNKNOWN = "The passage does not say."
INSIDE = [*ROOMS, *TOWN, "forest", "cave", "field"]
CODES = list(range(100, 1000))
NUMBERS = list(range(10000, 100000))
SECRET = "The secret number of {} is {}."
SECRET_QUESTIONS = ["What is the secret number of {}?", "Which secret number does {} have?"]
LEADS = [
    "{passage}\n\n{question}",
    "{passage}\n\nQuestion: {question}",
    "Read the passage and answer the question.\n\n{passage}\n\n{question}",
    "Passage: {passage}\n\nQuestion: {question}",
]


@dataclass(frozen=True)
class Fact:
    """A sentence that answers some questions; no passage holds two facts of the same `key`."""

    key: tuple[str, ...]
    text: str
    questions: list[tuple[str, str]]  # question, answer


Maker = Callable[[random.Random, bool], Fact]


def norm(text: str) -> str:
    """A reply without its thoughts, case, doubled spaces and closing period."""
    return " ".join(text.split("</think>")[-1].lower().split()).rstrip(".! ")


def _where(rng: random.Random, test: bool) -> Fact:
    colour, thing, place = draw(rng, test, COLOURS, THINGS, INSIDE)
    it, spot = f"the {colour} {thing}", f"in the {place}"
    asked = [
        (f"Where is {it}?", f"In the {place}."),
        (f"Where can I find {it}?", f"In the {place}."),
    ]
    if rng.random() < 0.5:
        return Fact(("where", it), f"The {colour} {thing} is {spot}.", asked)
    name = rng.choice(NAMES)
    asked += [(f"Who put {it} {spot}?", f"{name}."), (f"Where did {name} put {it}?", asked[0][1])]
    return Fact(("where", it), f"{name} put {it} {spot}.", asked)


def _code(rng: random.Random, test: bool) -> Fact:
    place, code = draw(rng, test, [*ROOMS, *TOWN], CODES)
    asked = [f"What is the code of the {place}?", f"Which code does the {place} have?"]
    return Fact(("code", place), f"The code of the {place} is {code}.", _all(asked, f"{code}."))


def _all(questions: list[str], answer: str) -> list[tuple[str, str]]:
    """The same answer to each question."""
    return [(question, answer) for question in questions]


def _of_person(
    kind: str, values: list[str], answer: str, texts: list[str], questions: list[str]
) -> Maker:
    """Facts that give a person one of the values."""

    def make_fact(rng: random.Random, test: bool) -> Fact:
        name, value = draw(rng, test, NAMES, values)
        told = answer.format(value)
        asked = _all([question.format(name) for question in questions], told[0].upper() + told[1:])
        return Fact((kind, name), rng.choice(texts).format(name, value), asked)

    return make_fact


def _of_thing(
    kind: str, values: list[str], answer: str, texts: list[str], questions: list[str]
) -> Maker:
    """Facts that give a coloured thing one of the values."""

    def make_fact(rng: random.Random, test: bool) -> Fact:
        colour, thing, value = draw(rng, test, COLOURS, THINGS, values)
        it = f"the {colour} {thing}"
        asked = _all([question.format(it) for question in questions], answer.format(value))
        text = rng.choice(texts).format(it, value)
        return Fact((kind, it), text[0].upper() + text[1:], asked)

    return make_fact


def _meeting(rng: random.Random, test: bool) -> Fact:
    name, place, day = draw(rng, test, NAMES[::2], TOWN, DAYS)
    other = rng.choice(NAMES[1::2])
    asked = [
        (f"Where will {name} meet {other}?", f"At the {place}."),
        (f"When will {name} meet {other}?", f"On {day}."),
        (f"On which day will {name} meet {other}?", f"On {day}."),
        (f"Who will {name} meet at the {place}?", f"{other}."),
    ]
    text = rng.choice(["{} will meet {} at the {} on {}.", "{} wants to meet {} at the {} on {}."])
    return Fact(("meet", name), text.format(name, other, place, day), asked)


def _pet(rng: random.Random, test: bool) -> Fact:
    name, animal, pet = draw(rng, test, NAMES, ANIMALS, PETS)
    asked = [
        (f"What is the name of {name}'s {animal}?", f"{pet}."),
        (f"Which animal does {name} have?", f"{a(animal).capitalize()}."),
    ]
    return Fact(("pet", name), f"{name} has {a(animal)} named {pet}.", asked)


def _secret(rng: random.Random, test: bool) -> Fact:
    name, number = draw(rng, test, NAMES, NUMBERS)
    asked = [question.format(name) for question in SECRET_QUESTIONS]
    return Fact(("secret", name), SECRET.format(name, number), _all(asked, f"{number}."))


KINDS: list[Maker] = [
    _where, _where, _code, _code, _meeting, _pet, _secret, _secret, _secret,
    _of_person("food", FOODS, "{}.", ["{0}'s favourite food is {1}.",
                                      "{0} likes {1} best of all food."],
               ["What is {}'s favourite food?", "Which food does {} like best?"]),
    _of_person("colour", COLOURS, "{}.", ["{0}'s favourite colour is {1}."],
               ["What is {}'s favourite colour?", "Which colour does {} like best?"]),
    _of_person("job", [a(job) for job in JOBS], "{}.", ["{0} is {1}.", "{0} works as {1}."],
               ["What is {}'s job?", "What does {} work as?"]),
    _of_person("age", [str(age) for age in range(5, 60)], "{}.", ["{0} is {1} years old."],
               ["How old is {}?", "What is the age of {}?"]),
    _of_person("birthday", MONTHS, "In {}.", ["{0}'s birthday is in {1}.", "{0} was born in {1}."],
               ["When is {}'s birthday?", "In which month is {}'s birthday?"]),
    _of_person("city", CITIES, "In {}.", ["{0} lives in {1}.", "{0} has a house in {1}."],
               ["Where does {} live?", "In which city does {} live?"]),
    _of_thing("price", [str(n) for n in range(2, 100)], "{} coins.", ["{0} costs {1} coins."],
              ["How much does {} cost?", "What is the price of {}?"]),
    _of_thing("owner", NAMES, "{}.", ["{0} belongs to {1}.", "{1} owns {0}."],
              ["Who owns {}?", "Who is the owner of {}?"]),
]  # fmt: skip


def _facts(rng: random.Random, test: bool, kinds: list[Maker], n: int) -> list[Fact]:
    """Up to `n` facts that do not contradict each other; in tests the first is held out."""
    facts: dict[tuple[str, ...], Fact] = {}
    for i in range(n):
        fact = rng.choice(kinds)(rng, test and i == 0)
        facts.setdefault(fact.key, fact)
    return list(facts.values())


def _layout(rng: random.Random, lines: list[str]) -> str:
    """The sentences as one paragraph or, more often if there are many, as several."""
    if rng.random() < 0.5 and len(lines) < 30:
        return " ".join(lines)
    size = rng.randint(4, 9)
    return "\n\n".join(" ".join(lines[i : i + size]) for i in range(0, len(lines), size))


def make(rng: random.Random, test: bool, words: int | None = None) -> Sample:
    """A passage of about `words` words and questions about it: one in tests, else two to forty.

    Reading a passage costs more than its answers do, so training asks much of each.
    """
    if words is None:
        low, high = math.log(40), math.log(700)
        words = rng.randint(60, 1300) if test else round(math.exp(rng.uniform(low, high)))
    lines = max(4, round(words / 7))
    dense = rng.uniform(0.15, 0.7 if test else 1.0)
    kinds: list[Maker] = [_secret, _code] if rng.random() < 0.1 else KINDS
    unique = _facts(rng, test, kinds, max(2, round(lines * dense)))
    missing = [fact for fact in _facts(rng, test, kinds, 6)
               if fact.key not in {each.key for each in unique}]  # fmt: skip
    text = [fact.text for fact in unique] + sentences(rng, max(1, lines - len(unique)))
    rng.shuffle(text)
    passage = _layout(rng, text)

    asked = (
        unique[:1] if test else rng.sample(unique, min(len(unique), round(2 * 20 ** rng.random())))
    )
    thinking = rng.random() < 0.15
    messages: list[dict[str, Any]] = []
    for present in asked:
        absent = bool(missing) and rng.random() < 0.08
        fact = missing.pop() if absent else present
        question, answer = rng.choice(fact.questions)
        thought = f'The passage says: "{fact.text}"'
        if absent:
            answer, thought = UNKNOWN, "No sentence of the passage says this."
        if not messages:
            question = rng.choice(LEADS).format(passage=passage, question=question)
        messages += [user(question), assistant(answer, thought if thinking else "")]
        if not absent:
            messages[-1]["source"] = fact.text
    return Sample("passage", messages, thinking=thinking, expect=messages[-1]["content"])


def needle(rng: random.Random, test: bool, words: int, depth: float) -> Sample:
    """A text of `words` words with the asked secret number at `depth` (0 start, 1 end) of it.

    Training asks for some of the other numbers too.
    """
    name, number = draw(rng, test, NAMES, NUMBERS)
    others = rng.sample([each for each in NAMES if each != name], min(6, 1 + words // 60))
    lines = sentences(rng, max(2, round(words / 6.75) - len(others) - 1))
    secrets = {}
    for other in others:
        number2 = rng.randrange(10000, 100000)
        while number2 == number or held_out(other, number2) != test:
            number2 = rng.randrange(10000, 100000)
        secrets[other] = number2
        lines[rng.randrange(len(lines))] = SECRET.format(other, number2)
    kinds = [kind for kind in KINDS if kind is not _secret]
    for fact in _facts(rng, test, kinds, len(lines) // 25):
        spot = rng.randrange(len(lines))
        if not lines[spot].startswith("The secret"):
            lines[spot] = fact.text
    lines.insert(round(depth * len(lines)), SECRET.format(name, number))
    passage = "\n\n".join(" ".join(lines[i : i + 8]) for i in range(0, len(lines), 8))
    prompt = f"{passage}\n\n{SECRET_QUESTIONS[0].format(name)}"
    messages = [user(prompt), _told(name, number)]
    told = [(o, n) for o, n in secrets.items() if SECRET.format(o, n) in lines]
    for other, number2 in [] if test else rng.sample(told, min(len(told), 3)):
        question = SECRET_QUESTIONS[0].format(other)
        messages += [user(question), _told(other, number2)]
    return Sample("needle", messages, expect=messages[-1]["content"])


def _told(name: str, number: int) -> dict[str, Any]:
    """The answer to a question for a secret number."""
    return {**assistant(f"{number}."), "source": SECRET.format(name, number)}


def make_needle(rng: random.Random, test: bool) -> Sample:
    """A needle in a text of a length that training sees too."""
    words = round(math.exp(rng.uniform(math.log(60), math.log(700))))
    return needle(rng, test, words, rng.random())


def check(sample: Sample, reply: str) -> bool:
    """Whether the reply is the answer, whatever its case and closing period."""
    return norm(reply) == norm(sample.expect)


SKILLS = [Skill("passage", make, check), Skill("needle", make_needle, check)]
