"""Native checks that need a model: threads and cancels, and every allocation that can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

import tiny_gguf

SMALL = {
    "n_embd": 64, "n_ff": 64, "n_layer": 2, "full_attention_interval": 2, "n_head": 2,
    "n_head_kv": 1, "head_dim": 32, "lin_k_heads": 1, "lin_v_heads": 2, "lin_head_dim": 32,
}  # fmt: skip
MIXED = {
    "type": "Q4_K",
    "types": {"ffn_down": "Q6_K", "ssm_out": "Q8_0", "attn_v": "BF16", "ssm_alpha": "F32"},
}


@pytest.mark.parametrize("options", [{}, MIXED], ids=["F32", "mixed"])
def test_threads_sessions_and_cancels(
    run_check: Callable[..., str],
    tiny_model: Callable[..., tiny_gguf.TinyModel],
    options: dict[str, object],
) -> None:
    run_check("check_engine", tiny_model(**options).path)


def test_snapshots(
    run_check: Callable[..., str], tiny_model: Callable[..., tiny_gguf.TinyModel]
) -> None:
    run_check("check_snapshot", tiny_model(type="Q8_0").path)


@pytest.mark.skipif(sys.platform != "linux", reason="failures are injected by GNU ld's --wrap")
@pytest.mark.parametrize(
    "options",
    [{}, {"type": "Q8_0", "mtp": True}, {"vision": True}],
    ids=["F32", "Q8_0", "pictures"],
)
def test_every_failing_allocation_and_read(
    run_check: Callable[..., str],
    tiny_model: Callable[..., tiny_gguf.TinyModel],
    options: dict[str, object],
) -> None:
    run_check("check_faults", tiny_model(**SMALL, **options).path)
