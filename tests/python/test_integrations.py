"""The snippets of the server's README against a running server, and what its clients do beside.

Each runs where its package is: not all are among those of the tests, as some contradict each other.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen35cpp import Llama

pytest.importorskip("starlette", reason="needs the extra [server]")

from qwen35cpp.server import Settings, serving

README = Path(__file__).resolve().parents[2] / "python" / "qwen35cpp" / "server" / "README.md"
ADDRESS = "http://127.0.0.1:8035"
SNIPPETS = {
    title.strip().splitlines()[-1]: code
    for title, code in re.findall(
        r"([^\n]+)\n\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        Llama.tiny(n_ctx=4096, n_threads=1, seed=1) as llama,
        serving(llama, Settings(port=0)) as url,
    ):
        yield url


@pytest.mark.long
@pytest.mark.parametrize("title", SNIPPETS)
def test_the_snippets_run(url: str, title: str) -> None:
    package = title if title.isidentifier() else "qwen35cpp"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    code = SNIPPETS[title]
    assert package == "qwen35cpp" or ADDRESS in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, url)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search("dog|http|team=", done.stdout)


@pytest.mark.long
def test_llm_answers_through_the_server(url: str, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    (found,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "extra-openai-models.yaml").write_text(found.replace(ADDRESS, url))
    command = [sys.executable, "-m", "llm", "-m", "qwen35", "Tell me a story about a dog."]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "dog" in done.stdout


@pytest.mark.long
def test_langchain_streams_calls_tools_and_keeps_to_a_schema(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai")
    from pydantic import BaseModel

    class Answer(BaseModel):
        urgent: bool

    def get_weather(city: str) -> str:
        """Get the weather for a city."""
        return city

    llm = langchain.ChatOpenAI(
        base_url=f"{url}/v1", api_key="none", model="any", temperature=0, max_tokens=60
    )
    whole = llm.invoke("Tell me a story about a dog.")
    assert "dog" in whole.content
    assert whole.usage_metadata["output_tokens"] > 5
    pieces = [piece.content for piece in llm.stream("Tell me a story about a dog.")]
    assert len(pieces) > 5
    assert "".join(pieces) == whole.content
    bound = llm.bind_tools([get_weather], tool_choice="get_weather")
    (call,) = bound.invoke("What is the weather in Rome?").tool_calls
    assert (call["name"], call["args"]["city"]) == ("get_weather", "Rome")
    kept = llm.with_structured_output(Answer, method="json_schema").invoke("It crashes!")
    assert isinstance(kept.urgent, bool)


@pytest.mark.long
def test_llama_index_chats_streams_and_waits(url: str) -> None:
    openai_like = pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage

    llm = openai_like.OpenAILike(
        api_base=f"{url}/v1", api_key="none", model="any", is_chat_model=True, temperature=0,
        max_tokens=60,
    )  # fmt: skip
    told = str(llm.complete("Tell me a story about a dog."))
    assert "dog" in told
    pieces = [piece.delta or "" for piece in llm.stream_complete("Tell me a story about a dog.")]
    assert len(pieces) > 5
    assert "".join(pieces) == told
    ask = ChatMessage(role="user", content="Tell me a story about a dog.")
    assert llm.chat([ask]).message.content == told
    assert asyncio.run(llm.achat([ask])).message.content == told
