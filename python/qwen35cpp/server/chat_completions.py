"""POST /v1/chat/completions: OpenAI's, with llama.cpp's timings and progress of the prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..chat import openai
from ..chat.answer import ChatText
from ..chat.conversation import ChatStream
from ..types import Record
from .answers import SAMPLING, Context, Limit, Objects, SamplingBody, given, report_progress
from .errors import HttpError, openai_error
from .jobs import Event, Job


class ChatBody(SamplingBody, kw_only=True):
    """The fields of a chat completion."""

    messages: Objects
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Limit | None = None
    repetition_penalty: float | None = None  # vLLM's name
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    think: bool | None = None
    thinking_budget: int | None = None
    functions: Any = None  # refused below: they would change the answer
    function_call: Any = None
    # Without a meaning here.
    audio: Any = None
    metadata: Any = None
    modalities: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    timings_per_token: Any = None
    verbosity: Any = None


_PASSED = (
    *SAMPLING, "seed", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens",
    "logprobs", "top_logprobs", "n", "response_format", "reasoning_effort", "chat_template_kwargs",
    "enable_thinking", "think", "thinking_budget", "functions", "function_call",
)  # fmt: skip


def chat_work(context: Context, data: bytes) -> tuple[Callable[[Job], Iterator[Event]], bool]:
    """The work of a request, and whether it streams."""
    body = msgspec.json.decode(data, type=ChatBody)
    options = given(body, *_PASSED)
    if body.repetition_penalty is not None:
        options.setdefault("repeat_penalty", body.repetition_penalty)
    options["model"] = context.name
    if not body.stream:
        return lambda job: _whole(context, job, body.messages, options), False
    include_usage = bool((body.stream_options or {}).get("include_usage"))

    def stream(job: Job) -> Iterator[Event]:
        return _stream(context, job, body, options, include_usage)

    return stream, True


def _whole(
    context: Context, job: Job, messages: Objects, options: dict[str, Any]
) -> Iterator[Event]:
    context.check(messages, options, cut=True)

    def drain(stream: ChatStream) -> ChatText:
        text = job.stop.drain(stream)
        context.count(text)
        return text

    yield openai.create(context.llama, messages, False, context.watched(job, options), drain)


def _stream(
    context: Context, job: Job, body: ChatBody, options: dict[str, Any], include_usage: bool
) -> Iterator[Event]:
    context.check(body.messages, options, cut=True)
    report_progress(job, body, options, lambda progress: _progress_chunk(context.name, progress))
    chosen = {**context.watched(job, options), "stream_options": {"include_usage": True}}
    chunks: Any = openai.create(context.llama, body.messages, True, chosen)
    for chunk in chunks:
        if chunk.choices:
            if not include_usage:
                del chunk["usage"]
            yield chunk
            continue
        context.count_last(chunk)
        if include_usage:
            yield chunk
    yield "[DONE]"


def _progress_chunk(model: str, progress: dict[str, int]) -> Event:
    """How much of the prompt was read, as a chunk without a choice."""
    return Record(
        id="chatcmpl-progress",
        object="chat.completion.chunk",
        created=int(time.time()),
        model=model,
        choices=[],
        prompt_progress=progress,
    )


def stream_error(error: HttpError) -> Event:
    """An error within a stream, in OpenAI's form."""
    return openai_error(error)
