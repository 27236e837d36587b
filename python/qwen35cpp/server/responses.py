"""POST /v1/responses: OpenAI's Responses, without memory: every request brings its conversation."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from ..chat.answer import ChatChunk, ChatText
from ..chat.openai import shape_logprobs
from ..types import CompletionTimings
from .answers import Body, Context, Limit, Objects, given, report_progress, text_of
from .errors import HttpError, bad
from .jobs import Event, Job


class ResponseBody(Body, kw_only=True):
    """The fields of a response request."""

    input: str | Objects
    instructions: str | None = None
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Limit | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    seed: int | None = None  # not OpenAI's, as the two that follow
    stop: str | list[str] | None = None
    thinking_budget: int | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    include: list[str] | None = None
    metadata: dict[str, Any] | None = None  # given back
    # Without a meaning here.
    context_management: Any = None
    max_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    stream_options: Any = None
    truncation: Any = None
    user: Any = None


def response_work(context: Context, data: bytes) -> tuple[Callable[[Job], Iterator[Event]], bool]:
    """The work of a request, and whether it streams."""
    body = msgspec.json.decode(data, type=ResponseBody)
    for name in ("previous_response_id", "conversation", "background", "prompt"):
        if getattr(body, name):
            raise bad(f"{name} is not supported: nothing is stored here", name)
    messages, options = _messages(body), _options(body)

    def work(job: Job) -> Iterator[Event]:
        writer = _Writer(context.name, body)
        report_progress(job, body, options, writer.progress)
        request = context.chat_request(job, messages, options)
        events = writer.begin()
        yield from context.write(job, request, writer, events, body)

    return work, bool(body.stream)


def stream_error(error: HttpError) -> Event:
    """An error within a stream."""
    event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return "error", {**event, "sequence_number": 0}


# ---- the request --------------------------------------------------------------------------------


def _options(body: ResponseBody) -> dict[str, Any]:
    """The options of a chat completion that ask for the same."""
    options = given(body, "temperature", "top_p", "seed", "stop", "thinking_budget",
                    "parallel_tool_calls", "top_logprobs")  # fmt: skip
    if body.max_output_tokens is not None:
        options["max_tokens"] = body.max_output_tokens
    if body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or ()):
        options["logprobs"] = True
    if body.reasoning and body.reasoning.get("effort") is not None:
        options["reasoning_effort"] = body.reasoning["effort"]
    if body.tools:
        options["tools"] = [_tool(i, tool) for i, tool in enumerate(body.tools)]
    choice = body.tool_choice
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    if choice is not None and (body.tools or choice != "none"):
        options["tool_choice"] = choice
    wanted = (body.text or {}).get("format") or {"type": "text"}
    if not isinstance(wanted, Mapping):
        raise bad("text.format must be an object", "text.format")
    if wanted.get("type") == "json_schema":
        schema = {key: value for key, value in wanted.items() if key != "type"}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted.get("type") != "text":
        options["response_format"] = dict(wanted)
    return options


def _tool(index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        kind = tool.get("type")
        raise bad(f"tools[{index}]: only functions can be called, not {kind!r}", f"tools[{index}]")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _messages(body: ResponseBody) -> Objects:
    """The conversation as chat messages."""
    system = [body.instructions] if body.instructions else []
    if isinstance(body.input, str):
        messages: Objects = [{"role": "user", "content": body.input}]
    else:
        messages = []
        for index, item in enumerate(body.input):
            where = f"input[{index}]"
            if item.get("role") in ("system", "developer"):
                system.append(text_of(item.get("content"), where))
            else:
                _add(messages, item, where)
    if system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return messages


def _add(messages: Objects, item: Mapping[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        message = {"role": item.get("role"), "content": _content(item.get("content"), where)}
        thought = messages and messages[-1].get("_open")
        if message["role"] == "assistant" and thought:
            messages[-1].pop("_open")
            messages[-1]["content"] = message["content"]
        else:
            messages.append(message)
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].pop("_open", None)
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str) else _content(output, where)
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind == "reasoning":
        thought = text_of(item.get("content") or [], where)
        messages.append(
            {"role": "assistant", "content": None, "reasoning_content": thought, "_open": True}
        )
    else:
        raise bad(f"{where}: items of type {kind!r} are not supported", where)


def _content(content: Any, where: str) -> Any:
    """Content with the parts of Responses as those of chat."""
    if not isinstance(content, list):
        return content
    parts: Objects = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("input_text", "output_text", "text"):
            parts.append({"type": "text", "text": part.get("text")})
        elif kind == "refusal":
            parts.append({"type": "text", "text": part.get("refusal")})
        elif kind == "input_image" and part.get("image_url"):
            shown = {"image_url": part["image_url"], "detail": part.get("detail")}
            parts.append({"type": "image_url", **shown})
        else:
            raise bad(f"{where}: content of type {kind!r} is not supported", where)
    return parts


# ---- the answer ---------------------------------------------------------------------------------


class _Writer:
    """The response object while it grows, and the events that tell of it."""

    def __init__(self, model: str, body: ResponseBody) -> None:
        self._sequence = 0
        self._open: dict[str, Any] | None = None  # the item that grows
        self._items: list[dict[str, Any]] = []
        self._call = -1
        self.whole: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None, **(body.reasoning or {})},
            "store": False,
            "temperature": body.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _event(self, kind: str, /, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return kind, event

    def begin(self) -> list[Event]:
        snapshot = dict(self.whole)
        return [
            self._event("response.created", response=snapshot),
            self._event("response.in_progress", response=snapshot),
        ]

    def progress(self, progress: dict[str, int]) -> Event:
        """How much of the prompt was read: an event of our own, which comes when asked for."""
        return self._event("response.prompt_progress", prompt_progress=progress)

    def push(self, chunk: ChatChunk) -> list[Event]:
        """What a chunk of the answer adds."""
        if chunk.tool_call is not None:
            return self._push_call(chunk)
        if chunk.kind == "reasoning":
            return self._push_text("reasoning", "reasoning_text", chunk.reasoning, chunk)
        return self._push_text("message", "output_text", str(chunk), chunk) if chunk else []

    def _push_text(self, kind: str, part: str, text: str, chunk: ChatChunk) -> list[Event]:
        events = []
        if self._open is None or self._open["type"] != kind:
            item = self._new_item(kind)
            events = self._close()
            events += self._open_item(item)
            item["content"] = [_part(part, "")]
            events.append(
                self._event(
                    "response.content_part.added",
                    **self._place(),
                    content_index=0,
                    part=_part(part, ""),
                )
            )
        assert self._open is not None
        self._open["content"][0]["text"] += text
        more: dict[str, Any] = {}
        if part == "output_text":
            shaped = shape_logprobs(chunk.logprobs)
            logprobs = shaped.content if shaped else []
            self._open["content"][0]["logprobs"] += logprobs
            more = {"logprobs": logprobs}
        events.append(
            self._event(
                f"response.{part}.delta", **self._place(), content_index=0, delta=text, **more
            )
        )
        return events

    def _push_call(self, chunk: ChatChunk) -> list[Event]:
        delta = chunk.tool_call
        assert delta is not None
        events = []
        if delta.index != self._call:
            self._call = delta.index
            item = self._new_item("function_call")
            item.update(call_id=delta.id, name=delta.name, arguments="")
            events = self._close()
            events += self._open_item(item)
        assert self._open is not None
        self._open["arguments"] += delta.arguments
        if delta.arguments:
            events.append(
                self._event(
                    "response.function_call_arguments.delta", **self._place(), delta=delta.arguments
                )
            )
        if delta.done and not delta.complete:
            self._open["status"] = "incomplete"
        return events

    def _new_item(self, kind: str) -> dict[str, Any]:
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item: dict[str, Any] = {
            "id": f"{prefix}_{uuid.uuid4().hex}",
            "type": kind,
            "status": "in_progress",
        }
        if kind == "message":
            item.update(role="assistant", content=[])
        elif kind == "reasoning":
            item.update(summary=[], content=[])
        return item

    def _open_item(self, item: dict[str, Any]) -> list[Event]:
        self._open = item
        self._items.append(item)
        snapshot = {k: list(v) if isinstance(v, list) else v for k, v in item.items()}
        index = len(self._items) - 1
        return [self._event("response.output_item.added", output_index=index, item=snapshot)]

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._items) - 1}

    def _close(self) -> list[Event]:
        """Ends the item that grows."""
        item = self._open
        if item is None:
            return []
        if item["status"] == "in_progress":
            item["status"] = "completed"
        place, events = self._place(), []
        if item["type"] == "function_call":
            events.append(
                self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            )
        else:
            part = item["content"][0]
            more = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
            events += [
                self._event(f"response.{part['type']}.done", **place, content_index=0,
                            text=part["text"], **more),
                self._event("response.content_part.done", **place, content_index=0, part=part),
            ]  # fmt: skip
        index = place["output_index"]
        events.append(self._event("response.output_item.done", output_index=index, item=item))
        self._open = None
        return events

    def finish(self, text: ChatText) -> list[Event]:
        """Ends the response."""
        cut = text.finish_reason == "length"
        if self._open is not None and cut:
            self._open["status"] = "incomplete"
        events = self._close()
        usage = text.usage
        self.whole.update(
            status="incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            completed_at=int(time.time()),
            output=self._items,
            usage={
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": text.reasoning_tokens},
                "total_tokens": usage.total_tokens,
            },
            timings=CompletionTimings.of([text]),
        )
        name = f"response.{self.whole['status']}"
        return [*events, self._event(name, response=self.whole)]


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "text": text}
