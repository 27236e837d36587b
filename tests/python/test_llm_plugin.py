"""The models in `llm`, through its own interface."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

llm = pytest.importorskip("llm")

from llm.plugins import load_plugins, pm  # noqa: E402

from qwen35cpp import llm_plugin  # noqa: E402

GREEDY = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def model() -> Iterator[llm.Model]:
    load_plugins()  # finds it where the package is installed
    if not pm.is_registered(llm_plugin):
        pm.register(llm_plugin)
    yield llm.get_model("qwen35cpp/tiny")
    for each in llm_plugin._open.values():
        each.close()
    llm_plugin._open.clear()


def test_answers_and_conversations(model: llm.Model) -> None:
    answer = model.prompt("Tell me a story about a dog.", **GREEDY)
    assert "dog" in answer.text()
    assert answer.usage().output == 24
    talk = model.conversation()
    talk.prompt("Tell me a story about a dog.", **GREEDY).text()
    second = talk.prompt("And about a cat?", system="Be short.", **GREEDY)
    assert second.text()
    first_alone = model.prompt("And about a cat?", system="Be short.", **GREEDY)
    first_alone.text()
    assert second.usage().input > first_alone.usage().input + 24  # the first turn was read too


def test_thoughts_are_apart(model: llm.Model) -> None:
    answer = model.prompt("hi", think=True, thinking_budget=8, **GREEDY)
    events = [event.type for event in answer.stream_events()]
    assert events[0] == "reasoning"
    assert "text" in events
    assert "<think>" not in answer.text()


def test_schemas_hold(model: llm.Model) -> None:
    schema = {
        "type": "object", "properties": {"paid": {"type": "boolean"}}, "required": ["paid"],
        "additionalProperties": False,
    }  # fmt: skip
    assert model.prompt("It is paid.", schema=schema, **GREEDY).text() in (
        '{"paid": true}', '{"paid": false}', '{"paid":true}', '{"paid":false}',
    )  # fmt: skip


def test_pictures_are_read(model: llm.Model) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    picture = llm.Attachment(content=out.getvalue())
    shown = model.prompt("What is this?", attachments=[picture], **GREEDY)
    blind = model.prompt("What is this?", **GREEDY)
    shown.text(), blind.text()
    assert shown.usage().input > blind.usage().input


def test_calls_and_results_of_tools_go_both_ways(model: llm.Model) -> None:
    asked: list[tuple[int, int]] = []

    def set_alarm(hour: int, minute: int) -> str:
        """Set an alarm."""
        asked.append((hour, minute))
        return "The alarm is set."

    options = {"temperature": 0, "max_tokens": 80}
    chain = model.chain("Set an alarm for 10:11.", tools=[set_alarm], options=options)
    assert chain.text()
    assert asked == [(10, 11)]


def test_any_file_and_clear_errors(model: llm.Model, tmp_path: Path) -> None:
    any_file = llm.get_model("qwen35cpp")
    assert any_file.prompt("hi", model="tiny", **GREEDY).text()
    missing = str(tmp_path / "none.gguf")
    with pytest.raises(Exception, match=r"none\.gguf"):
        any_file.prompt("hi", model=missing, **GREEDY).text()
    with pytest.raises(ValueError, match="temperature"):
        model.prompt("hi", temperature=-1)


@pytest.mark.skipif(
    not entry_points(group="llm").select(name="qwen35cpp"), reason="the package is not installed"
)
def test_the_command_finds_the_models(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm", "models"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"LLM_USER_PATH": str(tmp_path)}
    )
    assert "qwen35cpp/tiny" in done.stdout, done.stderr
