"""Exact copies, edits of small functions, and plain code-like text."""

from __future__ import annotations

import random
import re

from tiny.sample import Sample, Skill, assistant, draw, held_out, user
from tiny.world import ANIMALS, CITIES, COLOURS, DAYS, DRINKS, FOODS, NAMES, PLACES, THINGS

VARIABLES = ["x", "y", "n", "value", "count", "item", "number", "size", "first", "price", "name"]
FRESH = ["total", "result", "amount", "score", "limit", "part", "width", "data", "text", "index"]
FUNCTIONS = ["double", "add_one", "check", "make_list", "get_sum", "show", "find", "is_big", "area"]
RENAMED = ["compute", "run", "update", "test_value", "build", "measure", "read_all", "solve"]
WORDS = [*THINGS, *ANIMALS, *FOODS, *DRINKS, *COLOURS, *NAMES, *CITIES, *PLACES]
# {f} function, {v} variable, {w} another variable, {k} and {m} numbers, {s} a word
BODIES = [
    "def {f}({v}):\n    return {v} * {k}",
    "def {f}({v}):\n    {w} = {v} + {k}\n    return {w}",
    "def {f}({v}, {w}):\n    return {v} + {w} * {k}",
    "def {f}({v}):\n    if {v} > {k}:\n        return {v}\n    return {m}",
    "def {f}({v}):\n    {w} = 0\n    for i in range({k}):\n        {w} += {v}\n    return {w}",
    'def {f}({v}):\n    print("{s}", {v})\n    return {v} - {k}',
    "def {f}({v}):\n    while {v} > {k}:\n        {v} = {v} - {m}\n    return {v}",
    'def {f}({v}, {w}):\n    if {v} == {w}:\n        return "{s}"\n    return {v} + {k}',
    "def {f}({v}):\n    {w} = [{k}, {m}]\n    {w}.append({v})\n    return {w}",
]
COPY_ASKS = [
    "Repeat this text.",
    "Copy this text.",
    "Repeat exactly.",
    "Write the same text again.",
]
LIST_ASKS = ["Copy the list.", "Repeat the list.", "Write the same list again."]
CODE_ASKS = ["Copy this code.", "Repeat this code."]
KEYS = ["name", "port", "size", "path", "mode", "colour", "user", "limit", "city", "debug"]
SIGNS = [("+", "-"), ("-", "+"), ("*", "+"), (">", "<"), ("==", "!=")]
SECTIONS = ["server", "user", "window", "game", "shop"]


def _function(rng: random.Random, test: bool) -> tuple[str, dict[str, str]]:
    """A small function and the words in it."""
    f, v, body = draw(rng, test, FUNCTIONS, VARIABLES, BODIES)
    w = rng.choice([each for each in VARIABLES if each != v])
    k, m = rng.sample(range(2, 60), 2)
    words = {"f": f, "v": v, "w": w, "k": str(k), "m": str(m), "s": rng.choice(WORDS)}
    return body.format_map(words), words


def _random_text(rng: random.Random) -> str:
    """Words and numbers that make no sense together."""
    count = rng.choice([rng.randint(2, 10), rng.randint(5, 25), rng.randint(10, 45)])
    return " ".join(
        str(rng.randrange(10000)) if rng.random() < 0.2 else rng.choice(WORDS) for _ in range(count)
    )


def _random_list(rng: random.Random) -> str:
    """A list of words with bullets, numbers or commas."""
    items = [rng.choice(WORDS) for _ in range(rng.randint(3, 15))]
    form = rng.randrange(3)
    if form == 0:
        return ", ".join(items)
    lines = [f"- {item}" if form == 1 else f"{i}. {item}" for i, item in enumerate(items, 1)]
    return "\n".join(lines)


def config(rng: random.Random) -> str:
    """A configuration file of `key = value` lines."""
    values = [
        str(rng.randint(1, 9000)),
        rng.choice(WORDS),
        "true",
        "false",
        f'"{rng.choice(WORDS)}"',
    ]
    lines = [f"[{rng.choice(SECTIONS)}]"] if rng.random() < 0.5 else []
    lines += [f"{key} = {rng.choice(values)}" for key in rng.sample(KEYS, rng.randint(3, 7))]
    return "\n".join(lines)


def table(rng: random.Random) -> str:
    """Lines of comma-separated values under a header."""
    columns = rng.sample(
        [("name", NAMES), ("city", CITIES), ("day", DAYS), ("item", THINGS), ("colour", COLOURS),
         ("count", range(1, 100)), ("price", range(1, 100))],
        rng.randint(2, 4),
    )  # fmt: skip
    rows = [[str(rng.choice(pool)) for _, pool in columns] for _ in range(rng.randint(2, 7))]
    return "\n".join(",".join(row) for row in [[name for name, _ in columns], *rows])


def copy(rng: random.Random, test: bool) -> Sample:
    """A text to repeat letter by letter."""
    kind = rng.random()
    while True:
        if kind < 0.45:
            text, ask = _random_text(rng), rng.choice(COPY_ASKS)
        elif kind < 0.75:
            text, ask = _random_list(rng), rng.choice(LIST_ASKS)
        elif kind < 0.85:
            text, ask = rng.choice([config, table])(rng), rng.choice(COPY_ASKS)
        else:
            text, ask = _function(rng, test)[0], rng.choice(CODE_ASKS)
        if held_out(text) == test:
            break
    prompt = f"{ask}\n\n{text}" if rng.random() < 0.7 else f"{text}\n\n{ask}"
    return Sample("copy", [user(prompt), assistant(text)], expect=text)


def edit(rng: random.Random, test: bool) -> Sample:
    """A function to write again with one change."""
    text, words = _function(rng, test)
    kind = rng.randrange(4)
    old, new = words["v"], rng.choice(FRESH)
    asks = ["Rename {} to {}.", "Rename the variable {} to {}.", "Use the name {1} instead of {0}."]
    if kind == 1:
        old, new = words["f"], rng.choice(RENAMED)
        asks = ["Rename {} to {}.", "Rename the function {} to {}."]
    elif kind == 2:
        old, new = words["k"], str(rng.choice([n for n in range(60, 100) if n % 10]))
        asks = ["Change {} to {}.", "Replace {} by {}.", "Use {1} instead of {0}."]
    elif kind == 3:
        old, new = rng.choice([pair for pair in SIGNS if f" {pair[0]} " in text] or [SIGNS[0]])
        asks = ["Change {} to {}.", "Replace {} by {}.", "Use {1} instead of {0}."]
    answer = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, text)
    if kind == 3:
        answer = text.replace(f" {old} ", f" {new} ")
    if answer == text:
        return edit(rng, test)
    ask = rng.choice(asks).format(old, new)
    prompt = f"{ask}\n\n{text}" if rng.random() < 0.6 else f"{text}\n\n{ask}"
    return Sample("copy", [user(prompt), assistant(answer)], expect=answer)


def plain(rng: random.Random) -> Sample:
    """Code, a configuration or a table as text to continue."""
    kind = rng.randrange(4)
    if kind == 0:
        text = config(rng)
    elif kind == 1:
        text = table(rng)
    else:
        text = "\n\n\n".join(_function(rng, False)[0] for _ in range(rng.randint(1, 3)))
    return Sample("copy", text=text)


def make(rng: random.Random, test: bool) -> Sample:
    """A copy or an edit; in training also plain text."""
    kind = rng.random()
    if not test and kind < 0.1:
        return plain(rng)
    return copy(rng, test) if kind < 0.6 else edit(rng, test)


def check(sample: Sample, reply: str) -> bool:
    """Whether the reply is the same text, up to white space around it."""
    if sample.text:
        return bool(reply.strip())
    return reply.split("</think>")[-1].strip() == str(sample.expect).strip()


SKILLS = [Skill("copy", make, check)]
