"""The bundled model's scores through the server, asked with the packages `openai` and `anthropic`.

    python tests/tiny/served.py --count 500

Each test set is asked with both clients; beside them the score of transformers on the same cases
(scores.json). Decisions are the classification set asked at /v1/decisions. The server decodes
`--parallel` requests together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import anthropic
import httpx2 as httpx
import numpy as np
import openai

from qwen35cpp import Llama
from qwen35cpp.server import Settings, serving
from tiny import cases
from tiny.decisions import LABELS, error
from tiny.sample import Sample

SETS = ("chat", "classify", "extract", "tools")
Calls = list[tuple[str, dict[str, Any]]]


def as_reply(text: str, calls: Calls) -> str:
    """An answer as the model wrote it, which is what the checks of the skills read."""

    def parameter(name: str, value: Any) -> str:
        told = value if isinstance(value, str) else json.dumps(value)
        return f"<parameter={name}>\n{told}\n</parameter>\n"

    return text + "".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(parameter(key, value) for key, value in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def openai_messages(sample: Sample) -> list[dict[str, Any]]:
    """The prompt with calls in the protocol's shape, each with an id that its result names."""
    found: list[dict[str, Any]] = []
    ids: list[str] = []
    for message in sample.prompt:
        made = {key: value for key, value in message.items() if key != "tool_calls"}
        if "tool_calls" in message:
            ids = [f"call_{len(found)}_{i}" for i in range(len(message["tool_calls"]))]
            made["tool_calls"] = [
                {"id": each, "type": "function", "function": {
                    "name": call["name"], "arguments": json.dumps(call["arguments"])}}
                for each, call in zip(ids, message["tool_calls"], strict=True)
            ]  # fmt: skip
        if message["role"] == "tool":
            made["tool_call_id"] = ids.pop(0)
        found.append(made)
    return found


def ask_openai(client: openai.OpenAI, sample: Sample) -> str:
    """The answer of /v1/chat/completions."""
    request: dict[str, Any] = {"tools": sample.tools} if sample.tools else {}
    answer = client.chat.completions.create(
        model="tiny", messages=openai_messages(sample), temperature=0,
        max_tokens=cases.MAX_REPLY, extra_body={"enable_thinking": sample.thinking}, **request,
    )  # fmt: skip
    message = answer.choices[0].message
    calls = [
        (call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or ()
    ]
    return as_reply(message.content or "", calls)


def ask_anthropic(client: anthropic.Anthropic, sample: Sample) -> str:
    """The answer of /v1/messages."""
    system, messages = "", []
    for message in openai_messages(sample):
        if message["role"] == "system":
            system = message["content"]
        elif message["role"] == "tool":
            block = {
                "type": "tool_result", "tool_use_id": message["tool_call_id"],
                "content": message["content"],
            }  # fmt: skip
            messages.append({"role": "user", "content": [block]})
        else:
            content = [{"type": "text", "text": message["content"]}] if message["content"] else []
            for call in message.get("tool_calls", ()):
                function = call["function"]
                content.append({
                    "type": "tool_use", "id": call["id"], "name": function["name"],
                    "input": json.loads(function["arguments"]),
                })  # fmt: skip
            messages.append({"role": message["role"], "content": content})
    request: dict[str, Any] = {"system": system} if system else {}
    if sample.tools:
        request["tools"] = [
            {"name": tool["name"], "description": tool.get("description", ""),
             "input_schema": tool["parameters"]}
            for tool in (each.get("function", each) for each in sample.tools)
        ]  # fmt: skip
    # Their budget is counted within max_tokens.
    thinking = (
        {"type": "enabled", "budget_tokens": cases.MAX_REPLY // 2}
        if sample.thinking
        else {"type": "disabled"}
    )
    answer = client.messages.create(
        model="tiny", messages=messages, max_tokens=cases.MAX_REPLY,
        extra_body={"temperature": 0, "thinking": thinking}, **request,
    )  # fmt: skip
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    return as_reply(text, calls)


def decide(client: httpx.Client, sample: Sample) -> tuple[float, bool]:
    """How sure /v1/decisions is of the label of a classification sample; whether it is right."""
    name = next(each for each, words in LABELS.items() if sample.expect in words)
    question = " ".join(str(message["content"]) for message in sample.prompt)
    words = [word for word in LABELS[name] if name != "topic" or word in question]
    body = {"messages": sample.prompt, "fields": {name: {"answers": words, "question": ""}}}
    answer = client.post("/v1/decisions", json=body).raise_for_status().json()["data"][0]
    return answer["confidence"][name], answer["values"][name] == sample.expect


def right_reply(test_set: cases.TestSet, ask: Callable[[Sample], str], sample: Sample) -> bool:
    """Whether a client gets the right answer."""
    return test_set.right(sample, ask(sample))


def scores(
    url: str, count: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, int, list[float]]]:
    """Of each set its name, how many cases were asked, and the shares that were right.

    The shares are those of transformers, of the client openai and of the client anthropic.
    """
    recorded = json.loads((HERE / "scores.json").read_text(encoding="utf-8"))
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as first,
        anthropic.Anthropic(base_url=url, api_key="none") as second,
    ):
        asks = (partial(ask_openai, first), partial(ask_anthropic, second))
        for name in SETS:
            test_set = cases.SETS[name]
            marks = recorded[name]["outcomes"][:count]
            samples = test_set.cases(len(marks))
            right = [list(pool.map(partial(right_reply, test_set, ask), samples)) for ask in asks]
            counts = [marks.count("1"), *map(sum, right)]
            yield name, len(marks), [each / len(marks) for each in counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--parallel", type=int, default=4)
    args = parser.parse_args()
    with (
        Llama.tiny(n_ctx=8192, n_parallel=args.parallel) as llama,
        serving(llama, Settings(port=0)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(args.parallel) as pool,
    ):
        print("| test set | cases | transformers | openai | anthropic |\n|---|---:|---:|---:|---:|")
        for name, count, shares in scores(url, args.count, pool):
            cells = " | ".join(f"{100 * each:.1f}" for each in shares)
            print(f"| {name} | {count} | {cells} |", flush=True)
        decided = list(pool.map(partial(decide, client), cases.SETS["classify"].cases(args.count)))
        sure, right = (np.array(column, float) for column in zip(*decided, strict=True))
        print(
            f"decisions: {len(right)} cases, {100 * right.mean():.1f} % right, calibration error "
            f"{error(sure, right):.3f}"
        )


if __name__ == "__main__":
    main()
