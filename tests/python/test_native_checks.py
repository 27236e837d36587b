"""Runs the native checks: every check_* program of tests/kernels and tests/unit returns 0."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for kind in ("kernels", "unit") for p in (TESTS / kind).glob("check_*.cpp"))


@pytest.mark.parametrize("program", [source.stem for source in SOURCES])
def test_native_check(run_check: Callable[..., str], program: str) -> None:
    run_check(program)


def test_tier_objects_define_nothing_that_the_linker_may_merge(native_build: Path) -> None:
    """A weak symbol of a tier could replace its baseline copy: an illegal instruction elsewhere."""
    objects = [p for p in native_build.rglob("*.o") if re.search(r"q35_(avx|neon)", str(p))]
    assert objects or platform.machine() not in {"x86_64", "AMD64", "aarch64"}
    for path in objects:
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        weak = [line for line in listed.splitlines() if re.search(r" [VWu] ", line)]
        assert not weak, f"{path.name}: {weak}"
