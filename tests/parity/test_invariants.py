"""What must not change the result: how a prompt is cut, how many threads, which tier."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity import Models, Shape, mean_kld, random_tokens
from qwen35cpp import Llama, convert

SHAPE = Shape(2, False)
POSITIONS = 300
# Chunks on both sides of every limit: 1, 8 (few tokens), 9, 32 and 33 (a chunk of the delta rule).
CUTS = [[1] * POSITIONS, [8] * 37 + [4], [9, 31, 32, 33, 64, 131], [299, 1], [5, 7, 288]]

TIERS = ("scalar", "avx2", "avx_vnni", "avx512", "amx", "neon", "neon_dotprod", "neon_i8mm")


def _eval_in(llm: Llama, tokens: list[int], cuts: list[int]) -> np.ndarray:
    assert sum(cuts) == len(tokens)
    llm.reset()
    rows, at = [], 0
    for cut in cuts:
        rows.append(llm.eval(tokens[at : at + cut], all_logits=True))
        at += cut
    return np.concatenate(rows)


@pytest.mark.parametrize(
    # Quantised activations round differently when the sums before them do: hence the wider limits.
    ("type_name", "limit"),
    [("f32", 1e-4), ("bf16", 1e-4), ("q8_0", 0.2), ("q4_k_m", 0.2)],
)
def test_any_chunking_equals_one_batch(
    models: Models, report: Callable[[str], None], type_name: str, limit: float
) -> None:
    with Llama(models.gguf(SHAPE, type_name), n_ctx=512, kv_type="f32") as llm:
        tokens = random_tokens(llm.n_vocab(), POSITIONS, seed=3)
        whole = _eval_in(llm, tokens, [POSITIONS])
        spread = float(np.abs(whole).max())
        worst = max(
            float(np.abs(_eval_in(llm, tokens, cuts) - whole).max()) / spread for cuts in CUTS
        )
    report(f"{type_name}: largest difference between chunkings {worst:.1e} of the largest logit")
    assert worst <= limit


@pytest.mark.parametrize("type_name", ["q8_0", "q4_k_m", "q4_0", "q6_k"])
def test_threads_do_not_change_a_bit(models: Models, type_name: str) -> None:
    results = []
    for threads in (1, 2, 3):
        with Llama(models.gguf(SHAPE, type_name), n_ctx=512, n_threads=threads) as llm:
            tokens = random_tokens(llm.n_vocab(), 200, seed=4)
            logits = _eval_in(llm, tokens, [190, 9, 1])
            text = llm.generate(tokens[:40], max_tokens=64, temperature=0.0)
            results.append((logits.tobytes(), text.tokens))
    assert results[0] == results[1] == results[2]


_TIER_SCRIPT = """
import json, sys, numpy as np
from qwen35cpp import Llama, system_info
path, tokens, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
with Llama(path, n_ctx=512) as llm:
    prefill = llm.eval(tokens[:-8], all_logits=True)
    np.save(out, np.concatenate([prefill] + [llm.eval([t], all_logits=True) for t in tokens[-8:]]))
print(system_info()["isa"])
"""


@pytest.mark.parametrize("type_name", ["f32", "bf16", "q8_0", "q4_k_m"])
def test_tiers_agree(
    models: Models, report: Callable[[str], None], tmp_path: Path, type_name: str
) -> None:
    path = models.gguf(SHAPE, type_name)
    with Llama(path, n_ctx=64) as llm:
        tokens = random_tokens(llm.n_vocab(), 96, seed=5)
    results: dict[str, np.ndarray] = {}
    for tier in TIERS:
        out = tmp_path / f"{tier}.npy"
        done = subprocess.run(
            [sys.executable, "-c", _TIER_SCRIPT, str(path), json.dumps(tokens), str(out)],
            env={**os.environ, "QWEN35_ISA": tier},
            capture_output=True,
            text=True,
        )
        if "cannot run that tier" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == tier
        results[tier] = np.load(out)
    scalar = results.pop("scalar")
    assert results, "no vector tier on this CPU"
    # Float types differ by the rounding of sums. That may turn the rounding of an activation to
    # eight bits the other way, so tiers of an integer type differ like two roundings of one model.
    limit = (
        1e-8 if type_name in ("f32", "bf16") else 3 * _rounding_loss(path, tokens, scalar, tmp_path)
    )
    for tier, logits in results.items():
        kld = mean_kld(scalar, logits)
        report(f"{type_name}: mean KLD of {tier} against scalar {kld:.1e}, limit {limit:.1e}")
        assert kld <= limit


def _rounding_loss(path: Path, tokens: list[int], rounded: np.ndarray, folder: Path) -> float:
    """KLD of logits with eight-bit activations to those of the same weights without rounding."""
    exact = folder / "exact.gguf"
    convert.quantize(path, exact, "f32", allow_requantize=True)
    with Llama(exact, n_ctx=512) as llm:
        return mean_kld(llm.eval(tokens, all_logits=True)[-len(rounded) :], rounded)
