"""Squared error and speed of the encoders, next to those of llama.cpp (the `xllamacpp` wheel).

    python bench/quant_error.py [TYPE ...]

For every type and kind of matrix: error relative to the matrix's own squares, and that error
divided by llama.cpp's on the same matrix (below 1 is better), without importance and weighted by a
heavy-tailed importance that both encoders are given. Speed is of one thread, in million values a
second of CPU time.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from qwen35cpp._native import check, ffi, lib

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Encoder = Callable[[GGMLQuantizationType, Floats, "Floats | None", Bytes], None]

TYPES = [
    *("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K"),
]
ROWS = 64


def matrices() -> Iterator[tuple[str, Floats]]:
    """Kinds of weights: plain, heavy-tailed, with loud columns, low-rank with outliers, shifted."""
    rng = np.random.default_rng(0)
    yield "gauss", (rng.standard_normal((ROWS, 2048)) * 0.02).astype(np.float32)
    yield "laplace", (rng.laplace(size=(ROWS, 1024)) * 0.03).astype(np.float32)
    yield "student-3", (rng.standard_t(3, size=(ROWS, 1536)) * 0.02).astype(np.float32)
    columns = np.exp(rng.standard_normal(2048) * 0.7)
    yield "columns", (rng.standard_normal((ROWS, 2048)) * columns * 0.01).astype(np.float32)
    low_rank = rng.standard_normal((ROWS, 16)) @ rng.standard_normal((16, 1024)) * 0.01
    low_rank += rng.standard_normal(low_rank.shape) * 0.02
    low_rank[rng.random(low_rank.shape) < 0.002] *= 15
    yield "outliers", low_rank.astype(np.float32)
    yield "shifted", (rng.standard_normal((ROWS, 1024)) * 0.02 + 0.03).astype(np.float32)
    yield "uniform", (rng.random((ROWS, 1024)) - 0.5).astype(np.float32)


def encode_ours(kind: GGMLQuantizationType, x: Floats, weights: Floats | None, out: Bytes) -> None:
    """This engine's encoder."""
    importance = ffi.NULL if weights is None else ffi.from_buffer("float[]", weights)
    source, target = ffi.from_buffer("float[]", x), ffi.from_buffer(out)
    check(lib.qwen35_quantize(int(kind), source, *x.shape, importance, target))


def llama_cpp() -> Encoder:
    """llama.cpp's encoder, from the shared object of the wheel."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise SystemExit("bench/quant_error.py needs the xllamacpp wheel: pip install xllamacpp")
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("*.so"))))
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t

    def pointer(array: NDArray[Any] | None) -> ctypes.c_void_p | None:
        return None if array is None else array.ctypes.data_as(ctypes.c_void_p)

    def encode(kind: GGMLQuantizationType, x: Floats, weights: Floats | None, out: Bytes) -> None:
        rows, cols = (ctypes.c_int64(n) for n in x.shape)
        start = ctypes.c_int64(0)
        chunk(int(kind), pointer(x), pointer(out), start, rows, cols, pointer(weights))

    return encode


def measure(
    encode: Encoder, kind: GGMLQuantizationType, x: Floats, weights: Floats | None
) -> tuple[float, float]:
    """(Weighted squared error relative to the matrix, million values a second)."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((x.shape[0], x.shape[1] // block * size), np.uint8)
    start = time.process_time()
    encode(kind, x, weights, out)
    seconds = time.process_time() - start
    exact = x.astype(np.float64)
    scale = np.ones(x.shape[1]) if weights is None else weights.astype(np.float64)
    error = (scale * (gguf.quants.dequantize(out, kind) - exact) ** 2).sum()
    return float(error / (scale * exact**2).sum()), x.size / max(seconds, 1e-9) / 1e6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("types", nargs="*", default=TYPES, metavar="TYPE")
    theirs = llama_cpp()
    print(f"{'':18}{'plain':^34}   {'weighted by importance':^34}")
    print(f"{'type':7}{'matrix':11}" + 2 * f"{'error':>10}{'ratio':>8}{'Mv/s':>7}{'theirs':>9}   ")
    for name in parser.parse_args().types:
        kind = GGMLQuantizationType[name]
        for label, x in matrices():
            importance = np.square(np.random.default_rng(5).chisquare(1, (x.shape[1],))) + 1e-3
            line = f"{name:7}{label:11}"
            for weights in (None, importance.astype(np.float32)):
                error, speed = measure(encode_ours, kind, x, weights)
                their_error, their_speed = measure(theirs, kind, x, weights)
                ratio = error / their_error
                line += f"{error:10.2e}{ratio:8.3f}{speed:7.1f}{their_speed:9.1f}   "
            print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main()
