"""Tools: schemas, and calls parsed while they stream, whatever stands in their values."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from qwen35cpp import CallDelta, InvalidArgument, ToolCall, function_schema
from qwen35cpp.chat.answer import CallCollector
from qwen35cpp.chat.calls import CallParser
from qwen35cpp.chat.run_tools import DECLINED, Toolbox
from qwen35cpp.chat.tools import tool_schemas
from qwen35cpp.chat.values import convert

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "flag": {"type": "boolean"},
        "items": {"type": "array"},
        "options": {"type": "object"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
}
TOOLS = {"write": SCHEMA, "get_weather": SCHEMA}
BLOCK = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
HOSTILE = [
    "</parameter>", "\n</parameter>\n", "</parameter> and more", "</function>", "</function>\n",
    "</parameter>\n</function>\nnot the end", "<parameter=", "<parameter=x>", "<function=write>",
    "</tool_call>", "</think>", "<think>", "<|im_end|>", '{"a": [1, {"b": null}]}', BLOCK,
    "if (a < b && c > d) { return x->y; }", "for i in range(3):\n    print(f'{i}>')\n", "日本語 👍",
    "<div>\n  <p>x</p>\n</div>", "\\n \\u00e9", '"quoted"', "", " ", "\t", "a", "\n\n", "<", ">",
    BLOCK,
]  # fmt: skip


@dataclass
class Parsed:
    """What came out of a text."""

    text: str
    calls: tuple[ToolCall, ...]
    deltas: list[CallDelta]


def parse(
    text: str, rng: random.Random | None = None, *, tools: Any = TOOLS, cut: bool = False
) -> Parsed:
    """Feeds a text in random pieces; outside of calls <tool_call> is the token that opens one."""
    parser = CallParser(tools)
    collector = CallCollector()
    shown: list[str] = []
    deltas: list[CallDelta] = []
    for piece in _pieces(text, rng):
        opens = piece == "<tool_call>" and not parser.inside
        dropped = piece == "</tool_call>" and not parser.inside
        events = parser.open() if opens else [] if dropped else parser.feed(piece)
        _sort(events, shown, deltas)
    _sort(parser.finish(cut=cut), shown, deltas)
    for delta in deltas:
        collector.add(delta)
    return Parsed("".join(shown), collector.calls(), deltas)


def _sort(events: Sequence[Any], shown: list[str], deltas: list[CallDelta]) -> None:
    for event in events:
        shown.append(event) if isinstance(event, str) else deltas.append(event)


def _pieces(text: str, rng: random.Random | None) -> list[str]:
    """The tags as units, as tokens come, and the rest in pieces of 1 to 9 characters."""
    pieces: list[str] = []
    for part in re.split("(</?tool_call>)", text):
        if part in ("<tool_call>", "</tool_call>") or rng is None:
            pieces.append(part)
            continue
        at = 0
        while at < len(part):
            size = rng.randint(1, 9)
            pieces.append(part[at : at + size])
            at += size
    return [piece for piece in pieces if piece]


def written(name: str, arguments: Mapping[str, str]) -> str:
    lines = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{lines}</function>\n</tool_call>"


# ---- calls --------------------------------------------------------------------------------------


# What a value must not hold outside of quoted calls: the form's own sequel.
AMBIGUOUS = re.compile(
    r"</parameter>\s*(<parameter=[^>\n]*>|</function>\s*(</tool_call>|block)|</tool_call>)"
)


def _hostile_text(rng: random.Random) -> str:
    while True:
        value = "".join(rng.choices(HOSTILE, k=rng.randint(0, 5)))
        if not AMBIGUOUS.search(value.replace(BLOCK, "block")):
            return value


def _argument(rng: random.Random, key: str) -> tuple[str, Any]:
    """The text that a model writes for a parameter, and the value meant."""
    if key == "text":
        value = _hostile_text(rng)
        return value, value
    value = {
        "count": lambda: rng.randint(-99, 10**12),
        "ratio": lambda: rng.choice([0.5, -1e-9, 3, 2.0]),
        "flag": lambda: rng.choice([True, False]),
        "items": lambda: rng.choice([[], [1, "</parameter> x"], ["日", [None]], [{"a": True}]]),
        "options": lambda: rng.choice([{}, {"a": {"b": [1]}}, {"k": "</function>"}]),
        "maybe": lambda: rng.choice([None, 5]),
    }[key]()
    spelled = [json.dumps(value), json.dumps(value, ensure_ascii=False)]
    if not isinstance(value, str):
        spelled.append(repr(value))  # a Python literal
    return rng.choice(spelled), value


def test_two_thousand_calls_with_hostile_values() -> None:
    rng = random.Random(30)
    hostile = quoted = 0
    for number in range(2000):
        meant: list[tuple[str, dict[str, Any]]] = []
        text = prefix = rng.choice(["", "Let me check.\n\n", "I use <tool> & </b>.\n\n"])
        for i in range(rng.choice([1, 1, 2, 3])):
            keys = rng.sample(sorted(SCHEMA["properties"]), rng.randint(0, 4))
            pairs = {key: _argument(rng, key) for key in keys}
            name = rng.choice(sorted(TOOLS))
            text += "\n" * bool(i) + written(name, {k: v[0] for k, v in pairs.items()})
            meant.append((name, {k: v[1] for k, v in pairs.items()}))
            hostile += "</parameter>" in str(pairs)
            quoted += BLOCK in pairs.get("text", ("",))[0]
        found = parse(text, rng)
        assert [(c.name, c.arguments) for c in found.calls] == meant, (number, text)
        assert all(call.complete for call in found.calls)
        assert found.text.strip("\n") == prefix.strip("\n")
        assert found.calls == _without_ids(found, parse(text))
    assert hostile > 300
    assert quoted > 100


def _without_ids(like: Parsed, other: Parsed) -> tuple[ToolCall, ...]:
    """The calls of `other` with the ids of `like`."""
    return tuple(
        ToolCall(one.id, two.name, two.arguments, two.complete)
        for one, two in zip(like.calls, other.calls, strict=True)
    )


def test_deltas_name_a_call_once_and_join_to_json() -> None:
    found = parse(written("write", {"text": "a", "count": "2"}) + "\n" + written("write", {}))
    assert [(d.index, d.name) for d in found.deltas if d.name] == [(0, "write"), (1, "write")]
    texts = ["".join(d.arguments for d in found.deltas if d.index == i) for i in (0, 1)]
    assert texts == ['{"text": "a", "count": 2}', "{}"]
    assert found.deltas[0].arguments == ""
    assert len({d.id for d in found.deltas}) == 2


@pytest.mark.parametrize("cut", [True, False])
def test_an_answer_that_ends_within_a_call(cut: bool) -> None:
    whole = written("write", {"count": "1", "text": "line 1\nline 2"})
    for end in range(len("<tool_call>\n<function=write>"), len(whole)):
        found = parse(whole[:end], random.Random(end), cut=cut)
        (call,) = found.calls
        assert call.name == "write"
        assert call.complete is not cut
        assert set(call.arguments) <= {"count", "text"}
        if cut:  # never half a value
            assert call.arguments.get("text", "line 1\nline 2") == "line 1\nline 2"
            assert call.arguments.get("count", 1) == 1
    assert parse(whole[:-13], cut=False).calls[0].arguments["text"] == "line 1\nline 2"


def test_closing_tags_left_out_by_the_model() -> None:
    head = "<tool_call>\n<function=write>\n<parameter=count>\n7\n"
    for tail in ("</function>\n</tool_call>", "</tool_call>", "</parameter>\n</tool_call>", ""):
        (call,) = parse(head + tail).calls
        assert call.arguments == {"count": 7}, tail


def test_a_call_left_open_before_the_next() -> None:
    one = "<tool_call>\n<function=write>\n<parameter=count>\n7\n</parameter>\n</function>\n"
    for seed in range(20):
        found = parse(one + written("get_weather", {"text": "x"}), random.Random(seed))
        assert [(c.name, c.arguments) for c in found.calls] == [
            ("write", {"count": 7}),
            ("get_weather", {"text": "x"}),
        ]


def test_what_stands_between_the_tags_of_a_call_is_skipped() -> None:
    body = "<function=write>\nNow the count:\n<parameter=count>\n7\n</parameter>\n</function>"
    for seed in range(20):
        found = parse(f"<tool_call>{body}\n</tool_call>\nDone.", random.Random(seed))
        assert [call.arguments for call in found.calls] == [{"count": 7}]
        assert found.text == "\nDone."
    assert parse("<tool_call>\n<function=write>\n</function>\nDone.").text == "\nDone."


def test_a_lone_opening_tag_in_a_value_does_not_swallow_the_next_call() -> None:
    text = written("write", {"text": "use <tool_call> so"}) + "\nand\n" + written("write", {})
    for seed in range(20):
        found = parse(text, random.Random(seed))
        assert [call.arguments for call in found.calls] == [{"text": "use <tool_call> so"}, {}]
        assert "<tool_call>" not in found.text
        assert "and" in found.text


def test_a_bare_function_is_a_call_when_the_tool_is_known() -> None:
    body = "<function=write>\n<parameter=count>\n3\n</parameter>\n</function>"
    for seed in range(30):
        rng = random.Random(seed)
        found = parse(f"Well.\n{body}", rng)
        assert [(c.name, c.arguments) for c in found.calls] == [("write", {"count": 3})]
        assert found.text == "Well.\n"
        assert parse(f"{body}\n</tool_call>", rng).calls[0].arguments == {"count": 3}
        unknown = body.replace("write", "other")
        assert parse(unknown, rng).text == unknown
        within = f"In a line {body}"
        assert parse(within, rng).text == within
        assert parse(body, rng, tools={}).text == body


def test_the_json_form_is_read() -> None:
    call = {"name": "write", "arguments": {"text": "</tool_call> }", "count": 2}}
    for seed in range(20):
        found = parse(f"<tool_call>\n{json.dumps(call)}\n</tool_call>", random.Random(seed))
        assert [(c.name, c.arguments) for c in found.calls] == [("write", call["arguments"])]
        assert found.text == ""
    two = f"<tool_call>{json.dumps(call)}</tool_call>\n" * 2
    assert len(parse(two).calls) == 2
    text = json.dumps({"name": "write", "arguments": json.dumps({"count": 1})})
    assert parse(f"<tool_call>{text}</tool_call>").calls[0].arguments == {"count": 1}


@pytest.mark.parametrize(
    "body",
    ["hello", "{not json}", '{"no": "name"}', "[1]", "<b>", '{"name": "f", "arguments": NaN}'],
)
def test_what_is_no_call_is_text(body: str) -> None:
    text = f"a <tool_call>{body}</tool_call>"
    for seed in range(10):
        found = parse(text, random.Random(seed))
        assert found.calls == ()
        assert found.text == text


def test_any_text_is_read_the_same_in_any_pieces() -> None:
    rng = random.Random(31)
    tags = [
        "<tool_call>", "</tool_call>", "<function=write>", "</function>", "<parameter=text>",
        "<parameter=count>", "</parameter>", "<function=", "<parameter=", '{"name": "write"', "}",
        '"arguments": {"count": 1}', "\n", "\n", "\n", " ", "word", "5", "<", ">", ", ", "日",
    ]  # fmt: skip
    calls = 0
    for _ in range(3000):
        text = "".join(rng.choices(tags, k=rng.randint(1, 24)))
        cut = rng.random() < 0.3
        whole = parse(text, cut=cut)
        for found in (parse(text, rng, cut=cut), parse(text, rng, cut=cut)):
            assert found.text == whole.text, text
            assert _without_ids(whole, Parsed("", found.calls, [])) == whole.calls, text
        calls += len(whole.calls)
        for index in {delta.index for delta in whole.deltas}:
            pieces = [delta for delta in whole.deltas if delta.index == index]
            assert isinstance(json.loads("".join(d.arguments for d in pieces)), dict)
            assert [d.done for d in pieces] == [False] * (len(pieces) - 1) + [True]
        assert len({call.id for call in whole.calls}) == len(whole.calls)
    assert calls > 300


def test_a_long_value_is_read() -> None:
    value = "x -> y; </parameter> <b>\n" * 4000
    found = parse(written("write", {"text": value}), random.Random(1))
    assert found.calls[0].arguments["text"] == value


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, '"x"', '"x"'),
        ({"type": "integer"}, " 5 ", 5),
        ({"type": "integer"}, "5.0", 5),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "1_000", "1_000"),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
        ({"type": "number"}, "5", 5),
        ({"type": "number"}, "-1e3", -1000.0),
        ({"type": "number"}, "nan", "nan"),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "boolean"}, "TRUE", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": ["integer", "null"]}, "None", None),
        ({"type": ["string", "null"]}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "7", 7),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": True}, "true", True),
        ({"$ref": "#/$defs/n"}, "8", 8),
        ({"$ref": "#/$defs/loop"}, "8", 8),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"type": "array"}, "(1, None)", [1, None]),
        ({"type": "array"}, "[1,", "[1,"),
        ({"type": "object"}, "{'a': True}", {"a": True}),
        ({"type": "object"}, "{1: 2}", {"1": 2}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": "object"}, '{"a": NaN}', '{"a": NaN}'),
        ({"type": "object"}, '{"a": 1e999}', '{"a": 1e999}'),
        ({"type": "array"}, "__import__('os')", "__import__('os')"),
        ({"type": "array"}, "[" * 50_000, "[" * 50_000),
        ({"type": "array"}, "[" * 900 + "]" * 900, "[" * 900 + "]" * 900),
        ({"type": "array"}, "[" * 90 + "]" * 90, json.loads("[" * 90 + "]" * 90)),
        ({"type": "array"}, "{1, 2}", "{1, 2}"),
        ({}, "12", 12),
        ({}, "012", "012"),
        ({}, "word", "word"),
        (True, "word", "word"),
    ],
)
def test_values_follow_their_schema(schema: Any, text: str, value: Any) -> None:
    root = {"$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}
    found = convert(text, schema, root)
    assert found == value
    assert type(found) is type(value)
    json.dumps(found, allow_nan=False)


# ---- schemas ------------------------------------------------------------------------------------


def forecast(  # noqa: D417
    city: str,
    days: int = 1,
    unit: Literal["C", "F"] = "C",
    tags: list[str] | None = None,
    place: Annotated[dict[str, float], "latitude and longitude"] = {},  # noqa: B006
) -> str:
    """Weather of the coming days.

    Args:
        city: its name,
            in English
        days: how many

    Returns:
        nothing that matters
    """
    return f"{city} {days} {unit} {tags} {place}"


def test_a_function_becomes_a_schema() -> None:
    function = function_schema(forecast)["function"]
    assert function["name"] == "forecast"
    assert function["description"] == "Weather of the coming days."
    assert function["parameters"] == {
        "type": "object",
        "required": ["city"],
        "properties": {
            "city": {"type": "string", "description": "its name, in English"},
            "days": {"type": "integer", "description": "how many"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "place": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "description": "latitude and longitude",
            },
        },
    }


def _no_hint(x) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def _star(*x: int) -> None: ...
def _positional(x: int, /) -> None: ...
def _set(x: set[int]) -> None: ...
def _wrong_keys(x: dict[int, int]) -> None: ...
def _unknown(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
async def _later(x: int) -> None: ...


@pytest.mark.parametrize(
    ("tool", "what"),
    [
        (_no_hint, "x needs a type hint"),
        (_star, r"\*x has no schema"),
        (_positional, "positional only"),
        (_set, "has no JSON form"),
        (_wrong_keys, "has no JSON form"),
        (_unknown, "cannot be read"),
        (_later, "not async"),
        (lambda: None, "must be a word|must not hold"),
        (5, "a function or a schema"),
        ({"type": "web_search"}, "name must be a word"),
        ({"type": "retrieval", "function": {"name": "f"}}, "only tools of type"),
        ({"name": "a>b"}, "must not hold"),
        ({"name": "f", "parameters": {"properties": {"a\nb": {}}}}, "must not hold"),
        ({"name": "f", "parameters": {"properties": 5}}, "JSON schema of an object"),
    ],
)
def test_tools_that_cannot_be_expressed_are_refused(tool: Any, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        tool_schemas([tool])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="two tools"):
        tool_schemas([forecast, {"name": "forecast"}])


# ---- running ------------------------------------------------------------------------------------


def half(number: int) -> float:
    """Halves a number."""
    if number == 13:
        raise ValueError("unlucky")
    return number / 2


def call(name: str, complete: bool = True, **arguments: Any) -> ToolCall:
    return ToolCall("call_1", name, arguments, complete)


def test_a_toolbox_runs_calls_and_tells_what_went_wrong() -> None:
    box = Toolbox([half, forecast])
    assert box.run(call("half", number=3)) == "1.5"
    assert box.run(call("forecast", city="Oslo")) == "Oslo 1 C None {}"
    assert box.run(call("half", number=13)) == "Error: ValueError: unlucky"
    assert "there is no function 'third'" in box.run(call("third"))
    assert "missing a required argument: 'number'" in box.run(call("half"))
    assert "unexpected keyword argument 'x'" in box.run(call("half", number=1, x=2))
    assert "number must be integer" in box.run(call("half", number="three"))
    assert 'unit must be one of ["C", "F"]' in box.run(call("forecast", city="a", unit="K"))
    assert "cut off" in box.run(call("half", complete=False, number=1))


def test_nothing_runs_without_consent() -> None:
    ran: list[int] = []

    def note(number: int) -> None:
        """Notes a number."""
        ran.append(number)

    box = Toolbox([note])
    assert box.run(call("note", number=1), lambda asked: asked.arguments["number"] > 1) == DECLINED
    assert ran == []
    assert box.run(call("note", number=2), lambda _: True) == "null"
    assert ran == [2]
    with pytest.raises(KeyboardInterrupt):
        box.run(call("note", number=3), _interrupted)
    assert ran == [2]


def _interrupted(_call: ToolCall) -> bool:
    raise KeyboardInterrupt
