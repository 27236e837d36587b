"""create_chat_completion: the shapes of OpenAI's API and llama-cpp-python."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import pytest

from qwen35cpp import ChatCompletion, ChatText, InvalidArgument, Llama, MissingExtra

ASK = [{"role": "user", "content": "What is your favourite colour?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "string"}},
            "required": ["city"],
        },
    },
}
SHORT: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def opened() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=1024, n_threads=1) as llama:
        yield llama


@pytest.fixture
def tiny(opened: Llama) -> Llama:
    opened.reset()
    return opened


def special(llama: Llama, name: str) -> int:
    (token,) = llama.tokenize(name, special=True)
    return token


def thoughtful(llama: Llama) -> dict[str, Any]:
    """Options for a thought of ten tokens and some thirty of text, whatever the model knows."""
    names = ("<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "<|im_start|>")
    bias = {str(special(llama, name)): float("-inf") for name in names}
    return {"thinking_budget": 10, "logit_bias": bias, "max_tokens": 44, "seed": 3}


def joined(chunks: list[Any], index: int = 0) -> dict[str, Any]:
    """The message that a client puts together from the deltas of one choice."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for choice in (c for chunk in chunks for c in chunk.choices if c.index == index):
        for key, value in choice.delta.items():
            if key != "tool_calls":
                message[key] = message.get(key, "") + value
                continue
            for delta in value:
                call = calls.setdefault(delta.index, {"name": "", "arguments": "", "id": ""})
                call["id"] += delta.get("id", "")
                call["name"] += delta.function.get("name", "")
                call["arguments"] += delta.function.arguments
    return {**message, "tool_calls": [calls[key] for key in sorted(calls)]}


def test_a_completion_reads_as_dictionary_and_attributes(tiny: Llama) -> None:
    out = tiny.create_chat_completion(messages=ASK, **SHORT)
    assert isinstance(out, ChatCompletion)
    assert out["choices"][0]["message"]["content"] == out.choices[0].message.content
    assert out.choices[0].message.role == "assistant"
    assert "tool_calls" not in out.choices[0].message
    assert "reasoning_content" not in out.choices[0].message
    assert out.choices[0].logprobs is None
    assert (out.object, out.model) == ("chat.completion", "qwen35-tiny-q8_0.gguf")
    assert out.id.startswith("chatcmpl-")
    usage = out.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details.reasoning_tokens == 0
    assert json.loads(json.dumps(out)) == out
    tiny.reset()
    assert out.choices[0].message.content == str(tiny.chat(ASK, **SHORT))


def test_a_message_goes_back_into_the_conversation(tiny: Llama) -> None:
    out = tiny.create_chat_completion(ASK, **SHORT)
    more = [*ASK, out.choices[0].message, {"role": "user", "content": "And on Monday?"}]
    assert tiny.create_chat_completion(more, **SHORT).choices[0].finish_reason


def test_stream_deltas_join_to_the_message(tiny: Llama) -> None:
    options = thoughtful(tiny)
    whole = tiny.create_chat_completion(ASK, **options)
    tiny.reset()
    chunks = list(tiny.create_chat_completion(ASK, stream=True, **options))
    assert {(chunk.object, chunk.id) for chunk in chunks} == {
        ("chat.completion.chunk", chunks[0].id)
    }
    assert chunks[0].choices[0].delta == {"role": "assistant", "content": ""}
    found = joined(chunks)
    assert found["content"] == whole.choices[0].message.content
    assert found["reasoning_content"] == whole.choices[0].message.reasoning_content
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] == whole.choices[0].finish_reason == "length"
    assert chunks[-1].choices[0].delta == {}
    assert "usage" not in chunks[-1]
    assert whole.usage.completion_tokens_details.reasoning_tokens == 10


def test_usage_comes_in_a_last_chunk_when_asked_for(tiny: Llama) -> None:
    whole = tiny.create_chat_completion(ASK, **SHORT)
    tiny.reset()
    options = {"stream_options": {"include_usage": True}}
    chunks = list(tiny.create_chat_completion(ASK, stream=True, **SHORT, **options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_forced_call_has_a_json_string_as_arguments(tiny: Llama) -> None:
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "get_weather"}}]
    for choice in choices:
        options: dict[str, Any] = {"tools": [TOOL], "tool_choice": choice, "temperature": 0}
        whole = tiny.create_chat_completion(ASK, max_tokens=80, **options)
        message = whole.choices[0].message
        call = message.tool_calls[0]
        assert call.type == "function"
        assert call.id.startswith("call_")
        assert isinstance(json.loads(call.function.arguments), dict)
        assert "<tool_call>" not in (message.content or "")
        assert whole.choices[0].finish_reason == "tool_calls"
        tiny.reset()
        chunks = list(tiny.create_chat_completion(ASK, stream=True, max_tokens=80, **options))
        found = joined(chunks)["tool_calls"][0]
        assert (found["name"], found["arguments"]) == (
            call.function.name,
            call.function.arguments,
        )
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"


def test_a_forced_call_comes_after_the_thought(tiny: Llama) -> None:
    options = {**thoughtful(tiny), "tools": [TOOL], "max_tokens": 120}
    bias = options["logit_bias"]
    for name in ("<|im_end|>", "<|endoftext|>"):
        del bias[str(special(tiny, name))]
    message = tiny.create_chat_completion(ASK, tool_choice="required", **options).choices[0].message
    assert message.reasoning_content
    assert message.tool_calls


def test_tool_choice_none_and_one_call_only(tiny: Llama) -> None:
    none = tiny.create_chat_completion(ASK, tools=[TOOL], tool_choice="none", **SHORT)
    plain = tiny.create_chat_completion(ASK, **SHORT)
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens
    # <tool_call> again and again: two calls, unless only one is allowed.
    options: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "temperature": 0}
    out = tiny.create_chat_completion(ASK, parallel_tool_calls=False, max_tokens=200, **options)
    assert len(out.choices[0].message.tool_calls) == 1
    assert out.choices[0].finish_reason == "tool_calls"


def test_several_answers_have_their_own_seeds(tiny: Llama) -> None:
    options: dict[str, Any] = {**thoughtful(tiny), "temperature": 1.5, "thinking_budget": 0}
    out = tiny.create_chat_completion(ASK, n=3, **options)
    texts = [choice.message.content for choice in out.choices]
    assert [choice.index for choice in out.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    tiny.reset()
    chunks = list(tiny.create_chat_completion(ASK, n=3, stream=True, **options))
    assert [joined(chunks, i)["content"] for i in range(3)] == texts
    tiny.reset()
    options["seed"] += 1
    assert tiny.create_chat_completion(ASK, **options).choices[0].message.content == texts[1]
    assert out.usage.completion_tokens == 3 * 44


def test_logprobs_have_the_chat_shape(tiny: Llama) -> None:
    options = {**thoughtful(tiny), "logprobs": True, "top_logprobs": 2}
    out = tiny.create_chat_completion(ASK, **options)
    content = out.choices[0].logprobs.content
    data = b"".join(bytes(entry.bytes) for entry in content)
    assert data.decode("utf-8", "replace") == out.choices[0].message.content
    assert all(len(entry.top_logprobs) == 2 for entry in content)
    assert all(entry.logprob <= 0 for entry in content)
    tiny.reset()
    chunks = list(tiny.create_chat_completion(ASK, stream=True, **options))
    streamed = [
        entry
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert streamed == content


def test_limits_stops_and_names(tiny: Llama) -> None:
    bias = thoughtful(tiny)["logit_bias"]
    out = tiny.create_chat_completion(
        ASK, max_tokens=3, max_completion_tokens=7, logit_bias=bias, seed=1, model="m"
    )
    assert out.usage.completion_tokens == 7
    assert out.model == "m"
    room = 1024 - out.usage.prompt_tokens
    out = tiny.create_chat_completion(ASK, max_tokens=-1, logit_bias=bias, seed=1)
    assert out.usage.completion_tokens == room
    stop = out.choices[0].message.content[5]
    cut = tiny.create_chat_completion(ASK, logit_bias=bias, seed=1, stop=stop)
    assert stop not in cut.choices[0].message.content
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "kind", "what"),
    [
        ({"response_format": {"type": "xml"}}, InvalidArgument, "response_format is 'xml'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            InvalidArgument,
            "schema",
        ),
        ({"tool_choice": "required"}, InvalidArgument, "there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"name": "x"}}, InvalidArgument, "names 'x'"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, InvalidArgument, "tool_choice is"),
        ({"n": 9}, InvalidArgument, "n must be"),
        ({"logprobs": 5}, InvalidArgument, "True or False"),
        ({"top_logprobs": 2}, InvalidArgument, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, InvalidArgument, "0 to 20"),
        ({"chat_template_kwargs": {"x": True}}, InvalidArgument, "x is unknown"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, InvalidArgument, "True, False or None"),
        ({"think": True, "reasoning_effort": "none"}, InvalidArgument, "contradict"),
        ({"functions": [{}]}, InvalidArgument, "functions is not supported"),
        ({"grammar": "x"}, InvalidArgument, "grammar is not supported"),
        ({"max_token": 1}, TypeError, "max_token'"),
    ],
)
def test_what_would_change_the_answer_is_refused(
    tiny: Llama, options: dict[str, Any], kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what):
        tiny.create_chat_completion(ASK, **options)


def test_what_has_no_effect_warns_once(tiny: Llama) -> None:
    with pytest.warns(UserWarning, match="store has no effect"):
        tiny.create_chat_completion(ASK, store=True, **SHORT)  # type: ignore[call-overload]
    plain = {"response_format": {"type": "text"}, "n": 1, "tool_choice": "auto", "grammar": None}
    assert tiny.create_chat_completion(ASK, **plain, **SHORT)  # type: ignore[call-overload]


def test_thinking_in_all_spellings(tiny: Llama) -> None:
    on = tiny.render_chat(ASK, think=True)
    for asked in (
        {"think": True},
        {"enable_thinking": True},
        {"reasoning_effort": "high"},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"thinking_budget": 5},
    ):
        out = tiny.create_chat_completion(ASK, max_tokens=1, seed=1, **asked)  # type: ignore[call-overload]
        assert out.usage.prompt_tokens == len(on.ids)


@pytest.mark.skipif(importlib.util.find_spec("openai") is not None, reason="openai is installed")
def test_the_classes_of_openai_need_the_package(tiny: Llama) -> None:
    with pytest.raises(MissingExtra, match="openai is not installed"):
        tiny.create_chat_completion_openai_v1(ASK, **SHORT)


def test_the_classes_of_openai(tiny: Llama) -> None:
    chat = pytest.importorskip("openai.types.chat")
    whole = tiny.create_chat_completion_openai_v1(ASK, **SHORT)
    assert isinstance(whole, chat.ChatCompletion)
    tiny.reset()
    chunks = list(tiny.create_chat_completion_openai_v1(ASK, stream=True, **SHORT))
    assert all(isinstance(chunk, chat.ChatCompletionChunk) for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert isinstance(tiny.chat(ASK, **SHORT), ChatText)
