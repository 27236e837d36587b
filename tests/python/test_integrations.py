"""The snippets of the server's README against a running server; each where its package is."""

from __future__ import annotations

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
