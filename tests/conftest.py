"""Fixtures that several test folders share: the native build and small random models."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_gguf

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked long")
    parser.addoption(
        "--update-scores", action="store_true", help="write the engine's scores (tests/tiny)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="needs --long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        line = " ".join(str(part) for part in command)
        pytest.fail(f"{line}\nended with {done.returncode}:\n{done.stdout[-8000:]}", pytrace=False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def native_build(request: pytest.FixtureRequest) -> Path:
    """The build folder of the library and of every native check, up to date.

    QWEN35_TEST_BUILD names another folder, for example one configured with a sanitizer.
    """
    cached = request.config.cache.mkdir("native") if request.config.cache else None
    folder = Path(os.environ.get("QWEN35_TEST_BUILD") or cached or ROOT / "build" / "tests")
    if not (folder / "CMakeCache.txt").exists():
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        options = ["-DQWEN35_BUILD_TESTS=ON", "-DQWEN35_WERROR=ON"]
        _run("cmake", "-S", ROOT, "-B", folder, *generator, *options)
    _run("cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1))
    return folder


@pytest.fixture(scope="session")
def run_check(native_build: Path) -> Callable[..., str]:
    """Runs a native check by name, fails with its output when it fails, returns its output."""

    def run(name: str, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
        programs = [p for p in native_build.rglob(name) if p.is_file() and os.access(p, os.X_OK)]
        if not programs:
            pytest.fail(f"the build has no program {name}", pytrace=False)
        done = subprocess.run(
            [str(programs[0]), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
        )
        if done.returncode:
            pytest.fail(
                f"{name} ended with {done.returncode}:\n{done.stdout[-8000:]}", pytrace=False
            )
        return done.stdout

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tiny_gguf.TinyModel]:
    """Writes a small random model; equal options give the same file. See tiny_gguf.Options."""
    folder = tmp_path_factory.mktemp("models")
    built: dict[str, tiny_gguf.TinyModel] = {}

    def build(**options: Any) -> tiny_gguf.TinyModel:
        key = repr(sorted(options.items()))
        if key not in built:
            built[key] = tiny_gguf.build(folder / f"tiny-{len(built)}.gguf", **options)
        return built[key]

    return build
