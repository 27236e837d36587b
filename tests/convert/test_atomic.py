"""The output appears complete or not at all: kill -9, full disks, two writers, errors."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from qwen35cpp.convert import (
    ConversionError,
    DiskSpaceError,
    convert,
    hf_to_gguf,
    quantize,
    verify,
    writer,
)
from qwen35cpp.convert.ggml_types import TensorType
from qwen35cpp.convert.writer import GgufWriter, TensorSpec

import checkpoints

CONVERT = "import sys; from qwen35cpp.convert import convert; print(flush=True); "
CONVERT += "convert(sys.argv[1], sys.argv[2], sys.argv[3], vision='none')"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def source() -> Path:
    """Larger than one write, so that a kill can land in the middle."""
    return checkpoints.build(hidden=512, layers=8, vision=False, mtp=False)


def test_kill_at_random_moments(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "model.gguf"
    convert(source, out, "q8_0", vision="none")
    old = out.read_bytes()
    convert(source, tmp_path / "new.gguf", "f16", vision="none")
    new = (tmp_path / "new.gguf").read_bytes()
    rng, cut_short = random.Random(3), 0
    for _ in range(8):
        out.write_bytes(old)
        command = [sys.executable, "-c", CONVERT, str(source), str(out), "f16"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()  # imports are done
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cut_short += (tmp_path / "model.gguf.part").exists()
        assert out.read_bytes() in (old, new)
    assert cut_short > 0, "no run was killed while it wrote"
    convert(source, out, "f16", vision="none")  # takes over what the last one left
    assert out.read_bytes() == new
    assert names(tmp_path) == ["model.gguf", "new.gguf"]


@pytest.mark.parametrize("limit", [0, 1000, 100_000, 3_000_000])
def test_file_size_limit(tmp_path: Path, source: Path, limit: int) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the write fails with EFBIG in the middle."""
    out = tmp_path / "model.gguf"
    out.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DiskSpaceError, match="writing stopped") as caught:
            convert(source, out, "f16", vision="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "bytes are needed" in caught.value.hint
    assert out.read_bytes() == b"old"
    assert names(tmp_path) == ["model.gguf"]


def test_every_write_fails_in_turn(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Nth write of a conversion fails; whatever N, nothing is left and the old file stays."""
    out = tmp_path / "model.gguf"
    out.write_bytes(b"old")
    real, calls, target = os.write, 0, 0

    def failing(fd: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == target:
            raise OSError(28, "No space left on device")
        return real(fd, data[: max(1, len(data) // 2)])  # partial writes must be continued

    monkeypatch.setattr(writer.os, "write", failing)
    for nth in (1, 2, 5, 30, 200):
        calls, target = 0, nth
        with pytest.raises(DiskSpaceError, match="No space left"):
            convert(source, out, "q8_0", vision="none")
        assert names(tmp_path) == ["model.gguf"]
        assert out.read_bytes() == b"old"
    target = 0
    convert(source, out, "q8_0", vision="none")
    assert verify(out) == []


def test_disk_is_checked_first(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("U", (), {"free": 1_000_000})())
    with pytest.raises(DiskSpaceError, match=r"bytes needed, 1,000,000 free"):
        convert(source, tmp_path / "model.gguf", "f32", vision="none")
    assert names(tmp_path) == []


def test_two_conversions_of_one_file(tmp_path: Path) -> None:
    spec = TensorSpec("t", (4,), TensorType.F32)
    with GgufWriter(tmp_path / "a.gguf", {}, [spec]) as first:
        with pytest.raises(ConversionError, match="another conversion"):
            GgufWriter(tmp_path / "a.gguf", {}, [spec]).__enter__()
        first.write(bytes(16))
    assert verify(tmp_path / "a.gguf") == []
    assert names(tmp_path) == ["a.gguf"]


def test_many_conversions_at_once(tmp_path: Path, source: Path) -> None:
    """Threads that race for one target: each succeeds or is told to wait; the file is whole."""
    out, outcomes = tmp_path / "model.gguf", []

    def run() -> None:
        try:
            convert(source, out, "q8_0", vision="none")
            outcomes.append("done")
        except ConversionError as error:
            outcomes.append("busy" if "another conversion" in str(error) else str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "done" in outcomes
    assert set(outcomes) <= {"done", "busy"}
    assert verify(out) == []
    assert names(tmp_path) == ["model.gguf"]


def test_exception_in_progress(tmp_path: Path, source: Path) -> None:
    """Ctrl-C arrives as an exception in the main thread."""

    def progress(done: int, total: int, name: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt(name)

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "model.gguf", "f16", vision="none", progress=progress)
    assert names(tmp_path) == []


def test_incomplete_data_is_not_published(tmp_path: Path) -> None:
    spec = TensorSpec("t", (4, 2), TensorType.F32)
    for size, message in ((16, "16 bytes were not written"), (40, "more bytes")):
        with (
            pytest.raises(ConversionError, match=message),
            GgufWriter(tmp_path / "a.gguf", {}, [spec]) as file,
        ):
            file.write(bytes(size))
    assert names(tmp_path) == []


def test_part_that_is_a_link_is_not_followed(tmp_path: Path, source: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "model.gguf.part").symlink_to(victim)
    with pytest.raises(ConversionError, match="cannot be created"):
        convert(source, tmp_path / "model.gguf", "f16", vision="none")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("target", ["missing/model.gguf", "."])
def test_bad_targets(tmp_path: Path, source: Path, target: str) -> None:
    with pytest.raises(ConversionError, match=r"does not exist|is a folder"):
        convert(source, tmp_path / target, "f16", vision="none")


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    result = convert(
        checkpoints.build(), tmp_path / "m.gguf", "f16", progress=lambda *step: seen.append(step)
    )
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1] < result.file_bytes
    assert {step[2] for step in seen} >= {"token_embd.weight", "mm.2.weight"}
    assert hf_to_gguf.mmproj_path(tmp_path / "m.gguf").exists()


def test_quantize_over_its_own_source(tmp_path: Path, source: Path) -> None:
    """The source stays open until the new file replaces it."""
    path = tmp_path / "model.gguf"
    convert(source, path, "f32", vision="none")
    quantize(path, path, "q8_0")
    convert(source, tmp_path / "direct.gguf", "q8_0", vision="none")
    assert path.read_bytes() == (tmp_path / "direct.gguf").read_bytes()
