"""Speed of one engine by format: files that differ in nothing but the type of their matrices.

    python bench/formats.py [TYPES] [--size 0.8b] [--rounds 3] [--peer-python PEER/bin/python]

A full-size file of random weights for each type, one after the other in a temporary folder (up to
1.6 GB). Each is measured in turns with the Q4_K file, every measurement in a process of its own.
Speeds are tokens/s of reading 512 tokens and of generating 32 behind them; "of Q4_K" compares the
medians of the same turns. With --peer-python llama.cpp takes its turns with the same files
(peer_native.py). The output head is Q6_K in all of them, so that only the layers differ; the scale
of each block is chosen for values of the usual deviation, all other bytes are random.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray
from qwen35cpp.convert.ggml_types import FileType
from qwen35cpp.convert.model_metadata import ARCHITECTURE, general_metadata, text_metadata
from qwen35cpp.convert.published import SIZES, config_of, placeholder_tokenizer
from qwen35cpp.convert.tensor_map import Role, plan_text
from qwen35cpp.convert.writer import ALIGNMENT, build_header
from speed import OURS, PEER, Runner
from synthetic import deviation, floats, random_halves

BASE = "Q4_K"
TYPES = [
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("Q2_K", "Q3_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "F16", "BF16"),
]
# Byte of a block where its F16 scale lies; 0 for the others.
SCALE_AT = {T.Q2_K: 80, T.Q3_K: 108, T.Q6_K: 208}
# A second scale that multiplies minimums: zero here.
MINIMUM_AT = {T.Q4_1: 2, T.Q5_1: 2, T.Q2_K: 82, T.Q4_K: 2, T.Q5_K: 2}
VECTORS = (Role.VECTOR, Role.CONV)
CHUNK = 8 << 20  # bytes generated at once


@dataclass(frozen=True)
class Spec:
    """A tensor of the file, as build_header takes it."""

    name: str
    ne: tuple[int, ...]
    type: int

    @property
    def bytes(self) -> int:
        values, size = GGML_QUANT_SIZES[T(self.type)]
        return math.prod(self.ne) // values * size


def random_blocks(kind: T, blocks: int, std: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks of random codes whose values have deviation `std`."""
    if kind in (T.F16, T.BF16):
        return random_halves(blocks, std, rng, bf16=kind is T.BF16)
    out = rng.integers(0, 256, (blocks, GGML_QUANT_SIZES[kind][1]), np.uint8)

    def put(at: int, value: float) -> None:
        out[:, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)

    if kind in MINIMUM_AT:
        put(MINIMUM_AT[kind], 0.0)
    at = SCALE_AT.get(kind, 0)
    put(at, 1.0)
    spread = float(gguf.dequantize(out[:64], kind).std())
    put(at, std / spread)
    return out


def write(path: Path, size: str, kind: T) -> None:
    """A text model of the given size with all matrices but the head of one type."""
    config = config_of(size)
    plan = plan_text(config, "", mtp=False)
    head = Role.EMBEDDING if config.tied else Role.OUTPUT

    def kind_of(role: Role) -> T:
        if role in VECTORS:
            return T.F32
        return T.Q6_K if role is head else kind

    specs = [Spec(tensor.name, tensor.ne, int(kind_of(tensor.role))) for tensor in plan]
    count = sum(math.prod(tensor.ne) for tensor in plan)
    name = f"Qwen3.5-{size.upper()} random {kind.name}"
    metadata = general_metadata(ARCHITECTURE, "model", name, FileType.Q4_K_M, count)
    metadata |= text_metadata(config, mtp=False) | placeholder_tokenizer().metadata()
    rng = np.random.Generator(np.random.SFC64(7))
    with path.open("wb") as file:
        file.write(build_header(metadata, specs))
        for tensor, spec in zip(plan, specs, strict=True):
            of = T(spec.type)
            if of is T.F32:
                file.write(floats(tensor, rng))
            else:
                values, bytes_ = GGML_QUANT_SIZES[of]
                left, std = math.prod(spec.ne) // values, deviation(tensor, config.tied)
                while left:
                    blocks = min(left, CHUNK // bytes_)
                    file.write(random_blocks(of, blocks, std, rng))
                    left -= blocks
            file.write(bytes(-file.tell() % ALIGNMENT))


def compare(runner: Runner, base: Path, path: Path, engines: list[str]) -> list[str]:
    """Speeds of a file, each beside its ratio to those of the base, then to those of the peer."""
    found: dict[tuple[str, Path, str], list[float]] = {}
    for _ in range(runner.arguments.rounds):
        for engine, file in [(OURS, base), *((engine, path) for engine in engines)]:
            (result,) = runner.run(engine, str(file), [0], 32)
            for what in ("prefill", "decode"):
                found.setdefault((engine, file, what), []).append(result[what])
    median = {key: statistics.median(values) for key, values in found.items()}
    cells = []
    for what in ("prefill", "decode"):
        speed = median[OURS, path, what]
        cells += [f"{speed:.1f}", f"{speed / median[OURS, base, what]:.2f}"]
    if PEER in engines:
        for what in ("prefill", "decode"):
            speed = median[PEER, path, what]
            cells += [f"{speed:.1f}", f"{median[OURS, path, what] / speed:.2f}"]
    return cells


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", default=TYPES, metavar="TYPE", help=", ".join(TYPES))
    parser.add_argument("--size", choices=sorted(SIZES), default="0.8b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    arguments = parser.parse_args()
    runner = Runner(arguments)
    engines = [OURS, PEER] if arguments.peer_python else [OURS]
    columns = ["type", "pp", "of Q4_K", "tg", "of Q4_K"]
    columns += ["llama.cpp pp", "ratio", "llama.cpp tg", "ratio"] if arguments.peer_python else []
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (len(columns) - 1))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / f"{BASE}.gguf"
        write(base, arguments.size, T[BASE])
        for kind in arguments.types:
            path = Path(folder) / "model.gguf"
            write(path, arguments.size, T[kind.upper()])
            cells = [kind.upper(), *compare(runner, base, path, engines)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
