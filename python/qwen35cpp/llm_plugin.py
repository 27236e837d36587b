"""The models of this package in `llm` (https://llm.datasette.io), without a server.

    llm install qwen35cpp
    llm -m qwen35cpp/tiny "Tell me a story about a dog."
    llm -m qwen35cpp/2b -a photo.jpg "What is this?"         # a name that `qwen35cpp get` brought
    llm -m qwen35cpp -o model model.gguf -o think 1 "..."     # any file

`llm` finds this module by its entry point; nothing else imports it. A model is opened by its first
question and kept.
"""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import llm
from llm.parts import (
    AttachmentPart,
    ReasoningPart,
    StreamEvent,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from pydantic import Field

from . import hub
from .cli._names import find_model
from .llama import Llama

_SAMPLING = ("max_tokens", "seed", "temperature", "top_k", "top_p")
_open: dict[str, Llama] = {}
_opening = threading.Lock()


class Options(llm.Options):
    """What `-o` takes."""

    think: bool | None = Field(None, description="think before the answer")
    thinking_budget: int | None = Field(None, description="tokens of thought at most")
    temperature: float | None = Field(None, ge=0, description="0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="share of probability to draw from")
    top_k: int | None = Field(None, ge=0, description="tokens to draw from; 0 is all")
    max_tokens: int | None = Field(None, gt=0, description="length of the answer at most")
    seed: int | None = Field(None, ge=0, description="same seed, same answer")


class FileOptions(Options):
    """The same for any file."""

    model: str = Field("tiny", description="a GGUF file, or a name that `qwen35cpp get` takes")


class Qwen35(llm.Model):
    """One model file."""

    can_stream = supports_schema = supports_tools = True
    attachment_types = {"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"}  # noqa: RUF012
    Options = Options

    def __init__(self, model_id: str, source: str | None) -> None:
        self.model_id = model_id
        self._source = source
        if source is None:
            self.Options = FileOptions

    def execute(  # always streams: llm collects
        self,
        prompt: Any,
        stream: bool,  # noqa: ARG002
        response: Any,
        conversation: Any,  # noqa: ARG002
    ) -> Iterator[str | StreamEvent]:
        """Yields the answer to `prompt.messages`, the conversation so far."""
        chosen = prompt.options.model_dump(exclude_none=True)
        source = self._source or chosen.get("model", "tiny")
        sampling = {name: chosen[name] for name in _SAMPLING if name in chosen}
        if prompt.schema is not None:
            sampling["schema"] = prompt.schema
        chunks = _model(source).chat(
            [message for each in prompt.messages for message in _messages(each)],
            tools=[_function(tool) for tool in prompt.tools] or None,
            think=chosen.get("think"),
            thinking_budget=chosen.get("thinking_budget"),
            stream=True,
            **sampling,
        )
        with chunks:
            for chunk in chunks:
                if chunk.reasoning:
                    yield StreamEvent(type="reasoning", chunk=chunk.reasoning)
                elif chunk:
                    yield str(chunk)
        answer = chunks.result
        for call in answer.tool_calls:
            if call.complete:
                response.add_tool_call(
                    llm.ToolCall(name=call.name, arguments=call.arguments, tool_call_id=call.id)
                )
        usage = answer.usage
        response.set_usage(input=usage.prompt_tokens, output=usage.completion_tokens)

    def __str__(self) -> str:
        return f"qwen35cpp: {self.model_id}"


def _model(source: str) -> Llama:
    """The open model of a file or name."""
    with _opening:
        if source not in _open:
            # As on the command line: a path, tiny, or a name; nothing is downloaded from here.
            args = Namespace(model=source, mmproj=None, quiet=True)
            find_model(args)
            _open[source] = Llama(args.model, mmproj=args.mmproj)
        return _open[source]


def _messages(message: llm.Message) -> Iterator[Mapping[str, Any]]:
    """A message of llm in OpenAI's shape; each result of a tool is one of its own."""
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thought = ""
    for part in message.parts:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, ReasoningPart):
            thought += part.text
        elif isinstance(part, AttachmentPart) and part.attachment is not None:
            content.append({"type": "image", "image": part.attachment.content_bytes()})
        elif isinstance(part, ToolCallPart):
            function = {"name": part.name, "arguments": part.arguments}
            calls.append({"id": part.tool_call_id, "type": "function", "function": function})
        elif isinstance(part, ToolResultPart):
            said = part.output if part.exception is None else f"{part.output}\n{part.exception}"
            yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": said}
    if content or calls:
        made: dict[str, Any] = {"role": message.role, "content": content or None}
        if thought:
            made["reasoning_content"] = thought
        if calls:
            made["tool_calls"] = calls
        yield made


def _function(tool: Any) -> dict[str, Any]:
    """A tool of llm in OpenAI's shape."""
    parameters = tool.input_schema or {"type": "object", "properties": {}}
    function = {
        "name": tool.name, "description": tool.description or "", "parameters": parameters
    }  # fmt: skip
    return {"type": "function", "function": function}


@llm.hookimpl
def register_models(register: Any) -> None:
    """Offers the bundled model, those that were downloaded by a short name, and any file."""
    register(Qwen35("qwen35cpp", None))
    register(Qwen35("qwen35cpp/tiny", "tiny"))
    for name, reference in hub.published().items():
        if hub.find(reference) is not None:
            register(Qwen35(f"qwen35cpp/{name}", name))
