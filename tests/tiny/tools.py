"""Function calls: one, two at once, none, and an answer from the result of a call."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiny.passages import norm
from tiny.sample import Sample, Skill, assistant, held_out, system, user
from tiny.talk import ASKS, FACTS, SMALL_TALK
from tiny.world import ANIMALS, CITIES, COLOURS, DAYS, FOODS, NAMES, ROOMS, THINGS, WEATHER

SONGS = ["Blue Sky", "Happy Day", "Red River", "Moon Song", "Summer Rain", "My Home", "Little Star"]
BOOKS = ["The Old Map", "The Red Kite", "The Lost Key", "The Brave Mouse", "The Last Ship",
         "The Quiet Lake", "The Golden Bell"]  # fmt: skip
LANGUAGES = ["French", "German", "Spanish", "Italian"]
MESSAGES = ["I am late.", "See you soon.", "Happy birthday!", "Call me today.", "Dinner is ready.",
            "I am at home.", "Thank you."]  # fmt: skip
Args = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """A toy function: how users ask for it, what it returns and how to say that."""

    name: str
    about: str
    values: dict[str, list[Any]]  # parameter -> possible values
    requests: list[str]
    thought: str
    results: Callable[[random.Random, Args], list[tuple[str, str]]]  # (tool's text, answer)

    def schema(self) -> dict[str, Any]:
        """The function in OpenAI form."""
        properties = {
            key: {"type": "integer" if isinstance(pool[0], int) else "string"}
            for key, pool in self.values.items()
        }
        parameters = {"type": "object", "properties": properties, "required": list(self.values)}
        function = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": function}


def _weather(rng: random.Random, args: Args) -> list[tuple[str, str]]:
    sky, warm = rng.choice(WEATHER), rng.randint(2, 35)
    place = f"in {args['city']} on {args['day']}"
    return [
        (json.dumps({"weather": sky, "degrees": warm}),
         f"It will be {sky} {place}, with {warm} degrees."),
        (sky, f"It will be {sky} {place}."),
    ]  # fmt: skip


def _time(rng: random.Random, args: Args) -> list[tuple[str, str]]:
    clock = f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
    return [
        (each, f"It is {clock} in {args['city']}.") for each in (clock, json.dumps({"time": clock}))
    ]


def _sum(_rng: random.Random, args: Args) -> list[tuple[str, str]]:
    total = args["a"] + args["b"]
    return [(each, f"The sum is {total}.") for each in (str(total), json.dumps({"result": total}))]


def _book(rng: random.Random, args: Args) -> list[tuple[str, str]]:
    shelf = rng.randint(1, 60)
    return [
        (json.dumps({"found": True, "shelf": shelf}), f"{args['title']} is on shelf {shelf}."),
        (json.dumps({"found": False}), f"I could not find {args['title']}."),
    ]


def _price(rng: random.Random, args: Args) -> list[tuple[str, str]]:
    coins = rng.randint(2, 99)
    said = f"The {args['item']} costs {coins} coins."
    return [(json.dumps({"price": coins}), said), (str(coins), said)]


def _translated(rng: random.Random, args: Args) -> list[tuple[str, str]]:
    word = "".join(
        rng.choice(["la", "mo", "ti", "ne", "ru", "so"]) for _ in range(rng.randint(2, 3))
    )
    said = f"The {args['language']} word for {args['word']} is {word}."
    return [(word, said), (json.dumps({"word": word}), said)]


def _done(text: str) -> Callable[[random.Random, Args], list[tuple[str, str]]]:
    """The results of a function that does something: it worked or it did not."""

    def results(_rng: random.Random, args: Args) -> list[tuple[str, str]]:
        fine = text.format_map(args)
        failed = "Sorry, that did not work."
        return [("ok", fine), (json.dumps({"ok": True}), fine), (json.dumps({"ok": False}), failed)]

    return results


TOOLS = [
    Tool("get_weather", "Weather of a city", {"city": CITIES, "day": DAYS},
         ["How is the weather in {city} on {day}?", "Will it rain in {city} on {day}?",
          "Tell me the weather for {day} in {city}."],
         "The user asks for the weather in {city} on {day}.", _weather),
    Tool("set_alarm", "Set an alarm", {"hour": list(range(24)), "minute": list(range(10, 60))},
         ["Set an alarm for {hour}:{minute}.", "Wake me up at {hour}:{minute}."],
         "The user wants an alarm at {hour}:{minute}.",
         _done("The alarm is set for {hour}:{minute}.")),
    Tool("send_message", "Send a message", {"to": NAMES, "text": MESSAGES},
         ['Send this message to {to}: "{text}"', 'Write to {to}: "{text}"', 'Tell {to}: "{text}"'],
         "The user wants to write to {to}.", _done("I sent your message to {to}.")),
    Tool("add", "Add two numbers", {"a": list(range(100, 1000)), "b": list(range(100, 1000))},
         ["What is {a} + {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?"],
         "The user wants the sum of {a} and {b}.", _sum),
    Tool("find_book", "Find a book", {"title": BOOKS},
         ['Where is the book "{title}"?', 'Find the book "{title}".',
          'I am looking for the book "{title}".'],
         "The user looks for a book.", _book),
    Tool("play_song", "Play a song", {"name": SONGS},
         ['Play "{name}".', 'Please play the song "{name}".', 'I want to hear "{name}".'],
         "The user wants to hear a song.", _done("Now playing {name}.")),
    Tool("turn_light", "Turn a light on or off", {"room": ROOMS, "state": ["on", "off"]},
         ["Turn the light in the {room} {state}.", "Please turn {state} the light in the {room}."],
         "The light in the {room} should be {state}.",
         _done("The light in the {room} is now {state}.")),
    Tool("buy", "Buy things", {"item": THINGS + FOODS, "count": list(range(2, 40))},
         ["Buy {count} of the item {item}.", "I want to buy {count} of the item {item}.",
          "Order {count} of this: {item}."],
         "The user wants to buy {count} of {item}.", _done("I bought {count} of the item {item}.")),
    Tool("get_time", "Time in a city", {"city": CITIES},
         ["What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?"],
         "The user asks for the time in {city}.", _time),
    Tool("translate", "Translate a word", {"word": ANIMALS + FOODS + COLOURS,
                                           "language": LANGUAGES},
         ["What is {word} in {language}?", 'Translate "{word}" into {language}.',
          "How do you say {word} in {language}?"],
         "The user wants {word} in {language}.", _translated),
    Tool("get_price", "Price of an item", {"item": THINGS},
         ["How much is the {item}?", "What does the {item} cost?",
          "Tell me the price of the {item}."],
         "The user asks for a price.", _price),
    Tool("add_note", "Save a note", {"day": DAYS, "text": MESSAGES},
         ['Save a note for {day}: "{text}"', 'Note for {day}: "{text}"'],
         "The user wants a note for {day}.", _done("I saved your note for {day}.")),
]  # fmt: skip


def _draw_call(rng: random.Random, test: bool, tool: Tool) -> tuple[str, Args]:
    """A request and its arguments; the two together decide the side."""
    while True:
        args = {key: rng.choice(pool) for key, pool in tool.values.items()}
        request = rng.choice(tool.requests).format_map(args)
        if held_out(request) == test:
            return request, args


def _offered(rng: random.Random, needed: list[Tool]) -> list[dict[str, Any]]:
    """The schemas of the needed tools and some others, in any order."""
    others = [tool for tool in TOOLS if tool not in needed]
    tools = needed + rng.sample(others, max(0, rng.randint(1, 3) - len(needed)))
    rng.shuffle(tools)
    return [tool.schema() for tool in tools]


def _sample(
    rng: random.Random, needed: list[Tool], turns: list[dict[str, Any]], thought: str, expect: Any
) -> Sample:
    """The conversation; `turns` ends with the reference answer."""
    thinking = rng.random() < 0.2
    if thinking:
        turns[-1]["reasoning_content"] = thought
    head = [system("You are a helpful assistant.")] if rng.random() < 0.2 else []
    return Sample("tools", head + turns, _offered(rng, needed), thinking, expect=expect)


def call(rng: random.Random, test: bool) -> Sample:
    """A request that needs one call."""
    tool = rng.choice(TOOLS)
    request, args = _draw_call(rng, test, tool)
    calls = [(tool.name, args)]
    turns = [user(request), assistant("", calls=calls)]
    return _sample(rng, [tool], turns, tool.thought.format_map(args), calls)


def two_calls(rng: random.Random, test: bool) -> Sample:
    """Two requests in one message and two calls in their order."""
    first, second = rng.choice(TOOLS), rng.choice(TOOLS)
    (request, args), (request2, args2) = (_draw_call(rng, test, each) for each in (first, second))
    calls = [(first.name, args), (second.name, args2)]
    needed = [first] if first is second else [first, second]
    said = f"{request} {rng.choice(['', 'And then: ', 'Also: '])}{request2}"
    thought = f"{first.thought.format_map(args)} {second.thought.format_map(args2)}"
    return _sample(rng, needed, [user(said), assistant("", calls=calls)], thought, calls)


def no_call(rng: random.Random, test: bool) -> Sample:
    """A question that needs no tool."""
    while True:
        question, answer = rng.choice(SMALL_TALK)
        if rng.random() < 0.75:
            question, answer, _ = rng.choice(FACTS)
            question = rng.choice(ASKS).format(question)
        if held_out(question) == test:
            turns = [user(question), assistant(answer)]
            return _sample(rng, [], turns, "No tool is needed.", answer)


def after_result(rng: random.Random, test: bool) -> Sample:
    """The result of a call is there: say it in words."""
    tool = rng.choice(TOOLS)
    request, args = _draw_call(rng, test, tool)
    result, answer = rng.choice(tool.results(rng, args))
    turns = [
        user(request),
        assistant("", calls=[(tool.name, args)]),
        {"role": "tool", "content": result},
        assistant(answer),
    ]
    return _sample(rng, [tool], turns, f"The tool says: {result}", answer)


def _exchange(rng: random.Random, test: bool) -> Sample:
    kinds = [call, two_calls, no_call, after_result]
    return rng.choices(kinds, [50, 10, 15, 25])[0](rng, test)


def make(rng: random.Random, test: bool) -> Sample:
    """A conversation with tools on offer; in training several exchanges share their schemas."""
    if test or rng.random() < 0.25:
        return _exchange(rng, test)
    exchanges = [_exchange(rng, False) for _ in range(rng.randint(2, 5))]
    turns = [m for one in exchanges for m in one.messages if m["role"] != "system"]
    names = {made["name"] for m in turns for made in m.get("tool_calls", [])}
    offered = _offered(rng, [tool for tool in TOOLS if tool.name in names])
    last = exchanges[-1]
    return Sample("tools", turns, offered, last.thinking, expect=last.expect)


def _parse(reply: str) -> list[tuple[str, dict[str, str]]]:
    """The calls of a reply in XML form."""
    calls = []
    if re.sub(r"<tool_call>.*?</tool_call>", "", reply, flags=re.DOTALL).strip():
        return []
    for body in re.findall(r"<tool_call>(.*?)</tool_call>", reply, re.DOTALL):
        match = re.fullmatch(r"\s*<function=([^>\n]+)>(.*)</function>\s*", body, re.DOTALL)
        if not match:
            return []
        pairs = re.findall(r"<parameter=([^>\n]+)>(.*?)</parameter>", match[2], re.DOTALL)
        calls.append((match[1], {key: value.strip() for key, value in pairs}))
    return calls


def _text(value: Any) -> str:
    """An argument as the XML form writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def check(sample: Sample, reply: str) -> bool:
    """Whether the reply makes the expected calls, or is the expected answer without a call."""
    if isinstance(sample.expect, str):
        return "<tool_call>" not in reply and norm(reply) == norm(sample.expect)
    expected = [(name, {key: _text(v) for key, v in args.items()}) for name, args in sample.expect]
    return _parse(reply.split("</think>")[-1]) == expected


SKILLS = [Skill("tools", make, check)]
