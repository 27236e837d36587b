"""The AArch64 tiers, cross-built and run under an emulator: one CPU for each of the three.

Needs g++-aarch64-linux-gnu and qemu-user; on an AArch64 machine the other tests cover its tiers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tiny_gguf

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
# Strongest tier that each CPU has: Raspberry Pi 4, Raspberry Pi 5, everything the emulator knows.
TIER_OF = {"cortex-a72": "neon", "cortex-a76": "neon_dotprod", "max": "neon_i8mm"}
# check_sampler is left out: it holds no code for a CPU and takes minutes here.
CHECKS = ["check_kernels", "check_quant_encode", "check_quant_unpack"]
PORTABLE_CHECKS = ["check_text_stream", "check_tokenizer"]
PROGRAM = "eval_chunks"
# Panels, then few tokens in every grouping of the kernels for them.
CHUNKS = ["40", "1", "1", "2", "3", "4", "7", "8", "1"]

Logits = npt.NDArray[np.float32]

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"{COMPILER} or {EMULATOR} is not installed",
)


def _run(command: list[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        line = " ".join(command)
        pytest.fail(f"{line}\nended with {done.returncode}:\n{done.stdout[-8000:]}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def cross_build(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs for AArch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = [
        "-DQWEN35_BUILD_TESTS=ON",
        "-DQWEN35_WERROR=ON",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
        "-DCMAKE_C_COMPILER=" + COMPILER.replace("g++", "gcc"),
    ]
    _run(["cmake", "-S", str(repository), "-B", str(folder), *generator, *options])
    targets = [*CHECKS, *PORTABLE_CHECKS, PROGRAM]
    jobs = str(os.cpu_count() or 1)
    _run(["cmake", "--build", str(folder), "--parallel", jobs, "--target", *targets])
    return folder / "tests"


def _emulate(cpu: str, program: Path, *arguments: str | Path) -> str:
    libraries = "/usr/aarch64-linux-gnu"
    return _run([EMULATOR, "-L", libraries, "-cpu", cpu, str(program), *map(str, arguments)])


@pytest.mark.parametrize("cpu", TIER_OF)
@pytest.mark.parametrize("check", CHECKS)
def test_native_check(cross_build: Path, cpu: str, check: str) -> None:
    output = _emulate(cpu, cross_build / check)
    if check == "check_kernels":
        tiers = [line.split(":")[0] for line in output.splitlines()]
        expected = ["scalar", *TIER_OF.values()]
        assert tiers == expected[: expected.index(TIER_OF[cpu]) + 1]


@pytest.mark.parametrize("check", PORTABLE_CHECKS)
def test_portable_check(cross_build: Path, check: str) -> None:
    _emulate("max", cross_build / check)


@dataclass(frozen=True)
class Reference:
    """Logits of a model by the scalar tier of this machine."""

    path: Path
    logits: Logits  # activations rounded to eight bits, as every tier rounds them
    exact: Logits  # the same weights without that rounding


def _logits(path: Path, n_vocab: int) -> Logits:
    return np.fromfile(path, dtype=np.float32).reshape(-1, n_vocab)


@pytest.fixture(scope="module")
def reference(run_check: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    types = {
        "attn": "Q5_K", "ssm": "IQ4_XS", "ffn_down": "Q6_K", "ffn_up": "Q4_K", "ffn_gate": "Q8_0",
        "token_embd": "Q6_K",
    }  # fmt: skip
    rounded = tiny_gguf.build(folder / "rounded.gguf", type="Q4_0", types=types)
    exact = tiny_gguf.build(folder / "exact.gguf", tensors=rounded.tensors)
    rows = []
    for model in (rounded, exact):
        out = folder / (model.path.stem + ".logits")
        run_check(PROGRAM, model.path, out, *CHUNKS, env={"QWEN35_ISA": "scalar"})
        rows.append(_logits(out, len(model.tokens)))
    return Reference(rounded.path, rows[0], rows[1])


@pytest.mark.parametrize("cpu", TIER_OF)
def test_a_model_gives_the_logits_of_the_scalar_tier(
    cross_build: Path, reference: Reference, tmp_path: Path, cpu: str
) -> None:
    out = tmp_path / "logits"
    info = _emulate(cpu, cross_build / PROGRAM, reference.path, out, *CHUNKS)
    assert f"isa={TIER_OF[cpu]} " in info
    logits = _logits(out, reference.logits.shape[1])
    assert logits.shape == reference.logits.shape
    # Sums round differently, which may turn the rounding of an activation to eight bits the other
    # way: tiers differ like two roundings of one model, so by less than the rounding itself costs.
    difference = np.abs(logits - reference.logits).mean()
    rounding = np.abs(reference.exact - reference.logits).mean()
    print(f"{cpu}: mean difference {difference:.2e}, of rounding {rounding:.2e}")
    assert difference <= rounding
    near = 2 * np.abs(reference.exact - reference.logits).max(axis=1)
    rows = np.arange(len(logits))
    best, ours = reference.logits.argmax(axis=1), logits.argmax(axis=1)
    assert np.all(reference.logits[rows, best] - reference.logits[rows, ours] <= near)
    assert np.mean(best == ours) >= 0.9
