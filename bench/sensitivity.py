"""Which tensors suffer most from quantisation: quantises one role at a time and measures the loss.

For random checkpoints of the real head shapes, every role is stored in a block format while all
other tensors stay F32; the figure is the mean KL divergence of the next-token distributions from
the F32 file's, per million weights. Random weights show how errors travel through the architecture
(recurrent path against feed-forward), not what training does to a matrix: they have no outliers,
and their attention is nearly uniform, so the attention rows say little. Usage:

    python bench/sensitivity.py [--type q4_k] [--seeds 2]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))

from qwen35cpp.convert import convert
from qwen35cpp.convert._engine import GgufFile, GgufTensor, decode
from qwen35cpp.convert.ggml_types import TensorType
from qwen35cpp.convert.pipeline import Job, write_file
from qwen35cpp.convert.tensor_map import Role, role_of
from qwen35cpp.convert.writer import TensorSpec

import checkpoints
from qwen35cpp import Llama

N_TOKENS = 300
SKIPPED = {Role.VECTOR, Role.CONV, Role.MTP_PROJECTION, Role.OUTPUT}


def logprobs(path: Path, tokens: list[int]) -> NDArray[np.float64]:
    """[tokens, vocabulary] log-probabilities."""
    model = Llama(path, n_ctx=2 * N_TOKENS)
    rows = np.asarray(model.eval(tokens, all_logits=True), np.float64)
    model.close()
    rows -= rows.max(1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


def rewrite(source: Path, target: Path, role: Role, kind: TensorType) -> int:
    """Copies an F32 file with the tensors of one role as `kind`; returns their values' number."""
    with GgufFile(source) as file:

        def job(tensor: GgufTensor) -> Job:
            cols = tensor.ne[0]

            def load(start: int, stop: int) -> NDArray[np.float32]:
                raw = file.read(tensor, 4 * start * cols, 4 * (stop - start) * cols)
                return decode(tensor.type, raw, stop - start, cols)

            chosen = kind if role_of(tensor.name)[0] is role else TensorType.F32
            return Job(TensorSpec(tensor.name, tensor.ne, chosen), load=load)

        jobs = [job(tensor) for tensor in file.tensors]
        write_file(target, file.metadata, jobs)
        return sum(t.elements for t in file.tensors if role_of(t.name)[0] is role)


def measure(kind: TensorType, seed: int, folder: Path) -> dict[Role, tuple[float, int]]:
    """Mean KL divergence and number of values, by role."""
    source = checkpoints.build(hidden=512, layers=12, k_heads=4, seed=seed, mtp=False, vision=False)
    exact, rounded = folder / "exact.gguf", folder / "rounded.gguf"
    convert(source, exact, "f32", vision="none")
    tokens = [int(token) for token in np.random.default_rng(seed).integers(0, 1000, N_TOKENS)]
    expected = logprobs(exact, tokens)
    weights = np.exp(expected)
    result = {}
    for role in Role:
        if role in SKIPPED or role.name.startswith("VISION"):
            continue
        count = rewrite(exact, rounded, role, kind)
        loss = (weights * (expected - logprobs(rounded, tokens))).sum(1).mean()
        result[role] = (float(loss), count)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", default="q4_k", type=lambda name: TensorType[name.upper()])
    parser.add_argument("--seeds", default=2, type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(args.type, seed, Path(folder)) for seed in range(args.seeds)]
    print(f"{'role':12} {'values':>10} {'KL':>9} {'KL per million':>15}")
    for role, (_, count) in runs[0].items():
        loss = sum(run[role][0] for run in runs) / len(runs)
        print(f"{role.name:12} {count:10,} {loss:9.5f} {loss / count * 1e6:15.5f}")


if __name__ == "__main__":
    main()
