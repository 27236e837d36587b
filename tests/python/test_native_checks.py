"""Runs the native checks: every program in tests/kernels and tests/unit must return 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PROGRAMS = [
    p.stem for folder in ("kernels", "unit") for p in sorted((TESTS / folder).glob("*.cpp"))
]


@pytest.mark.parametrize("program", [source.stem for source in SOURCES])
def test_native_check(run_check: Callable[..., str], program: str) -> None:
    run_check(program)
