"""The clients of openai and anthropic get the answers that transformers gives (served.py)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

for package in ("starlette", "openai", "anthropic", "httpx2", "tokenizers"):
    pytest.importorskip(package)

from qwen35cpp import Llama
from qwen35cpp.server import Settings, serving
from tiny import served


def test_scores_through_the_server() -> None:
    with (
        Llama.tiny(n_ctx=8192) as llama,
        serving(llama, Settings(port=0)) as url,
        ThreadPoolExecutor(4) as pool,
    ):
        found = {name: shares for name, _count, shares in served.scores(url, 20, pool)}
    assert list(found) == list(served.SETS)
    for name, (transformers, *clients) in found.items():
        assert clients == pytest.approx([transformers] * 2, abs=0.101), name
    assert sum(shares[1] for shares in found.values()) > 2.5
