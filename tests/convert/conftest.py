"""Fixtures of the converter tests: small checkpoints and their conversions, made once."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

from collections.abc import Callable
from pathlib import Path

import pytest
from qwen35cpp.convert import convert

import checkpoints

Converted = Callable[..., Path]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Call with a type and options of checkpoints.build(): the path of the converted file."""
    folder = tmp_path_factory.mktemp("converted")
    made: dict[str, Path] = {}

    def get(type_name: str = "f32", **options: object) -> Path:
        key = repr((type_name, sorted(options.items())))
        if key not in made:
            source = checkpoints.build(**options)  # type: ignore[arg-type]
            made[key] = folder / f"model{len(made)}.gguf"
            convert(source, made[key], type_name)
        return made[key]

    return get
