"""The clients of OpenAI and Anthropic against the running server, on the bundled model."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qwen35cpp import Llama

pytest.importorskip("starlette", reason="needs the extra [server]")
openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

from qwen35cpp.server import Settings, serving  # noqa: E402
from serving import ASK, TOOL, data_url, endless  # noqa: E402
from tiny.skills import SKILLS  # noqa: E402

MODEL = "tiny"
CALL = {"type": "function", "function": {"name": "get_weather"}}
WEATHER = [{"role": "user", "content": "What is the weather in Oslo on Friday?"}]


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=4096, n_threads=1, prefix_cache=False) as llama:
        yield llama


@pytest.fixture(scope="module")
def url(llama: Llama) -> Iterator[str]:
    with serving(llama, Settings(port=0, api_keys=("secret",), name=MODEL)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(url: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=url, api_key="secret", max_retries=0) as client:
        yield client


# ---- OpenAI -------------------------------------------------------------------------------------


def test_openai_chat_and_stream(client: Any, llama: Llama) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 16, "temperature": 0}
    answer = client.chat.completions.create(**options)
    assert answer.choices[0].message.content == llama.chat(ASK, max_tokens=16, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_openai_thoughts(client: Any, llama: Llama) -> None:
    extra = {"thinking_budget": 8, "logit_bias": endless(llama)["logit_bias"]}
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 24, "seed": 2}
    message = client.chat.completions.create(**options, extra_body=extra).choices[0].message
    assert message.reasoning_content
    assert message.content
    off = client.chat.completions.create(**options, reasoning_effort="none")
    assert off.usage.completion_tokens_details.reasoning_tokens == 0


def test_openai_tools(client: Any) -> None:
    sample = SKILLS["tools"].make(random.Random(11), True)
    tools = [{"type": "function", "function": t.get("function", t)} for t in sample.tools]
    options = {"model": MODEL, "messages": sample.prompt, "tools": tools, "temperature": 0}
    for choice in ("auto", "required"):
        answer = client.chat.completions.create(**options, tool_choice=choice).choices[0]
        assert answer.finish_reason == "tool_calls"
        call = answer.message.tool_calls[0]
        assert isinstance(json.loads(call.function.arguments), dict)
        with client.chat.completions.stream(**options, tool_choice=choice) as stream:
            final = stream.get_final_completion().choices[0].message
        streamed = final.tool_calls[0].function
        assert streamed.name == call.function.name
        assert json.loads(streamed.arguments) == json.loads(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"ok": true}'}
    messages = [*sample.prompt, answer.message.model_dump(exclude_none=True), result]
    more = client.chat.completions.create(**{**options, "messages": messages}, max_tokens=8)
    assert more.choices[0].finish_reason


def test_openai_pictures(client: Any) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(), "detail": "auto"}}
    content = [{"type": "text", "text": "What colour is it?"}, picture]
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 4}
    with_it = client.chat.completions.create(
        **options, messages=[{"role": "user", "content": content}]
    )
    without = client.chat.completions.create(
        **options, messages=[{"role": "user", "content": content[:1]}]
    )
    assert with_it.usage.prompt_tokens > without.usage.prompt_tokens + 3
    part = {"type": "input_image", "image_url": data_url(), "detail": "auto"}
    text = {"type": "input_text", "text": "What colour is it?"}
    response = client.responses.create(
        model=MODEL, input=[{"role": "user", "content": [text, part]}], max_output_tokens=4
    )
    assert response.usage.input_tokens == with_it.usage.prompt_tokens


def test_openai_completions_and_embeddings(client: Any, llama: Llama) -> None:
    answer = client.completions.create(model=MODEL, prompt="Once there was", max_tokens=8)
    assert answer.usage.completion_tokens == 8
    texts = ["a dog", "a cat"]
    vectors = client.embeddings.create(model=MODEL, input=texts)  # base64 on the wire
    found = np.array([item.embedding for item in vectors.data], np.float32)
    np.testing.assert_array_equal(found, llama.embed(texts))
    short = client.embeddings.create(model=MODEL, input="a dog", dimensions=16)
    assert len(short.data[0].embedding) == 16
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_openai_errors(client: Any, url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="role"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "x", "content": "x"}])
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_openai_responses(client: Any, llama: Llama) -> None:
    expected = llama.chat(ASK, system="Be kind.", max_tokens=16, temperature=0)
    options: dict[str, Any] = {
        "model": MODEL,
        "input": ASK[0]["content"],
        "instructions": "Be kind.",
        "max_output_tokens": 16,
        "temperature": 0,
    }
    response = client.responses.create(**options)
    assert response.output_text == expected
    assert (response.status, response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert response.usage.total_tokens == expected.usage.total_tokens
    with client.responses.stream(**options) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == expected
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == expected
    # The whole conversation comes back in the next request.
    said = [item.model_dump(exclude_none=True) for item in response.output]
    asked = [{"role": "user", "content": "Tell me a story about a dog."}, *said]
    more = client.responses.create(
        model=MODEL, input=[*asked, {"role": "user", "content": "And a cat?"}], max_output_tokens=4
    )
    messages = [*expected.messages[1:], {"role": "user", "content": "And a cat?"}]
    assert more.usage.input_tokens == len(llama.render_chat(messages).ids)


def test_openai_responses_with_tools_and_thoughts(client: Any, llama: Llama) -> None:
    tool = {"type": "function", **TOOL["function"], "strict": False}
    options: dict[str, Any] = {"model": MODEL, "tools": [tool], "tool_choice": "required"}
    options.update(input=WEATHER[0]["content"], temperature=0, max_output_tokens=100)
    call = client.responses.create(**options).output[0]
    assert (call.type, call.name) == ("function_call", "get_weather")
    with client.responses.stream(**options) as stream:
        streamed = stream.get_final_response().output[0]
    assert streamed.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    conversation = [*WEATHER, call.model_dump(exclude_none=True), result]
    more = client.responses.create(
        model=MODEL, tools=[tool], input=conversation, max_output_tokens=60
    )
    arguments = json.loads(call.arguments)
    function = {"name": "get_weather", "arguments": arguments}
    rendered = llama.render_chat(
        [
            *WEATHER,
            {"role": "assistant", "content": None, "tool_calls": [{"function": function}]},
            {"role": "tool", "content": "rain"},
        ],
        tools=[{"type": "function", "function": {**TOOL["function"], "strict": False}}],
    )
    assert more.usage.input_tokens == len(rendered.ids)
    extra = {"thinking_budget": 8}
    thoughtful = client.responses.create(
        model=MODEL, input="Tell me a story.", max_output_tokens=30, extra_body=extra
    )
    if thoughtful.usage.output_tokens_details.reasoning_tokens > 2:
        assert thoughtful.output[0].type == "reasoning"
        assert thoughtful.output[0].content[0].text


# ---- Anthropic ----------------------------------------------------------------------------------


def test_anthropic_message_and_stream(claude: Any, llama: Llama) -> None:
    expected = llama.chat(ASK, system="Be kind.", max_tokens=16, temperature=0, think=False)
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 16}
    options.update(system="Be kind.", extra_body={"temperature": 0})
    message = claude.messages.create(**options)
    assert message.content[0].text == expected
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 16
    count = claude.messages.count_tokens(model=MODEL, messages=ASK, system="Be kind.")
    assert count.input_tokens == message.usage.input_tokens == expected.usage.prompt_tokens
    with claude.messages.stream(**options) as stream:
        assert "".join(stream.text_stream) == expected
        final = stream.get_final_message()
    assert final.usage.output_tokens == 16
    assert final.content[0].text == expected
    stop = str(expected)[5:9]
    stopped = claude.messages.create(**options, stop_sequences=[stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert [model.id for model in claude.models.list()] == [MODEL]


def test_anthropic_thoughts(claude: Any) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 40}
    thinking = {"type": "enabled", "budget_tokens": 8}
    message = claude.messages.create(**options, thinking=thinking, extra_body={"seed": 1})
    kinds = [block.type for block in message.content]
    with claude.messages.stream(**options, thinking=thinking, extra_body={"seed": 1}) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == kinds == ["thinking", "text"]
    assert final.content[0].thinking == message.content[0].thinking
    assert final.content[1].text == message.content[1].text
    plain = claude.messages.create(**options)
    assert [block.type for block in plain.content] == ["text"]
    again = [*ASK, {"role": "assistant", "content": message.content}, *ASK]
    assert claude.messages.create(**{**options, "messages": again}).content


def test_anthropic_tools(claude: Any, llama: Llama) -> None:
    function = TOOL["function"]
    tool = {
        "name": "get_weather",
        "description": function["description"],
        "input_schema": function["parameters"],
    }
    options: dict[str, Any] = {"model": MODEL, "messages": WEATHER, "max_tokens": 100}
    options.update(tools=[tool], tool_choice={"type": "tool", "name": "get_weather"})
    options["extra_body"] = {"temperature": 0}
    message = claude.messages.create(**options)
    call = message.content[-1]
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "get_weather")
    with claude.messages.stream(**options) as stream:
        final = stream.get_final_message()
    assert final.content[-1].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    conversation = [
        *WEATHER,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "And tomorrow?"}]},
    ]
    count = claude.messages.count_tokens(model=MODEL, messages=conversation, tools=[tool])
    rendered = llama.render_chat(
        [
            *WEATHER,
            {
                "role": "assistant",
                "content": "".join(b.text for b in message.content if b.type == "text"),
                "tool_calls": [{"function": {"name": call.name, "arguments": call.input}}],
            },
            {"role": "tool", "content": "rain"},
            {"role": "user", "content": "And tomorrow?"},
        ],
        tools=[TOOL],
    )
    described = len(rendered.ids)
    assert abs(count.input_tokens - described) <= 2  # the order of a schema's keys


def test_anthropic_pictures_and_errors(claude: Any) -> None:
    data = data_url().split(",")[1]
    assert base64.b64decode(data)
    source = {"type": "base64", "media_type": "image/png", "data": data}
    text = {"type": "text", "text": "What colour is it?"}
    content = [{"type": "image", "source": source}, text]
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 4}
    shown = claude.messages.create(**options, messages=[{"role": "user", "content": content}])
    bare = claude.messages.create(**options, messages=[{"role": "user", "content": [text]}])
    assert shown.usage.input_tokens > bare.usage.input_tokens + 3
    with pytest.raises(anthropic.BadRequestError, match="wizard"):
        claude.messages.create(**options, messages=[{"role": "wizard", "content": "x"}])


# ---- every protocol -----------------------------------------------------------------------------


def test_two_calls_of_one_answer(client: Any, claude: Any) -> None:
    """Each with its own arguments, in the order they were made, whole and streamed."""
    text = "How is the weather in Cairo on Wednesday? And then: Turn the light in the attic off."
    ask: Any = [{"role": "user", "content": text}]
    wanted = [
        ("get_weather", {"city": "Cairo", "day": "Wednesday"}),
        ("turn_light", {"room": "attic", "state": "off"}),
    ]

    def schema(*names: str) -> dict[str, Any]:
        properties = {name: {"type": "string"} for name in names}
        return {"type": "object", "properties": properties, "required": list(names)}

    functions = [
        ("get_weather", "Weather of a city", schema("city", "day")),
        ("turn_light", "Turn a light on or off", schema("room", "state")),
    ]
    flat = [{"name": name, "description": told, "parameters": p} for name, told, p in functions]
    chat = client.chat.completions.create(
        model=MODEL, messages=ask, temperature=0, max_tokens=150,
        tools=[{"type": "function", "function": each} for each in flat],
    )  # fmt: skip
    calls = chat.choices[0].message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == wanted

    response = client.responses.create(
        model=MODEL, input=ask, temperature=0, max_output_tokens=150,
        tools=[{"type": "function", **each} for each in flat],
    )  # fmt: skip
    items = [item for item in response.output if item.type == "function_call"]
    assert [(item.name, json.loads(item.arguments)) for item in items] == wanted

    options: dict[str, Any] = {
        "model": MODEL, "messages": ask, "max_tokens": 150, "extra_body": {"temperature": 0},
        "tools": [{"name": n, "description": told, "input_schema": p} for n, told, p in functions],
    }  # fmt: skip
    with claude.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    for message in (claude.messages.create(**options), streamed):
        blocks = [block for block in message.content if block.type == "tool_use"]
        assert [(block.name, block.input) for block in blocks] == wanted
