"""Runs inputs through the sanitized `fuzz_open` program and reports deaths, hangs and statuses.

As a program: `python tests/fuzz/run_mutants.py COUNT [SEED]` runs COUNT mutants of each base model.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "reference")]


import tiny_gguf  # noqa: E402
from fuzz.mutate_gguf import Mutator  # noqa: E402

ROOT = TESTS.parent
SECONDS_PER_INPUT = 25.0
BATCH = 200

# Shapes small enough for thousands of mutants a minute; between them every kind of tensor.
SMALL = {
    "n_embd": 32, "n_ff": 64, "n_head": 2, "n_head_kv": 1, "head_dim": 32, "lin_k_heads": 1,
    "lin_v_heads": 2, "lin_head_dim": 32, "n_ctx": 64,
}  # fmt: skip
BASES: dict[str, dict[str, object]] = {
    "mixed": {
        **SMALL, "mtp": True, "tied": False, "list_recurrent": True, "type": "Q8_0",
        "types": {"ffn_up": "Q4_0", "ssm_out": "F16", "attn_q.": "BF16", "eh_proj": "IQ4_NL"},
    },
    "plain": {**SMALL, "n_layer": 2, "full_attention_interval": 2},
    "pictures": {**SMALL, "n_layer": 2, "full_attention_interval": 2, "vision": True},
    "k_quants": {
        "n_embd": 256, "n_ff": 256, "n_layer": 2, "full_attention_interval": 2, "n_head": 2,
        "n_head_kv": 1, "head_dim": 128, "lin_k_heads": 2, "lin_v_heads": 4, "lin_head_dim": 64,
        "type": "Q4_K",
        "types": {"ffn_down": "Q6_K", "token_embd": "Q5_K", "attn_v": "Q3_K", "attn_k": "Q2_K"},
        "alignment": 64, "vision": True,
    },
    "codebooks": {
        "n_embd": 256, "n_ff": 256, "n_layer": 2, "full_attention_interval": 2, "n_head": 2,
        "n_head_kv": 1, "head_dim": 128, "lin_k_heads": 2, "lin_v_heads": 4, "lin_head_dim": 64,
        "tied": False, "type": "IQ4_XS",
        "types": {
            "attn_q": "IQ2_XXS", "attn_k": "IQ2_XS", "attn_v": "IQ2_S", "attn_output": "IQ1_M",
            "attn_gate": "IQ3_XXS", "ffn_up": "IQ3_S", "ffn_down": "IQ1_S", "ssm_out": "Q5_1",
            "ssm_alpha": "Q4_1", "ssm_beta": "Q5_0",
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What one input led to."""

    status: int | None  # None: the process died or hung
    message: str  # of the refusal, or the tail of the sanitizer's report


@dataclass
class Summary:
    """Counts over many mutants."""

    statuses: Counter[int | None] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)


def build_program() -> Path:
    """Builds `fuzz_open` with the address and undefined-behaviour sanitizers; returns its path.

    The build folder is kept: QWEN35_FUZZ_BUILD, or build/fuzz in the repository.
    """
    folder = Path(os.environ.get("QWEN35_FUZZ_BUILD", ROOT / "build" / "fuzz"))
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder), *generator, "-DQWEN35_BUILD_TESTS=ON",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DQWEN35_SANITIZE=address,undefined",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(folder), "--target", "fuzz_open"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return folder / "tests" / "fuzz_open"


def run_inputs(program: Path, inputs: Sequence[bytes]) -> list[Result]:
    """Opens every input; a process that dies is started again behind the input that killed it."""
    results: list[Result] = []
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    while len(results) < len(inputs):
        batch = inputs[len(results) : len(results) + BATCH]
        with tempfile.TemporaryFile() as frames:
            for data in batch:
                frames.write(struct.pack("<Q", len(data)) + data)
            frames.seek(0)
            results += _run_batch(program, frames.fileno(), len(batch), environment)
    return results


def _run_batch(program: Path, stdin: int, n: int, environment: dict[str, str]) -> list[Result]:
    process = subprocess.Popen(
        [program, "-"], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        out, err = process.communicate(timeout=SECONDS_PER_INPUT + n)
        failed = process.returncode != 0
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        failed, err = True, b"hang: " + err
    results = []
    for line in out.decode("utf-8", "replace").splitlines():
        status, _, message = line.partition(" ")
        results.append(Result(int(status), message))
    if failed:  # also when only the leak check at the end complains
        results = results[: n - 1]
        results.append(Result(None, err.decode("utf-8", "replace")[:4000]))
    return results


def run_mutants(program: Path, base: bytes, count: int, seed: int) -> Summary:
    """Runs mutants 0 to count - 1 of a well-formed file."""
    mutator = Mutator(base)
    summary = Summary()
    for start in range(0, count, BATCH):
        mutants = [mutator.mutant(seed, i) for i in range(start, min(start + BATCH, count))]
        results = run_inputs(program, [data for data, _ in mutants])
        for index, (result, (_, change)) in enumerate(zip(results, mutants, strict=True), start):
            summary.statuses[result.status] += 1
            if result.status is None:
                summary.deaths.append(f"mutant {index} ({change}): {result.message}")
    return summary


def main(count: str, seed: str = "0") -> int:
    """Prints a line per base model; returns 1 when a mutant ended the process."""
    program = build_program()
    n_deaths = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, options in BASES.items():
            model = tiny_gguf.build(Path(folder) / f"{name}.gguf", **options)
            summary = run_mutants(program, model.path.read_bytes(), int(count), int(seed))
            n_deaths += len(summary.deaths)
            print(f"{name}: {dict(summary.statuses)}")
            print("\n".join(summary.deaths[:3]))
    return 1 if n_deaths else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
