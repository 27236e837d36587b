"""Fixtures of the Python tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import tiny_gguf
from qwen35cpp import Llama


@pytest.fixture(scope="session")
def tiny_path(tiny_model: Callable[..., tiny_gguf.TinyModel]) -> str:
    """A small random model with 4096 tokens of context."""
    return str(tiny_model().path)


@pytest.fixture(scope="module")
def shared(tiny_path: str) -> Iterator[Llama]:
    """One Llama for the tests of a file: each of them finds it used by others before."""
    with Llama(tiny_path, n_threads=2) as llama:
        yield llama


@pytest.fixture
def llama(shared: Llama) -> Llama:
    """The shared Llama, with nothing evaluated."""
    shared.reset()
    return shared
