"""What a smaller cache of keys and values costs, and that it breaks no invariant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from parity import Models, Shape, mean_kld, random_tokens
from qwen35cpp import Llama

SHAPES = [Shape(1, True), Shape(2, False)]
POSITIONS = 600  # more than one part of the cache for few tokens (512 entries)


def _logits(llm: Llama, tokens: list[int], cuts: list[int]) -> np.ndarray:
    llm.reset()
    rows, at = [], 0
    for cut in cuts:
        rows.append(llm.eval(tokens[at : at + cut], all_logits=True))
        at += cut
    assert at == len(tokens)
    return np.concatenate(rows)


# Measured: f16 4e-9, q8_0 5e-6, iq4_nl 1e-3. The limits leave a factor of six.
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kv_type", "limit"), [("f16", 2.5e-8), ("q8_0", 3e-5), ("iq4_nl", 6e-3)])
def test_loss_of_a_smaller_cache(
    models: Models, report: Callable[[str], None], shape: Shape, kv_type: str, limit: float
) -> None:
    path = models.gguf(shape, "f32")
    results = []
    for kind in ("f32", kv_type):
        with Llama(path, n_ctx=POSITIONS, kv_type=kind) as llm:  # type: ignore[arg-type]
            tokens = random_tokens(llm.n_vocab(), POSITIONS, seed=11)
            cuts = [POSITIONS - 100] + [1] * 50 + [3] * 10 + [8, 8, 4]
            results.append(_logits(llm, tokens, cuts))
    kld = mean_kld(*results)
    report(f"{shape}: mean KLD of a {kv_type} cache against f32 {kld:.1e}")
    assert kld <= limit


def test_any_chunking_of_an_8_bit_cache(models: Models, report: Callable[[str], None]) -> None:
    with Llama(models.gguf(SHAPES[1], "f32"), n_ctx=POSITIONS, kv_type="q8_0") as llm:
        tokens = random_tokens(llm.n_vocab(), POSITIONS, seed=12)
        whole = _logits(llm, tokens, [POSITIONS])
        for cuts in ([1] * POSITIONS, [8] * 75, [9, 31, 32, 33, 495], [599, 1]):
            # Sums that round differently may round a key to the next 8-bit value. Measured: 7e-9.
            kld = mean_kld(whole, _logits(llm, tokens, cuts))
            report(f"chunks of {cuts[0]}, {cuts[1]}..: mean KLD {kld:.1e}")
            assert kld <= 5e-8


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "iq4_nl"])
def test_threads_do_not_change_a_bit(models: Models, kv_type: str) -> None:
    results = []
    for threads in (1, 2, 3):
        with Llama(
            models.gguf(SHAPES[1], "q4_k_m"),
            n_ctx=POSITIONS,
            n_threads=threads,
            kv_type=kv_type,  # type: ignore[arg-type]
        ) as llm:
            tokens = random_tokens(llm.n_vocab(), POSITIONS, seed=13)
            cuts = [POSITIONS - 24, 1, 1, 4, 8, 10]
            results.append(_logits(llm, tokens, cuts).tobytes())
    assert results[0] == results[1] == results[2]
