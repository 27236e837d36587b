"""The C library without Python: the header, the symbols, the installed files, the example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "csrc" / "include" / "qwen35.h"
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def compiler(*names: str) -> str:
    found = next((name for name in names if shutil.which(name)), None)
    assert found, f"none of {names} is installed"
    return found


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".c", ["-std=c99"]), (".cpp", ["-std=c++11"]), (".cpp", ["-std=c++20"])],
)
def test_the_header_stands_alone(tmp_path: Path, suffix: str, options: list[str]) -> None:
    source = tmp_path / f"use{suffix}"
    source.write_text(
        "#include <qwen35.h>\n#include <qwen35.h>\n"
        "int main(void) { qwen35_outputs o; o.want = 0; return o.want != 0 || QWEN35_OK; }\n"
    )
    command = compiler("cc", "gcc", "clang") if suffix == ".c" else compiler("c++", "g++")
    done = run(command, *options, *STRICT, "-fsyntax-only", f"-I{HEADER.parent}", source)
    assert done.returncode == 0, done.stderr


def test_every_declared_function_is_exported_and_nothing_else(native_build: Path) -> None:
    library = next(native_build.rglob("libqwen35cpp.so"))
    listed = run("nm", "-D", "--defined-only", library).stdout.splitlines()
    exported = {line.split()[-1].split("@")[0] for line in listed}
    declared = set(
        re.findall(r"\b(qwen35_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S))
    )
    assert exported == declared


def test_the_library_needs_only_the_c_runtime(native_build: Path) -> None:
    library = next(native_build.rglob("libqwen35cpp.so"))
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", run("readelf", "-d", library).stdout))
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2",
                      "ld-linux-aarch64.so.1"}  # fmt: skip


@pytest.fixture(scope="module")
def installed(native_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("prefix")
    done = run("cmake", "--install", native_build, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    return prefix


def test_install_gives_library_header_and_example(installed: Path) -> None:
    names = {str(p.relative_to(installed)).split("/", 1)[-1] for p in installed.rglob("*")}
    assert "qwen35.h" in names
    assert any(name.endswith("libqwen35cpp.so") for name in names)
    assert "qwen35cpp/examples/generate.c" in names


def test_the_example_compiles_as_c99_and_generates(
    installed: Path, tmp_path: Path, tiny_model: Callable[..., object]
) -> None:
    library = next(installed.rglob("libqwen35cpp.so")).parent
    program = tmp_path / "generate"
    source = installed / "share" / "qwen35cpp" / "examples" / "generate.c"
    done = run(
        compiler("cc", "gcc", "clang"), "-std=c99", *STRICT, source, "-o", program,
        f"-I{installed / 'include'}", f"-L{library}", "-lqwen35cpp", f"-Wl,-rpath,{library}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    model = str(tiny_model().path)  # type: ignore[attr-defined]
    first = subprocess.run([program, model, "Hello world", "12"], capture_output=True)
    second = subprocess.run([program, model, "Hello world", "12"], capture_output=True)
    assert first.returncode == 0, first.stderr
    assert len(first.stdout) > 1
    assert first.stdout == second.stdout

    missing = run(program, tmp_path / "none.gguf", "Hello")
    assert missing.returncode == 1
    assert missing.stdout == ""
    assert "none.gguf" in missing.stderr


def test_the_environment_variable_names_the_library(native_build: Path) -> None:
    library = next(native_build.rglob("libqwen35cpp.so"))
    code = "import qwen35cpp._native as n; print(n.library_path()); print(n.version())"
    env = {**os.environ, "QWEN35_LIBRARY": str(library)}
    done = run(sys.executable, "-c", code, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(library)
