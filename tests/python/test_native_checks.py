"""Runs the native checks: every program in tests/kernels and tests/unit must return 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SOURCES = sorted((TESTS / "kernels").glob("*.cpp")) + sorted((TESTS / "unit").glob("*.cpp"))


@pytest.mark.parametrize("program", [source.stem for source in SOURCES])
def test_native_check(run_check: Callable[..., str], program: str) -> None:
    run_check(program)
