"""What the tests of the server share: a running server and requests to it."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
from PIL import Image

from qwen35cpp import Llama

ASK = [{"role": "user", "content": "Tell me a story about a dog."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def data_url(colour: str = "red", size: tuple[int, int] = (64, 64)) -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def endless(llama: Llama) -> dict[str, Any]:
    """Options of an answer that goes on until it is stopped."""
    names = ("<|im_end|>", "<|endoftext|>", "<tool_call>")
    ids = [llama.tokenize(name, special=True)[0] for name in names]
    return {"logit_bias": {str(i): -1e9 for i in ids}, "seed": 1}


def events(lines: Iterator[str]) -> Iterator[Any]:
    """The values of a stream of events."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until something is so."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true"
        time.sleep(0.01)


def busy(client: httpx.Client) -> tuple[int, int]:
    """Requests at work and waiting."""
    health = client.get("/health").json()
    return health["running"], health["waiting"]
