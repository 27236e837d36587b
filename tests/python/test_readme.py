"""The snippets of README.md do what it says, on a small random model."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import tiny_gguf
from films import film
from qwen35cpp import convert
from qwen35cpp._bundled import tiny_path as bundled_path

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(
    tiny_model: Callable[..., tiny_gguf.TinyModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working folder with the files that README.md names."""
    path = tiny_model(n_embd=256, n_ff=256, n_ctx=2048).path
    convert.quantize(path, tmp_path / "model.gguf", "q8_0", allow_requantize=True)
    shutil.copy(bundled_path(), tmp_path / "mmproj-model.gguf")  # a tower of the same width
    for number, name in enumerate(("before.png", "a.png", "b.png", "receipt.jpg")):
        Image.new("RGB", (64, 96), (40 * number, 90, 200)).save(tmp_path / name)
    film(tmp_path / "clip.mp4", seconds=2)
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    (tmp_path / "tickets.csv").write_text("id,text\n1,I paid twice.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_snippets_run(folder: Path) -> None:
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet.replace("max_tokens=16", "max_tokens=4")],
            capture_output=True,
            text=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    "name", ["run", "chat", "decide", "map", "embed", "info", "verify", "bench", "doctor"]
)
def test_commands_run(folder: Path, name: str) -> None:
    commands = re.findall(rf"(?:^|[\s/;])qwen35cpp ({name}\b[^;#`\n]*)", "".join(blocks("sh")))
    assert commands
    for command in commands:
        extra = ["--max-tokens", "2"] if name in ("run", "map") else []
        done = subprocess.run(
            [sys.executable, "-m", "qwen35cpp", *shlex.split(command), *extra],
            capture_output=True,
            text=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
