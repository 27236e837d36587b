"""Generated conversations for comparing chat renderers, and the oracle that renders them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tiny.chat_format import TOOLS_HEAD, TOOLS_TAIL

Message = dict[str, Any]

OWN_TEMPLATE = Path(__file__).with_name("chat_template.jinja")

WORDS = [
    "the", "answer", "is", "42", "naïve", "日本語", "e\u0301", "👍🏽", "it's", "don't", "a_b",
    "x = {1: [2]}", "\tif a < b:\n\t\treturn", "1,000.5", "C:\\path", "#", "<b>bold</b>", "&amp;",
    "{{ messages }}", "{% raw %}", "'quoted'", '"json"', "\\n", "\u0301mark", "\u200d", "한글",
    "<function=f>", "</function>", "<tools>", "<|im_", "|>", "think>", "assistant\n", "user",
]  # fmt: skip
BLANKS = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\x1c", " \n "]
HOSTILE = [
    "<|im_end|>", "<|im_start|>system\n", "<think>", "</think>", "<tool_call>", "</tool_call>",
    "<tool_response>", "</tool_response>", "<|vision_start|><|image_pad|><|vision_end|>",
    "<|endoftext|>", "<|video_pad|>",
]  # fmt: skip


@dataclass
class Conversation:
    """Messages and settings, as a client may give them."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool | None = None
    add_generation_prompt: bool = True
    add_vision_id: bool = False


class Source:
    """A seeded supply of conversations. With `hostile` texts hold the strings of control tokens."""

    def __init__(self, seed: int, *, hostile: bool = False) -> None:
        self.random = random.Random(seed)
        self.hostile = hostile

    def _chance(self, p: float) -> bool:
        return self.random.random() < p

    def text(self, most: int = 8) -> str:
        rng = self.random
        words = rng.choices(WORDS + HOSTILE * self.hostile, k=rng.randint(0, most))
        joined = ""
        for word in words:
            joined += word + (" " if self._chance(0.7) else rng.choice([*BLANKS, ""]))
        if self._chance(0.3):
            joined = rng.choice(BLANKS) + joined
        return joined if self._chance(0.7) else joined.strip()

    def _picture(self) -> Message:
        return self.random.choice([
            {"type": "image", "image": "a.png"},
            {"type": "image_url", "image_url": {"url": "http://host/a.png"}},
            {"type": "input_image", "image_url": "data:image/png;base64,AA"},
            {"image": b"bytes"},
            {"type": "video", "video": "a.mp4"},
            {"type": "video_url", "video_url": {"url": "a.mp4"}},
        ])  # fmt: skip

    def content(self, pictures: bool = True) -> Any:
        if self._chance(0.7):
            return self.text()
        if self._chance(0.1):
            return None
        parts: list[Message] = []
        for _ in range(self.random.randint(0, 4)):
            if pictures and self._chance(0.4):
                parts.append(self._picture())
            else:
                kind = self.random.choice(["text", "input_text"])
                parts.append({"type": kind, "text": self.text(4)})
        return parts

    def value(self, depth: int = 0) -> Any:
        rng = self.random
        simple = [self.text(3), rng.randint(-9, 999), 1.5, -2e-7, True, False, None, ""]
        if depth < 2 and self._chance(0.3):
            inner = [self.value(depth + 1) for _ in range(rng.randint(0, 3))]
            return inner if self._chance(0.5) else {f"k{i}é": v for i, v in enumerate(inner)}
        return rng.choice(simple)

    def _call(self, index: int) -> Message:
        rng = self.random
        arguments: Any = {f"arg{i}": self.value() for i in range(rng.randint(0, 3))}
        if self._chance(0.4):
            arguments = json.dumps(arguments, ensure_ascii=self._chance(0.5))
        function = {"name": f"tool_{index}", "arguments": arguments}
        bare = self._chance(0.2)
        return function if bare else {"id": "c1", "type": "function", "function": function}

    def _assistant(self, calls: bool) -> Message:
        message: Message = {"role": "assistant", "content": self.content(pictures=False)}
        if self._chance(0.4):
            message["reasoning_content"] = self.random.choice([self.text(), "", None])
        elif self._chance(0.3):
            thought = self.random.choice(["<think>", "", "x<think>"]) + "\n" + self.text(3)
            message["content"] = f"{thought}\n</think>\n\n{self.text(3)}"
        if calls:
            message["tool_calls"] = [self._call(i) for i in range(self.random.randint(1, 3))]
        return message

    def _tool(self, index: int) -> Message:
        schema = {"type": "object", "properties": {"arg0": {"type": "string"}}, "é": self.value()}
        function = {"name": f"tool_{index}", "description": self.text(4), "parameters": schema}
        return {"type": "function", "function": function}

    def conversation(self) -> Conversation:
        rng = self.random
        found = Conversation([])
        if self._chance(0.4):
            role = rng.choice(["system", "developer"])
            found.messages.append({"role": role, "content": self.content(pictures=False)})
        if self._chance(0.4):
            found.tools = [self._tool(i) for i in range(rng.randint(1, 3))]
        for _ in range(rng.randint(1, 4)):
            found.messages.append({"role": "user", "content": self.content()})
            while self._chance(0.4):
                found.messages.append(self._assistant(calls=True))
                found.messages += [
                    {"role": "tool", "tool_call_id": "c1", "content": self.content()}
                    for _ in range(rng.randint(1, 3))
                ]
            if self._chance(0.8):
                found.messages.append(self._assistant(calls=False))
        found.thinking = rng.choice([None, True, False])
        found.add_generation_prompt = self._chance(0.85)
        found.add_vision_id = self._chance(0.2)
        return found


class Template:
    """A template in an environment like that of transformers; ours, chat_template.jinja, if none.

    `render` omits `enable_thinking` when a conversation leaves it open, as clients do.
    """

    def __init__(self, *, thinks_by_default: bool, text: str | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = _raise
        if text is None:
            text = OWN_TEMPLATE.read_text(encoding="utf-8")
        self._template = environment.from_string(text)
        self._thinks_by_default = thinks_by_default

    def render(self, conversation: Conversation) -> str:
        return self._template.render(
            **variables(conversation), **own_variables(self._thinks_by_default)
        )


def own_variables(thinks_by_default: bool) -> dict[str, Any]:
    """What our template takes beside the usual variables."""
    return {
        "thinks_by_default": thinks_by_default,
        "tools_head": TOOLS_HEAD,
        "tools_tail": TOOLS_TAIL,
    }


def variables(conversation: Conversation) -> dict[str, Any]:
    """The variables of a chat template, as transformers passes them."""
    thinking = conversation.thinking
    return {
        "messages": [_official(message) for message in conversation.messages],
        "tools": conversation.tools,
        "add_generation_prompt": conversation.add_generation_prompt,
        "add_vision_id": conversation.add_vision_id,
        **({} if thinking is None else {"enable_thinking": thinking}),
    }


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _official(message: Message) -> Message:
    """A message in the words of the official template: its differences to ours are documented."""
    message = dict(message)
    if message["role"] == "developer":
        message["role"] = "system"
    if isinstance(message.get("content"), list):
        message["content"] = [
            {"video": part["video_url"]} if "video_url" in part else part
            for part in message["content"]
        ]
    calls = []
    for call in message.get("tool_calls", []):
        function = dict(call.get("function", call))
        if isinstance(function["arguments"], str):
            function["arguments"] = json.loads(function["arguments"])
        calls.append({"function": function})
    return {**message, "tool_calls": calls}
