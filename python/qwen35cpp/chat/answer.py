"""What a chat returns: the answer as text that also carries thought, tool calls and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..types import Chunk, Text, TokenLogprob
from .calls import CallDelta

Kind = Literal["text", "reasoning", "tool_call"]


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for. Nothing runs it but `Llama.run_tools` or your own code."""

    id: str
    name: str
    arguments: dict[str, Any]
    complete: bool = True  # False: the answer was cut off within the call; do not run it

    @property
    def message(self) -> dict[str, Any]:
        """The call in OpenAI's shape, with the arguments as a JSON string."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class ChatChunk(Chunk):
    """A piece of a streamed chat.

    As a str it is text of the answer, so that printing every chunk prints the answer and nothing
    else; chunks of the other kinds are empty strings and have their content in an attribute.
    """

    __slots__ = ("kind", "reasoning", "tool_call")
    kind: Kind
    reasoning: str  # text of the thought when kind is "reasoning"
    tool_call: CallDelta | None  # when kind is "tool_call"

    @classmethod
    def of(
        cls,
        kind: Kind,
        text: str = "",
        *,
        reasoning: str = "",
        tool_call: CallDelta | None = None,
        tokens: Sequence[int] = (),
        logprobs: list[TokenLogprob] | None = None,
        finish_reason: str | None = None,
    ) -> ChatChunk:
        """A chunk with its attributes."""
        chunk = cls(text)
        chunk.tokens, chunk.logprobs, chunk.finish_reason = list(tokens), logprobs, finish_reason
        chunk.kind, chunk.reasoning, chunk.tool_call = kind, reasoning, tool_call
        return chunk


class ChatText(Text):
    """The answer of a chat: a str with everything that belongs to it.

    `tokens` are all that were generated, thought and calls included; `logprobs`, when asked for,
    those of the answer's text alone. `finish_reason` is "stop", "length" or "tool_calls".
    """

    __slots__ = ("messages", "reasoning", "reasoning_end", "reasoning_tokens", "tool_calls")
    reasoning: str  # the thought; "" when there was none
    reasoning_tokens: int
    # What ended the thought: "model", "budget" or "loop"; None when none was ended.
    reasoning_end: str | None
    tool_calls: tuple[ToolCall, ...]
    messages: list[dict[str, Any]]  # the conversation with this answer

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message in OpenAI's shape, to append to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": str(self)}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["content"] = str(self) or None
            message["tool_calls"] = [call.message for call in self.tool_calls]
        return message


@dataclass
class CallCollector:
    """Joins the pieces of tool calls."""

    _pieces: dict[int, list[CallDelta]] = field(default_factory=dict)

    def add(self, delta: CallDelta) -> None:
        """The next piece of any call."""
        self._pieces.setdefault(delta.index, []).append(delta)

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in order."""
        return tuple(_joined(pieces) for _, pieces in sorted(self._pieces.items()))


def _joined(pieces: Sequence[CallDelta]) -> ToolCall:
    last = pieces[-1]
    text = "".join(piece.arguments for piece in pieces)
    arguments = json.loads(text) if last.done else {}
    return ToolCall(last.id, pieces[0].name, arguments, last.done and last.complete)
