"""The loop that lets a model use Python functions: ask, run its calls, tell the results."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InvalidArgument
from .answer import ChatText, ToolCall
from .tools import Schema, function_schema, parameters_of
from .values import mismatch

Function = Callable[..., Any]
Confirm = Callable[[ToolCall], bool]
Ask = Callable[[list[dict[str, Any]]], ChatText]

DECLINED = "The user declined this call."


def run_tools(
    ask: Ask,
    messages: list[dict[str, Any]],
    functions: Sequence[Function],
    confirm: Confirm | None,
    max_steps: int,
) -> ChatText:
    """Answers of `ask`, with their calls run, until there is one without calls; see Llama."""
    if max_steps < 1:
        raise InvalidArgument(f"max_steps must be at least 1, not {max_steps}")
    toolbox = Toolbox(functions)
    answer = ask(messages)
    for _ in range(max_steps - 1):
        if not answer.tool_calls:
            break
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": toolbox.run(call, confirm),
            }
            for call in answer.tool_calls
        ]
        answer = ask([*answer.messages, *results])
    return answer


class Toolbox:
    """Functions by name, run with arguments that a model wrote."""

    def __init__(self, functions: Sequence[Function]) -> None:
        if not functions:
            raise InvalidArgument("there are no functions to use")
        self.schemas = [function_schema(function) for function in functions]
        self._parameters = parameters_of(self.schemas)
        self._functions = dict(zip(self._parameters, functions, strict=True))

    def run(self, call: ToolCall, confirm: Confirm | None = None) -> str:
        """The result as text for the model. Whatever goes wrong in a tool is such a text too."""
        problem = self._problem(call)
        if problem:
            return f"Error: {problem}"
        if confirm is not None and not confirm(call):
            return DECLINED
        try:
            return _as_text(self._functions[call.name](**call.arguments))
        except Exception as error:
            return f"Error: {type(error).__name__}: {error}"

    def _problem(self, call: ToolCall) -> str:
        """Why a call cannot be run; "" when it can."""
        if not call.complete:
            return "the call was cut off and has not been run"
        if call.name not in self._functions:
            known = ", ".join(self._functions)
            return f"there is no function {call.name!r}; the functions are: {known}"
        try:
            inspect.signature(self._functions[call.name]).bind(**call.arguments)
        except TypeError as error:
            return f"{call.name}: {error}"
        root = self._parameters[call.name]
        properties: Mapping[str, Schema] = root["properties"]
        for name, value in call.arguments.items():
            wrong = mismatch(value, properties[name], root)
            if wrong:
                return f"{call.name}: {name} {wrong}"
        return ""


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    return json.dumps(result, ensure_ascii=False, default=str)
