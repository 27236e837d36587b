"""Structured output with the bundled model: always valid, cut with an error, or refused."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import jsonschema
import msgspec
import pydantic
import pytest

import schemas
from qwen35cpp import AnswerInvalid, InvalidArgument, Llama, MissingExtra, SchemaError
from qwen35cpp._handles import Sampler
from qwen35cpp.cli import main
from qwen35cpp.structured.formats import format_of
from qwen35cpp.structured.matcher import Matcher

ORDER = "Anna ordered 12 red lamps for 30 coins. Send it to Lima. It is paid."
SCHEMA = {
    "type": "object",
    "properties": {
        "customer": {"type": "string"}, "count": {"type": "integer"}, "paid": {"type": "boolean"},
    },
    "required": ["customer", "count", "paid"],
}  # fmt: skip
ASK = f"Extract the data as JSON. Schema: {json.dumps(SCHEMA)}\n\n{ORDER}"
DATA = {"customer": "Anna", "count": 12, "paid": True}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "day": {"enum": ["Monday", "Tuesday"]},
                "hours": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
                "unit": {"anyOf": [{"enum": ["C", "F"]}, {"type": "null"}]},
            },
            "required": ["city", "day", "hours", "unit"],
        },
    },
}
PING = {"type": "function", "function": {"name": "ping", "parameters": {}}}
QUESTION = [{"role": "user", "content": "What will the weather be in Lima on Monday?"}]


@pytest.fixture(scope="module")
def tiny() -> Iterator[Llama]:
    with Llama.tiny() as llama:
        yield llama


def _check_schemas(tiny: Llama, seeds: range) -> None:
    valid = refused = cut = 0
    for seed in seeds:
        schema, must_refuse = schemas.make(seed)
        options: dict[str, Any] = {"temperature": 1, "seed": seed, "max_tokens": 600}
        if must_refuse:
            with pytest.raises(SchemaError) as caught:
                tiny.chat("Make something up.", schema=schema, **options)
            assert "wrong" in caught.value.path
            assert caught.value.keyword in str(caught.value)
            refused += 1
            continue
        answer = tiny.chat("Make something up.", schema=schema, **options)
        if answer.finish_reason == "length":
            assert "#/$defs/tree" in json.dumps(schema), (seed, answer)  # recursion has no end
            with pytest.raises(AnswerInvalid, match="cut off"):
                _ = answer.parsed
            cut += 1
            continue
        jsonschema.Draft202012Validator(schema).validate(answer.parsed)
        valid += 1
    print(f"{valid} answers valid, {refused} schemas refused, {cut} endless answers cut off")
    assert valid > 0.7 * len(seeds)
    assert refused > 0.03 * len(seeds)
    assert cut < 0.1 * len(seeds)


def test_random_schemas_are_followed_or_refused(tiny: Llama) -> None:
    _check_schemas(tiny, range(60))


@pytest.mark.long
def test_500_random_schemas_are_followed_or_refused(tiny: Llama) -> None:
    _check_schemas(tiny, range(60, 560))


def test_tokens_are_followed_and_taken_back(tiny: Llama) -> None:
    """What follows and what is allowed is the same on the way and on the way back."""
    tokens = tiny.tokenize(json.dumps(DATA))
    form = format_of({**SCHEMA, "additionalProperties": False})
    assert form is not None
    matcher = Matcher(tiny._engine, tiny._end_tokens, form.grammar)
    masks, forced, followed = [], [], []
    end = min(tiny._end_tokens)
    for i, token in enumerate(tokens):
        known = matcher.forced()
        assert tokens[i : i + len(known)] == known
        forced.append(bool(known))
        masks.append(matcher.mask())
        # All but the last token, which completes the text.
        assert matcher.follow(tokens[i:], forces=False) == len(tokens) - i - 1
        followed.append(matcher.follow(tokens[i:], forces=True))
        assert matcher.follow([token, end, token], forces=False) <= 1
        matcher.accept(token)
    for i, n in enumerate(followed):
        assert not any(forced[i + 1 : i + 1 + n])
        assert i + 1 + n == len(tokens) or forced[i + 1 + n]
    assert any(forced)
    assert max(followed) > 1
    assert matcher.complete
    assert matcher.follow(tokens, forces=False) == 0
    for mask in reversed(masks):
        matcher.take_back(1)
        assert not matcher.complete
        assert matcher.mask() == mask
    for token in tokens:
        matcher.accept(token)
    matcher.take_back(len(tokens))
    assert matcher.mask() == masks[0]
    with pytest.raises(SchemaError):
        matcher.accept(end)
    with pytest.raises(SchemaError):  # an answer never ends well because of an error
        _ = matcher.complete


# ---- what is asked for --------------------------------------------------------------------------


def test_the_answer_is_right_and_not_only_valid(tiny: Llama) -> None:
    answer = tiny.chat(ASK, schema=SCHEMA, temperature=0)
    assert answer.parsed == DATA
    assert answer == tiny.chat(ASK, temperature=0)  # what the model writes by itself
    assert answer.finish_reason == "stop"


class PydanticOrder(pydantic.BaseModel):
    customer: str
    count: int = pydantic.Field(ge=0, le=1000)
    paid: bool


class StructOrder(msgspec.Struct):
    customer: str
    count: int
    paid: bool


@dataclasses.dataclass
class DataOrder:
    customer: str
    count: int
    paid: bool


class DictOrder(TypedDict):
    customer: str
    count: int
    paid: bool


@pytest.mark.parametrize("kind", [PydanticOrder, StructOrder, DataOrder])
def test_a_class_gives_its_instance(tiny: Llama, kind: Any) -> None:
    parsed = tiny.chat(ASK, schema=kind, temperature=0).parsed
    assert type(parsed) is kind
    assert parsed == kind(**DATA)


def test_type_hints_without_instances(tiny: Llama) -> None:
    assert tiny.chat(ASK, schema=DictOrder, temperature=0).parsed == DATA
    numbers = tiny.generate("The numbers are", schema=list[int], temperature=0, max_tokens=50)
    assert numbers.finish_reason == "length" or all(type(n) is int for n in numbers.parsed)
    with pytest.raises(SchemaError, match="no JSON schema"):
        tiny.generate("x", schema=re.Pattern)


def test_what_a_class_refuses_is_no_answer(tiny: Llama) -> None:
    class Picky(pydantic.BaseModel):
        customer: str

        @pydantic.field_validator("customer")
        @classmethod
        def never(cls, value: str) -> str:
            raise ValueError(f"{value} is not welcome")

    answer = tiny.chat(ASK, schema=Picky, temperature=0)
    with pytest.raises(AnswerInvalid, match="the answer is no Picky"):
        _ = answer.parsed


def test_an_answer_that_was_cut_says_so(tiny: Llama) -> None:
    answer = tiny.chat(ASK, schema=SCHEMA, temperature=0, max_tokens=4)
    assert answer.finish_reason == "length"
    with pytest.raises(AnswerInvalid, match="cut off after 4 tokens"):
        _ = answer.parsed
    whole = tiny.chat(ASK, schema=SCHEMA, temperature=0)
    exact = tiny.chat(ASK, schema=SCHEMA, temperature=0, max_tokens=len(whole.tokens))
    assert exact.parsed == DATA  # complete with its very last token


def test_choices_and_regular_expressions(tiny: Llama) -> None:
    words = ["red", "red lamp", 'quo"te', "line\nbreak", "日本", "<|im_end|>", "</think>"]
    seen = {tiny.generate("The ", choice=words, seed=i).parsed for i in range(15)}
    assert seen <= set(words)
    assert len(seen) > 3
    for seed in range(3):
        date = tiny.generate("On ", regex=r"\d{4}-(0[1-9]|1[0-2])(x|\pL{2})?", seed=seed)
        assert re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])(x|[^\W\d_]{2})?", date.parsed)
    assert tiny.chat("Hello!", choice=["yes", "no"], temperature=0) in ("yes", "no")
    assert tiny.generate("Hello", max_tokens=4).parsed is None


@pytest.mark.parametrize("think", [False, True])
def test_the_thought_is_free_and_the_answer_is_not(tiny: Llama, think: bool) -> None:
    answer = tiny.chat(ASK, schema=SCHEMA, think=think, temperature=0)
    assert answer.parsed == DATA
    assert bool(answer.reasoning) is think
    if think:
        sum_of = "How much is 15 plus 18?"
        found = tiny.chat(sum_of, schema={"type": "integer"}, think=True, temperature=0)
        assert found.parsed == 33
        assert found.reasoning.startswith("15 + 18: ")
        assert answer.reasoning == tiny.chat(ASK, think=True, temperature=0).reasoning
        cut = tiny.chat(ASK, schema=SCHEMA, thinking_budget=3, temperature=0)
        assert (cut.reasoning_tokens, cut.reasoning_end) == (3, "budget")
        assert cut.parsed.keys() == DATA.keys()


def test_streams_and_forced_tokens_give_the_same_text(tiny: Llama) -> None:
    whole = tiny.chat(ASK, schema=SCHEMA, temperature=0)
    stream = tiny.chat(ASK, schema=SCHEMA, temperature=0, stream=True)
    assert "".join(stream) == whole
    assert stream.result is not None
    assert stream.result.parsed == DATA
    # With log-probabilities nothing is forced: every token is drawn.
    drawn = tiny.chat(ASK, schema=SCHEMA, temperature=0, logprobs=0)
    assert (drawn, drawn.tokens) == (whole, whole.tokens)
    assert drawn.logprobs is not None
    assert len(drawn.logprobs) == len(drawn.tokens)


def test_forced_tokens_are_not_drawn(tiny: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = 0
    plain = Sampler.results

    def counted(self: Sampler, n: int) -> Any:
        nonlocal draws
        draws += n
        return plain(self, n)

    monkeypatch.setattr(Sampler, "results", counted)
    answer = tiny.chat(ASK, schema=SCHEMA, temperature=0)
    assert draws < 0.7 * len(answer.tokens)


def test_control_tokens_never_appear(tiny: Llama) -> None:
    control = {tiny.tokenize(f"<{name}>", special=True)[0] for name in ("think", "tool_call")}
    control |= {tiny.tokenize("<|im_end|>", special=True)[0]}
    bias = dict.fromkeys(control, 50.0)  # the model would draw nothing else
    text = {"type": "string", "minLength": 20, "maxLength": 40}
    answer = tiny.chat("Hi", schema=text, logit_bias=bias, temperature=0, max_tokens=100)
    assert not control & set(answer.tokens)
    assert 20 <= len(answer.parsed) <= 40
    assert control & set(tiny.generate("Hi", logit_bias=bias, ignore_eos=True, max_tokens=5).tokens)


def test_extracting(tiny: Llama, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert tiny.extract(StructOrder, ORDER) == StructOrder(**DATA)
    assert tiny.extract(SCHEMA, ORDER) == DATA
    with pytest.raises(AnswerInvalid):
        tiny.extract(StructOrder, ORDER, max_tokens=3)
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    for schema in (json.dumps(SCHEMA), str(file)):
        assert main(["run", "tiny", ASK, "--temp", "0", "--schema", schema]) == 0
        assert json.loads(capsys.readouterr().out) == DATA
    assert main(["run", "tiny", ASK, "--schema", "missing.json"]) == 1
    assert main(["run", "tiny", ASK, "--schema", '{"not": {}}']) == 1
    assert "'not' at #" in capsys.readouterr().err


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "path", "keyword"),
    [
        ({"properties": {"a": {"items": {"not": {}}}}}, "#/properties/a/items", "not"),
        (
            {"anyOf": [{"type": "null"}, {"pattern": "(?<=a)b", "type": "string"}]},
            "#/anyOf/1",
            "pattern",
        ),
        ({"$ref": "#/$defs/k", "$defs": {"k": {"uniqueItems": True}}}, "#/$defs/k", "uniqueItems"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "#", "not"),
        ({"$ref": "http://127.0.0.1:9/x"}, "#", "$ref"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "#/properties/a", "type"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "#", ""),
        ({"enum": list(range(10_001))}, "#", "enum"),
    ],
)
def test_a_refusal_names_keyword_and_place(
    tiny: Llama, schema: Any, path: str, keyword: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        tiny.generate("x", schema=schema, max_tokens=1)
    assert caught.value.path == path
    if keyword:
        assert caught.value.keyword == keyword
        assert keyword in str(caught.value)


def test_limits_and_contradictions(tiny: Llama) -> None:
    deep: Any = {}
    for _ in range(70):
        deep = {"items": deep}
    huge = {"description": "x" * 70_000}
    for schema, what in ((deep, "deeper than 64"), (huge, "bytes"), ({"a": {1, 2}}, "not JSON")):
        with pytest.raises(SchemaError, match=what):
            tiny.generate("x", schema=schema)
    for options, what in (
        ({"schema": {}, "regex": "x"}, "exclude"),
        ({"choice": []}, "not empty"),
        ({"choice": ["a", ""]}, "not empty"),
        ({"regex": "(a"}, "cannot be enforced"),
        ({"schema": {}, "stop": "}"}, "leave out stop"),
        ({"schema": {}, "ignore_eos": True}, "leave out stop"),
    ):
        with pytest.raises(InvalidArgument, match=what):
            tiny.generate("x", **options)  # type: ignore[call-overload]


def test_without_the_extra_it_is_said(tiny: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra) as caught:
        tiny.generate("x", schema={})
    assert "qwen35cpp[schema]" in caught.value.hint


# ---- OpenAI's shapes and tools ------------------------------------------------------------------


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}},
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_object"},
        DataOrder,
    ],
)
def test_response_formats(tiny: Llama, response_format: Any) -> None:
    ask = [{"role": "user", "content": ASK}]
    done = tiny.create_chat_completion(ask, response_format=response_format, temperature=0, n=2)
    for choice in done.choices:
        assert json.loads(choice.message.content or "") == DATA


@pytest.mark.parametrize("think", [False, True])
def test_a_strict_tool_is_called_with_what_its_schema_allows(tiny: Llama, think: bool) -> None:
    parameters = WEATHER["function"]["parameters"]  # type: ignore[index]
    for seed in range(4):
        done = tiny.create_chat_completion(
            QUESTION, tools=[WEATHER, PING], tool_choice="required", think=think, seed=seed,
            max_tokens=400, thinking_budget=20 if think else None,
        )  # fmt: skip
        (choice,) = done.choices
        assert choice.finish_reason == "tool_calls"
        for call in choice.message.tool_calls:
            if call.function.name == "get_weather":
                arguments = json.loads(call.function.arguments)
                jsonschema.validate(arguments, parameters)
    named = {"type": "function", "function": {"name": "ping"}}
    done = tiny.create_chat_completion(
        QUESTION, tools=[WEATHER, PING], tool_choice=named, parallel_tool_calls=False, temperature=0
    )
    assert [c.function.name for c in done.choices[0].message.tool_calls] == ["ping"]


def test_strict_tools_leave_the_choice_to_the_model(tiny: Llama) -> None:
    called = tiny.chat(QUESTION, tools=[WEATHER, PING], temperature=0)
    assert called.tool_calls[0].name == "get_weather"
    assert called.tool_calls[0].arguments["day"] == "Monday"
    told = tiny.chat("Hello!", tools=[WEATHER], temperature=0)
    assert told == tiny.chat("Hello!", tools=[WEATHER | {}], temperature=0)


def test_a_strict_tool_that_cannot_be_enforced_is_refused(tiny: Llama) -> None:
    tool = json.loads(json.dumps(WEATHER))
    tool["function"]["parameters"]["properties"]["city"]["pattern"] = "^L"
    with pytest.raises(SchemaError, match=r"get_weather.*city.*pattern") as caught:
        tiny.chat(QUESTION, tools=[tool])
    assert caught.value.keyword == "pattern"
    del tool["function"]["strict"]
    answer = tiny.chat(QUESTION, tools=[tool], schema=SCHEMA, temperature=0, max_tokens=200)
    assert answer.parsed or answer.tool_calls[0].name == "get_weather"


def test_an_answer_with_a_schema_may_be_a_call(tiny: Llama) -> None:
    answers = [
        tiny.chat(text, tools=[PING], schema=SCHEMA, seed=seed, max_tokens=200)
        for seed, text in enumerate([QUESTION[0]["content"], ASK, "Hello!", "Ping!"] * 2)
    ]
    whole = [answer for answer in answers if answer.finish_reason != "length"]
    assert len(whole) >= len(answers) / 2  # the model may ramble within a string
    for answer in whole:
        assert answer.finish_reason in ("tool_calls", "stop")
        if answer.finish_reason == "stop":
            jsonschema.validate(answer.parsed, SCHEMA)
        else:
            assert answer.parsed is None
            assert {call.name for call in answer.tool_calls} == {"ping"}


def test_values_of_a_call_survive_odd_names(tiny: Llama) -> None:
    rng = random.Random(1)
    keys = ['quo"te', "back\\slash", "größe", "日本"]
    kinds = [{"type": "integer"}, {"enum": ["a", 1, None]}, {"const": "x y"}, {"type": "boolean"}]
    for seed in range(4):
        rng.shuffle(kinds)
        properties = dict(zip(keys, kinds, strict=True))
        body = {"type": "object", "properties": properties, "required": keys}
        tool = {"type": "function", "strict": True, "function": {"name": "f", "parameters": body}}
        done = tiny.create_chat_completion(
            QUESTION, tools=[tool], tool_choice="required", parallel_tool_calls=False, seed=seed,
            max_tokens=400,
        )  # fmt: skip
        (call,) = done.choices[0].message.tool_calls
        jsonschema.validate(json.loads(call.function.arguments), body)
