"""Writes full-size Qwen 3.5 GGUF files of random weights, for speed measurements.

Shapes, vocabulary size, tensor types and file size are those of published files (the plain Q4_K_M
mix, not this project's), values are random with scales that keep activations of order one. Speed
depends on none of the values. Usage:

    python bench/synthetic.py 0.8b q4_k_m -o syn-0.8b-q4_k_m.gguf [--mtp] [--tokenizer DIR]
    python bench/synthetic.py 0.8b f16 -o mmproj-syn-0.8b-q4_k_m.gguf --tower
"""

from __future__ import annotations

import argparse
import math
import struct
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qwen35cpp.convert.ggml_types import BLOCKS, FileType, TensorType, parse_file_type, row_bytes
from qwen35cpp.convert.model_metadata import (
    ARCHITECTURE,
    general_metadata,
    text_metadata,
    vision_metadata,
)
from qwen35cpp.convert.published import SIZES, VOCAB, config_of, placeholder_tokenizer, tower_of
from qwen35cpp.convert.recipes import more_bits
from qwen35cpp.convert.tensor_map import PlannedTensor, Role, plan_text
from qwen35cpp.convert.tokenizer import Tokenizer, read_tokenizer
from qwen35cpp.convert.vision import plan_vision
from qwen35cpp.convert.writer import GgufWriter, TensorSpec

T = TensorType
Bytes = NDArray[np.uint8]
CHUNK = 8 << 20  # bytes generated at once

# ---- types: the plain mix of published files ---------------------------------------------------


def plain_types(plan: list[PlannedTensor], file_type: FileType, tied: bool) -> list[TensorType]:
    """Type of every tensor of `plan`. Counters run over the tensors in block order."""
    n_v = sum(tensor.role in (Role.ATTN_V, Role.LINEAR_QKV) for tensor in plan)
    n_down = sum(tensor.role is Role.FFN_DOWN for tensor in plan)
    seen = {Role.ATTN_V: 0, Role.FFN_DOWN: 0}
    types = []
    for tensor in plan:
        index = seen.get(tensor.role, 0)
        types.append(_plain_type(tensor, file_type, tied, index, n_v, n_down))
        if tensor.role in seen:
            seen[tensor.role] += 1
    return types


def _plain_type(
    tensor: PlannedTensor, file_type: FileType, tied: bool, index: int, n_v: int, n_down: int
) -> TensorType:
    if tensor.role in (Role.VECTOR, Role.CONV):
        return T.F32
    uniform = {FileType.Q8_0: T.Q8_0, FileType.BF16: T.BF16, FileType.F16: T.F16}
    if file_type in uniform:
        return uniform[file_type]
    head = tensor.role is Role.OUTPUT or (tensor.role is Role.EMBEDDING and tied)
    if file_type is FileType.Q4_0:
        return T.Q6_K if head else T.Q4_0
    if file_type is not FileType.Q4_K_M:
        raise ValueError(f"no plain mix for {file_type.name}")
    if head:
        return T.Q6_K
    if tensor.role is Role.LINEAR_QKV:
        return T.Q5_K
    counted = {Role.ATTN_V: n_v, Role.FFN_DOWN: n_down}
    if tensor.role in counted and more_bits(index, counted[tensor.role]):
        return T.Q6_K
    return T.Q4_K


# ---- values: random blocks with a chosen standard deviation --------------------------------------


def _half(value: float) -> Bytes:
    return np.frombuffer(struct.pack("<e", value), np.uint8)


def random_blocks(kind: TensorType, blocks: int, std: float, rng: np.random.Generator) -> Bytes:
    """`blocks` blocks of uniformly random codes whose values have deviation `std` and mean ~ 0.

    A code of n equally likely steps has deviation sqrt((n*n - 1) / 12): 4.61 for 4 bits, 9.23 for
    5, 18.47 for 6, 73.9 for 8. Minima are set to the middle of the codes.
    """
    out = rng.integers(0, 256, (blocks, BLOCKS[kind][1]), np.uint8)
    equal_scales = np.array([160] * 8 + [0] * 4, np.uint8)  # every 6-bit scale and minimum is 32
    if kind is T.Q4_0:
        out[:, :2] = _half(std / 4.61)
    elif kind is T.Q8_0:
        out[:, :2] = _half(std / 73.9)
    elif kind in (T.Q4_K, T.Q5_K):
        steps, middle = (4.61, 7.5) if kind is T.Q4_K else (9.23, 15.5)
        scale = std / (32 * steps)
        out[:, :2], out[:, 2:4], out[:, 4:16] = _half(scale), _half(scale * middle), equal_scales
    elif kind is T.Q6_K:
        out[:, 192:208] = 64
        out[:, 208:210] = _half(std / (64 * 18.47))
    else:
        raise ValueError(f"no random blocks of {kind.name}")
    return out


def random_halves(count: int, std: float, rng: np.random.Generator, *, bf16: bool) -> Bytes:
    """The bytes of `count` normal values of deviation `std`, as BF16 (truncated) or F16."""
    values = rng.standard_normal(count, np.float32) * np.float32(std)
    narrow = values.view(np.uint16)[1::2] if bf16 else values.astype(np.float16)
    return np.ascontiguousarray(narrow).view(np.uint8)


def floats(tensor: PlannedTensor, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vectors and convolutions: what makes sense for each of them."""
    count = math.prod(tensor.ne)
    noise = rng.standard_normal(count, np.float32)
    if tensor.name.endswith("ssm_a"):  # decays exp(a * softplus(.)) spread over 0.5 .. 0.999
        return -np.geomspace(0.002, 1.0, count).astype(np.float32)
    if tensor.name.endswith("ssm_dt.bias"):
        return noise * np.float32(0.1)
    if tensor.role is Role.CONV:
        return noise * np.float32(0.5)
    return np.float32(1) + noise * np.float32(0.05)


def deviation(tensor: PlannedTensor, tied: bool) -> float:
    """Keeps products of order one; the head gives logits of deviation 4."""
    if tensor.role is Role.OUTPUT or (tied and tensor.role is Role.EMBEDDING):
        return 4.0 / math.sqrt(tensor.ne[0])
    return 1.0 / math.sqrt(tensor.ne[0])


def _write_matrix(
    writer: GgufWriter, spec: TensorSpec, std: float, rng: np.random.Generator
) -> None:
    step = max(1, CHUNK // row_bytes(spec.type, spec.ne[0]))
    for start in range(0, spec.rows, step):
        rows = min(step, spec.rows - start)
        if spec.type in (T.F16, T.BF16):
            writer.write(random_halves(rows * spec.ne[0], std, rng, bf16=spec.type is T.BF16))
        else:
            blocks = rows * spec.ne[0] // BLOCKS[spec.type][0]
            writer.write(random_blocks(spec.type, blocks, std, rng))


# ---- the file ------------------------------------------------------------------------------------


def write(path: Path, size: str, file_type: FileType, tokenizer: Tokenizer, *, mtp: bool) -> int:
    """Writes one file and returns the bytes of its tensors."""
    config = config_of(size)
    plan = plan_text(config, "", mtp=mtp)
    types = plain_types(plan, file_type, config.tied)
    specs = [TensorSpec(item.name, item.ne, kind) for item, kind in zip(plan, types, strict=True)]
    count = sum(math.prod(tensor.ne) for tensor in plan)
    name = f"Qwen3.5-{size.upper()} random weights"
    metadata = general_metadata(ARCHITECTURE, "model", name, file_type, count)
    metadata |= text_metadata(config, mtp=mtp) | tokenizer.metadata()
    rng = np.random.Generator(np.random.SFC64(7))
    with GgufWriter(path, metadata, specs) as writer:
        for tensor, spec in zip(plan, specs, strict=True):
            if spec.type is T.F32:
                writer.write(floats(tensor, rng))
            else:
                _write_matrix(writer, spec, deviation(tensor, config.tied), rng)
    return sum(spec.bytes for spec in specs)


def write_tower(path: Path, size: str, file_type: FileType) -> int:
    """Writes a projector file with matrices of one type and returns the bytes of its tensors."""
    config = tower_of(size)
    plan = plan_vision(config)
    kinds = {FileType.Q8_0: T.Q8_0, FileType.BF16: T.BF16, FileType.F16: T.F16}
    matrix = kinds[file_type]

    def kind_of(tensor: PlannedTensor) -> TensorType:
        if tensor.role is not Role.VISION_MATRIX:
            return T.F32
        return T.F16 if matrix is T.Q8_0 and tensor.ne[0] % 32 else matrix

    specs = [TensorSpec(item.name, item.ne, kind_of(item)) for item in plan]
    count = sum(math.prod(tensor.ne) for tensor in plan)
    name = f"Qwen3.5-{size.upper()} random tower"
    metadata = general_metadata("clip", "mmproj", name, file_type, count)
    metadata |= vision_metadata(config, config_of(size))
    rng = np.random.Generator(np.random.SFC64(7))
    with GgufWriter(path, metadata, specs) as writer:
        for tensor, spec in zip(plan, specs, strict=True):
            count = math.prod(tensor.ne)
            if spec.type is not T.F32:
                _write_matrix(writer, spec, 1.0 / math.sqrt(tensor.ne[0]), rng)
            elif ".ln" in tensor.name or "post_ln" in tensor.name:
                centre = np.float32(tensor.name.endswith("weight"))
                noise = rng.standard_normal(count, np.float32)
                writer.write(centre + noise * np.float32(0.05))
            else:
                writer.write(rng.standard_normal(count, np.float32) * np.float32(0.03))
    return sum(spec.bytes for spec in specs)


def main() -> None:
    """Command line."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("type", type=parse_file_type, help="q4_k_m, q4_0, q8_0, f16 or bf16")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mtp", action="store_true", help="include the prediction block")
    parser.add_argument("--tower", action="store_true", help="write the projector file instead")
    parser.add_argument("--tokenizer", type=Path, help="folder with the real tokenizer files")
    args = parser.parse_args()
    tokenizer = placeholder_tokenizer()
    if args.tokenizer:
        tokenizer = read_tokenizer(args.tokenizer, VOCAB)
    start = time.perf_counter()
    if args.tower:
        size = write_tower(args.output, args.size, args.type)
    else:
        size = write(args.output, args.size, args.type, tokenizer, mtp=args.mtp)
    print(f"{args.output}: {size:,} tensor bytes in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
