"""Chat completions in the shapes of OpenAI's API and llama-cpp-python."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .._compat import warn_ignored
from .._request import Progress, Stop
from ..errors import InvalidArgument, MissingExtra
from ..types import CompletionTimings, Record, TokenLogprob, Usage
from .answer import ChatChunk, ChatText
from .calls import CallDelta
from .conversation import ChatRequest, ChatStream
from .messages import Message
from .thought import thinking_asked
from .tools import Tool

if TYPE_CHECKING:
    from .methods import ChatMethods

_MOST_ANSWERS = 8
_MOST_ALTERNATIVES = 20


class ChatCompletionOptions(TypedDict, total=False):
    """Arguments of `Llama.create_chat_completion`."""

    tools: Sequence[Tool] | None
    tool_choice: str | Mapping[str, Any] | None  # "none", "auto", "required" or a function
    parallel_tool_calls: bool | None  # False: one call at most
    max_tokens: int | None  # None or 0 and less: until the context is full
    max_completion_tokens: int | None  # the newer name, which wins
    temperature: float | None
    top_p: float | None
    min_p: float | None
    top_k: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repeat_penalty: float | None
    seed: int | None
    stop: Stop
    logprobs: bool | None
    top_logprobs: int | None  # 0 to 20
    logit_bias: Mapping[str, float] | Mapping[int, float] | None
    n: int | None  # answers, 1 to 8
    response_format: Any  # type "text", "json_object" or "json_schema", or a class
    stream_options: Mapping[str, Any] | None  # {"include_usage": True}
    reasoning_effort: str | None  # "none" is off
    chat_template_kwargs: Mapping[str, Any] | None  # enable_thinking, add_vision_id
    enable_thinking: bool | None
    think: bool | None
    thinking_budget: int | None
    model: str | None  # the name to report
    user: str | None
    progress: Progress | None  # as in `Llama.generate`
    overflow: Literal["error", "drop"]  # "drop": too long a conversation loses its oldest turns


class ChatCompletionMessage(Record):
    """An answer as a message."""

    role: str
    content: str | None
    reasoning_content: str  # when the model thought
    tool_calls: list[Record]  # when it calls: id, type, function: {name, arguments as JSON text}


class ChatCompletionChoice(Record):
    """One answer of a chat completion."""

    index: int
    message: ChatCompletionMessage
    logprobs: Record | None
    finish_reason: str  # "stop", "tool_calls", or "length": then a call may lack arguments


class ChatCompletionUsage(Record):
    """Token counts of a chat completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Record  # cached_tokens
    completion_tokens_details: Record  # reasoning_tokens


class ChatCompletion(Record):
    """OpenAI's chat completion object with the time it took."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatCompletionChoice]
    usage: ChatCompletionUsage
    timings: CompletionTimings


class ChatCompletionChunk(Record):
    """A piece of a streamed chat completion; each choice has a `delta` to the message."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Record]
    usage: ChatCompletionUsage | None  # in the last chunk when stream_options asks for it
    timings: CompletionTimings  # beside the usage


# Ours, where the name differs.
_NAMES = {"repeat_penalty": "repetition_penalty"}
_PASSED = frozenset({
    "temperature", "top_p", "min_p", "top_k", "frequency_penalty", "presence_penalty",
    "repeat_penalty", "stop", "progress", "overflow",
})  # fmt: skip
_SWITCHES = frozenset({"enable_thinking", "add_vision_id"})


def create(
    llama: ChatMethods,
    messages: Sequence[Message],
    stream: bool,
    options: Mapping[str, Any],
    drain: Callable[[ChatStream], ChatText] = ChatStream.drain,
) -> ChatCompletion | Iterator[ChatCompletionChunk]:
    """A chat completion, or an iterator of its chunks; `drain` reads an answer to its end."""
    rest = dict(options)
    frame = _Frame(rest.pop("model", None) or Path(llama.model_path).name)
    include_usage = bool((rest.pop("stream_options", None) or {}).get("include_usage"))
    requests = chat_requests(llama, messages, rest)
    if stream:
        return _stream(llama, requests, frame, include_usage)
    answers = [drain(llama._chat().answer(request)) for request in requests]
    choices = [
        ChatCompletionChoice(
            index=index,
            message=_message(answer),
            logprobs=shape_logprobs(answer.logprobs),
            finish_reason=answer.finish_reason,
        )
        for index, answer in enumerate(answers)
    ]
    return frame.completion(choices, _usage(answers), CompletionTimings.of(answers))


def create_v1(
    llama: ChatMethods, messages: Sequence[Message], stream: bool, options: Mapping[str, Any]
) -> Any:
    """The same as objects of the package `openai`."""
    try:
        chat = importlib.import_module("openai.types.chat")
    except ImportError as error:
        raise MissingExtra(
            "the package openai is not installed", hint="pip install openai"
        ) from error
    result = create(llama, messages, stream, options)
    if isinstance(result, ChatCompletion):
        return chat.ChatCompletion.model_validate(result)
    return (chat.ChatCompletionChunk.model_validate(chunk) for chunk in result)


# ---- arguments ----------------------------------------------------------------------------------


def chat_requests(
    llama: ChatMethods, messages: Sequence[Message], rest: dict[str, Any]
) -> list[ChatRequest]:
    """One request for each of the `n` answers; takes what it knows out of `rest`."""
    passed = {_NAMES.get(name, name): rest.pop(name) for name in _PASSED if name in rest}
    limit, newer = rest.pop("max_tokens", None), rest.pop("max_completion_tokens", None)
    limit = limit if newer is None else newer
    passed["max_tokens"] = limit if limit is not None and limit > 0 else None
    bias = rest.pop("logit_bias", None) or {}
    passed["logit_bias"] = {int(token): value for token, value in bias.items()}
    passed["logprobs"] = _alternatives(rest.pop("logprobs", None), rest.pop("top_logprobs", None))
    switches = _switches(rest.pop("chat_template_kwargs", None))
    think = thinking_asked(
        think=rest.pop("think", None),
        enable_thinking=rest.pop("enable_thinking", None),
        reasoning_effort=rest.pop("reasoning_effort", None),
        chat_template_kwargs=switches,
    )
    tools, forced = _tool_choice(rest.pop("tools", None), rest.pop("tool_choice", None))
    seed = rest.pop("seed", None)
    seed = llama.seed if seed is None else seed
    n = rest.pop("n", None) or 1
    if not 1 <= n <= _MOST_ANSWERS:
        raise InvalidArgument(f"n must be from 1 to {_MOST_ANSWERS}, not {n}")
    passed["schema"] = schema_wanted(rest.pop("response_format", None))
    shared: dict[str, Any] = {
        "tools": tools,
        "think": think,
        "thinking_budget": rest.pop("thinking_budget", None),
        "forced_call": forced,
        "one_call": rest.pop("parallel_tool_calls", None) is False,
        "add_vision_id": bool(switches.get("add_vision_id")),
    }
    warn_ignored("create_chat_completion", rest)
    seeds = [None if seed is None else seed + i for i in range(n)]
    first = llama._chat().request(messages, passed, seed=seeds[0], **shared)
    return [first, *(first.with_seed(each) for each in seeds[1:])]  # pictures are decoded once


def _alternatives(logprobs: Any, top_logprobs: int | None) -> int | None:
    if not logprobs:
        if top_logprobs:
            raise InvalidArgument("top_logprobs needs logprobs=True")
        return None
    if not isinstance(logprobs, bool):
        raise InvalidArgument(
            "logprobs is True or False in a chat", hint="top_logprobs is the number of alternatives"
        )
    top = top_logprobs or 0
    if not 0 <= top <= _MOST_ALTERNATIVES:
        raise InvalidArgument(f"top_logprobs must be from 0 to {_MOST_ALTERNATIVES}, not {top}")
    return top


def _switches(kwargs: Any) -> dict[str, bool]:
    switches = dict(kwargs or {})
    unknown = sorted(set(switches) - _SWITCHES)
    if unknown:
        raise InvalidArgument(
            f"chat_template_kwargs: {', '.join(map(str, unknown))} is unknown",
            hint=f"known are {', '.join(sorted(_SWITCHES))}",
        )
    return switches


def _tool_choice(
    tools: Sequence[Tool] | None, choice: Any
) -> tuple[Sequence[Tool] | None, str | None]:
    """The tools to show, and the call to force: a name, "" for any, None for none."""
    if choice is None or choice == "auto":
        return tools, None
    if choice == "none":
        return None, None
    if choice == "required":
        return tools, ""
    name = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = name.get("name") if isinstance(name, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidArgument(
            f"tool_choice is {choice!r}",
            hint="give 'none', 'auto', 'required' or "
            "{'type': 'function', 'function': {'name': NAME}}",
        )
    return tools, name


def schema_wanted(response_format: Any) -> Any:
    """The schema that a response format asks for, None for plain text."""
    if response_format is None:
        return None
    if not isinstance(response_format, Mapping):
        return response_format  # a class
    kind = response_format.get("type")
    if kind == "json_object":  # with a schema of its own as in llama-cpp-python
        return response_format.get("schema") or {"type": "object"}
    if kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if not isinstance(schema, Mapping):
            raise InvalidArgument("response_format: json_schema needs a schema")
        return schema
    if kind != "text":
        raise InvalidArgument(
            f"response_format is {kind or response_format!r}",
            hint="its type is 'text', 'json_object' or 'json_schema'",
        )
    return None


# ---- results ------------------------------------------------------------------------------------


class _Frame:
    """What all chunks of one completion share."""

    def __init__(self, model: str) -> None:
        self._shared = {
            "id": f"chatcmpl-{os.urandom(12).hex()}",
            "created": int(time.time()),
            "model": model,
        }

    def completion(
        self,
        choices: list[ChatCompletionChoice],
        usage: ChatCompletionUsage,
        timings: CompletionTimings,
    ) -> ChatCompletion:
        return ChatCompletion(
            **self._shared,
            object="chat.completion",
            choices=choices,
            usage=usage,
            timings=timings,
        )

    def chunk(self, choices: list[Record], **more: Any) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            **self._shared, object="chat.completion.chunk", choices=choices, **more
        )


def _stream(
    llama: ChatMethods, requests: Sequence[ChatRequest], frame: _Frame, include_usage: bool
) -> Generator[ChatCompletionChunk, None, None]:
    """The answers one after another; each begins with its role and ends with its reason."""
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    answers = []

    def chunk(
        index: int, delta: Record, reason: str | None = None, logprobs: Record | None = None
    ) -> ChatCompletionChunk:
        choice = Record(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)
        return frame.chunk([choice], **usage)

    for index, request in enumerate(requests):
        yield chunk(index, Record(role="assistant", content=""))
        with llama._chat().answer(request) as stream:
            for piece in stream:
                delta = _delta(piece)
                if delta:
                    yield chunk(index, delta, logprobs=shape_logprobs(piece.logprobs))
        if stream.result is None:
            return
        answers.append(stream.result)
        yield chunk(index, Record(), stream.result.finish_reason)
    if include_usage:
        yield frame.chunk([], usage=_usage(answers), timings=CompletionTimings.of(answers))


def _delta(piece: ChatChunk) -> Record:
    if piece.tool_call is not None:
        return Record(tool_calls=[_call_delta(piece.tool_call)])
    if piece.kind == "reasoning":
        return Record(reasoning_content=piece.reasoning)
    return Record(content=str(piece)) if piece or piece.logprobs else Record()


def _call_delta(delta: CallDelta) -> Record:
    """The first piece of a call names it; the arguments of all pieces join to one JSON text."""
    if not delta.name:
        return Record(index=delta.index, function=Record(arguments=delta.arguments))
    function = Record(name=delta.name, arguments=delta.arguments)
    return Record(index=delta.index, id=delta.id, type="function", function=function)


def _message(answer: ChatText) -> ChatCompletionMessage:
    message = ChatCompletionMessage(answer.message)
    if "tool_calls" in message:
        message["tool_calls"] = [
            Record(call, function=Record(call["function"])) for call in message["tool_calls"]
        ]
    return message


def _usage(answers: Sequence[ChatText]) -> ChatCompletionUsage:
    """The prompt counts once, the answers together, as OpenAI does for n > 1."""
    first: Usage = answers[0].usage
    made = sum(answer.usage.completion_tokens for answer in answers)
    return ChatCompletionUsage(
        prompt_tokens=first.prompt_tokens,
        completion_tokens=made,
        total_tokens=first.prompt_tokens + made,
        prompt_tokens_details=Record(cached_tokens=first.cached_tokens),
        completion_tokens_details=Record(
            reasoning_tokens=sum(answer.reasoning_tokens for answer in answers)
        ),
    )


def shape_logprobs(entries: Sequence[TokenLogprob] | None) -> Record | None:
    """Log-probabilities of a text in the shape of chat completions."""
    if entries is None:
        return None
    content = []
    for entry in entries:
        best = [_logprob(other) for other in entry.top]
        content.append(Record(_logprob(entry), top_logprobs=best))
    return Record(content=content, refusal=None)


def _logprob(entry: TokenLogprob) -> Record:
    token = entry.piece.decode("utf-8", "replace")
    return Record(token=token, logprob=entry.logprob, bytes=list(entry.piece))
