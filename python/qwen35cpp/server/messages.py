"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from ..chat.answer import ChatChunk, ChatText
from ..types import CompletionTimings
from .answers import Body, Context, Objects, given, report_progress, text_of
from .errors import HttpError, anthropic_error, bad
from .jobs import Event, Job


class CountBody(Body, kw_only=True):
    """The fields that a prompt is made of."""

    messages: Objects
    system: str | Objects | None = None
    tools: Objects | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None  # its older name
    # Without a meaning here.
    cache_control: Any = None
    context_management: Any = None
    mcp_servers: Any = None


class MessageBody(CountBody, kw_only=True):
    """The fields of a message request."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None  # not Anthropic's
    # Without a meaning here.
    container: Any = None
    diagnostics: Any = None
    inference_geo: Any = None
    metadata: Any = None
    service_tier: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


def message_work(context: Context, data: bytes) -> tuple[Callable[[Job], Iterator[Event]], bool]:
    """The work of a request, and whether it streams."""
    body = msgspec.json.decode(data, type=MessageBody)
    messages, options = _messages(body), _options(body)
    options.update(given(body, "max_tokens", "temperature", "top_p", "top_k", "seed"))
    if body.stop_sequences:
        options["stop"] = body.stop_sequences

    def work(job: Job) -> Iterator[Event]:
        report_progress(job, body, options, _ping)
        request = context.chat_request(job, messages, options)
        writer = _Writer(context.name)
        events = writer.begin(len(request.request.tokens))
        yield from context.write(job, request, writer, events, body)

    return work, bool(body.stream)


def count_work(context: Context, data: bytes) -> Callable[[Job], Iterator[Event]]:
    """Counts the tokens of a prompt."""
    body = msgspec.json.decode(data, type=CountBody)
    messages, options = _messages(body), _options(body)

    def work(job: Job) -> Iterator[Event]:
        request = context.chat_request(job, messages, {**options, "max_tokens": 1})
        yield {"input_tokens": len(request.request.tokens)}

    return work


def stream_error(error: HttpError) -> Event:
    """An error within a stream."""
    return "error", anthropic_error(error)


# ---- the request --------------------------------------------------------------------------------


def _options(body: CountBody) -> dict[str, Any]:
    """The options of a chat completion that ask for the same."""
    options: dict[str, Any] = _thinking(body.thinking or {"type": "disabled"})
    if body.tools:
        options["tools"] = [_tool(index, tool) for index, tool in enumerate(body.tools)]
    choice = body.tool_choice or {}
    kind = choice.get("type", "auto")
    if kind == "tool":
        options["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif kind in ("any", "none"):
        options["tool_choice"] = {"any": "required", "none": "none"}[kind]
    elif kind != "auto":
        raise bad(f"tool_choice: type {kind!r} is unknown", "tool_choice")
    if choice.get("disable_parallel_tool_use"):
        options["parallel_tool_calls"] = False
    wanted = (body.output_config or {}).get("format") or body.output_format
    if wanted:
        schema = {"name": "output", "schema": wanted.get("schema"), "strict": True}
        options["response_format"] = {"type": wanted.get("type"), "json_schema": schema}
    return options


def _thinking(thinking: Mapping[str, Any]) -> dict[str, Any]:
    kind = thinking.get("type")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < 1:
            raise bad("thinking.budget_tokens must be at least 1", "thinking.budget_tokens")
        return {"thinking_budget": budget}
    if kind in ("adaptive", "disabled"):
        return {"think": kind == "adaptive"}
    raise bad(f"thinking: type {kind!r} is unknown", "thinking.type")


def _tool(index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom" or not isinstance(tool.get("input_schema"), dict):
        where = f"tools.{index}"
        raise bad(f"{where}: only tools with an input_schema can be called", where)
    function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _messages(body: CountBody) -> Objects:
    """The conversation as chat messages."""
    system = [text_of(body.system, "system")] if body.system else []
    messages: Objects = []
    for index, message in enumerate(body.messages):
        where, role, content = f"messages.{index}", message.get("role"), message.get("content")
        if role == "system":
            system.append(text_of(content, where))
        elif role == "assistant":
            messages.append(_assistant(content, where))
        elif role == "user":
            messages += _user(content, where)
        else:
            raise bad(f"{where}: role {role!r} is unknown", where)
    if system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return messages


def _blocks(content: Any, where: str) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        raise bad(f"{where}: content must be a text or a list of blocks", where)
    return content


def _assistant(content: Any, where: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    texts, thoughts, calls = [], [], []
    for block in _blocks(content, where):
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking", "")))
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind != "redacted_thinking":
            raise bad(f"{where}: blocks of type {kind!r} are not supported", where)
    message["content"] = "".join(texts)
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _user(content: Any, where: str) -> Objects:
    """Results of tools are messages of their own, before what the person says."""
    results: Objects = []
    parts: Objects = []
    for block in _blocks(content, where):
        if block.get("type") == "tool_result":
            inner = block.get("content") or ""
            text = [_part(each, where) for each in _blocks(inner, where)]
            identity = block.get("tool_use_id")
            results.append({"role": "tool", "tool_call_id": identity, "content": text})
        else:
            parts.append(_part(block, where))
    return [*results, {"role": "user", "content": parts}] if parts or not results else results


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind, source = block.get("type"), block.get("source")
    if kind == "text":
        return {"type": "text", "text": block.get("text")}
    if kind == "image" and isinstance(source, Mapping):
        if source.get("type") != "base64":
            raise bad(f"{where}: pictures must be sent as base64, addresses are not opened", where)
        url = f"data:{source.get('media_type', 'image/png')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": url}}
    raise bad(f"{where}: blocks of type {kind!r} are not supported", where)


# ---- the answer ---------------------------------------------------------------------------------

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class _Writer:
    """The message while it grows, and the events that tell of it."""

    def __init__(self, model: str) -> None:
        self._json = ""  # the arguments of the call that grows
        self._call = -1
        self._open = False
        self.whole: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {},
        }

    def begin(self, prompt: int) -> list[Event]:
        # What was read before is known when the prompt has been read: the last event tells.
        usage = {"input_tokens": prompt, "output_tokens": 0, "cache_read_input_tokens": 0,
                 "cache_creation_input_tokens": 0}  # fmt: skip
        message = {**self.whole, "content": [], "usage": usage}
        return [_event("message_start", message=message)]

    def push(self, chunk: ChatChunk) -> list[Event]:
        """What a chunk of the answer adds."""
        call = chunk.tool_call
        if call is not None:
            events = []
            if call.index != self._call:
                block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
                events = self._start(block)  # ends the call before, which _json still belongs to
                self._call, self._json = call.index, ""
            self._json += call.arguments
            if call.arguments:
                delta = {"type": "input_json_delta", "partial_json": call.arguments}
                events.append(self._delta(delta))
            return events
        if chunk.kind == "reasoning":
            return self._push("thinking", chunk.reasoning, {"signature": ""})
        return self._push("text", str(chunk), {}) if chunk else []

    def _push(self, kind: str, text: str, more: dict[str, Any]) -> list[Event]:
        content, events = self.whole["content"], []
        if not self._open or content[-1]["type"] != kind:
            if kind == "text" and not text.strip():
                return []  # line breaks between calls
            events = self._start({"type": kind, kind: "", **more})
        content[-1][kind] += text
        return [*events, self._delta({"type": f"{kind}_delta", kind: text})]

    def _start(self, block: dict[str, Any]) -> list[Event]:
        events = self._stop()
        self.whole["content"].append(block)
        self._open = True
        index = len(self.whole["content"]) - 1
        return [*events, _event("content_block_start", index=index, content_block=dict(block))]

    def _delta(self, delta: dict[str, Any]) -> Event:
        index = len(self.whole["content"]) - 1
        return _event("content_block_delta", index=index, delta=delta)

    def _stop(self) -> list[Event]:
        if not self._open:
            return []
        self._open = False
        block, events = self.whole["content"][-1], []
        if block["type"] == "tool_use":
            block["input"] = _arguments(self._json)
        if block["type"] == "thinking":  # clients expect it; thoughts are not signed here
            events.append(self._delta({"type": "signature_delta", "signature": ""}))
        index = len(self.whole["content"]) - 1
        return [*events, _event("content_block_stop", index=index)]

    def finish(self, text: ChatText) -> list[Event]:
        """Ends the message."""
        events = self._stop()
        reason, sequence = _REASONS[text.finish_reason], None
        if reason == "end_turn" and isinstance(text.stop_reason, str):
            reason, sequence = "stop_sequence", text.stop_reason
        usage = {
            "input_tokens": text.usage.prompt_tokens - text.usage.cached_tokens,
            "cache_read_input_tokens": text.usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": text.usage.completion_tokens,
        }
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        figures = {"usage": usage, "timings": CompletionTimings.of([text])}
        self.whole.update(delta, **figures)
        return [*events, _event("message_delta", delta=delta, **figures), _event("message_stop")]


def _ping(progress: dict[str, int]) -> Event:
    """How much of the prompt was read, in an event that clients skip."""
    return _event("ping", prompt_progress=progress)


def _event(name: str, **fields: Any) -> Event:
    return name, {"type": name, **fields}


def _arguments(text: str) -> Any:
    """The arguments of a call; nothing of one that was cut off."""
    try:
        return json.loads(text)
    except ValueError:
        return {}
