"""Estimates of memory: against the measured peak, and what is chosen or refused because of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from qwen35cpp import Llama, _memory
from qwen35cpp._load import rope_factor
from qwen35cpp.errors import InvalidArgument, NotEnoughMemory

CONTEXT = 65_536
# Fills the caches without reading: what they hold does not matter.
PEAK = """
import sys
from qwen35cpp import Llama
llm = Llama.tiny(n_ctx=int(sys.argv[1]), kv_type=sys.argv[2], n_parallel=1, n_threads=2)
session = llm._engine.slots[0].session
for first in range(0, llm.n_ctx(), 1024):
    session.import_entries(first, bytes(1024 * session.token_bytes))
session.eval(list(range(10, 600)))
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(1024 * int(fields["VmHWM"].split()[0]))
"""


def fit(*arguments: str) -> Any:
    command = [sys.executable, "-m", "qwen35cpp", "fit", "tiny", "-t", "2", "--json", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_estimate_is_near_the_peak(kv_type: str) -> None:
    command = [sys.executable, "-c", PEAK, str(CONTEXT), kv_type]
    peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
    needs = fit("--ctx", str(CONTEXT), "--kv", kv_type)
    assert needs["total"] - needs["cache"] == pytest.approx(peak, rel=0.08)
    parts = [needs[name] for name in ("weights", "kv", "state", "scratch", "cache", "process")]
    assert needs["total"] == sum(parts)


def test_fit_offers_what_fits() -> None:
    needs = fit("--ctx", "60000000", "--parallel", "8")
    assert not needs["fits"]
    for kind, n_ctx in needs["choices"].items():
        if n_ctx:
            assert fit("--ctx", str(n_ctx), "--kv", kind, "--parallel", "8")["total"] < (
                needs["available"] * 1.1
            )


def test_a_limit_chooses_the_cache_and_the_context() -> None:
    def opened(megabytes: int, **options: Any) -> tuple[int, int]:
        limit = _memory.resident() + (megabytes << 20)  # it is for the process as a whole
        fixed = {"n_parallel": 1, "draft": "off", "prefix_cache_bytes": 8 << 20}
        with Llama.tiny(memory_limit=limit, **fixed, **options) as llm:
            return llm.n_ctx(), llm._engine.slots[0].session.token_bytes

    with Llama.tiny(n_ctx=64, draft="off") as llm:
        exact = llm._engine.slots[0].session.token_bytes
    context, stored = opened(200, n_ctx=32_768)
    assert (context, stored) == (32_768, exact)
    context, stored = opened(75, n_ctx=32_768)
    assert context == 32_768
    assert stored < exact
    context, stored = opened(75)
    assert 4096 < context < 262_144
    assert stored < exact
    with pytest.raises(NotEnoughMemory, match="a context of 262144 tokens") as caught:
        opened(75, n_ctx=262_144, kv_type="f16")
    assert "n_ctx=" in caught.value.hint
    with pytest.raises(NotEnoughMemory):
        opened(1)


def test_a_context_beyond_the_machine_is_refused() -> None:
    with pytest.raises(NotEnoughMemory, match=r"needs .* GB") as caught:
        Llama.tiny(n_ctx=67_108_864, kv_type="f32", n_parallel=1)
    assert "n_ctx=" in caught.value.hint or "kv_type=" in caught.value.hint


def test_rope_scaling_is_a_name_or_a_mapping() -> None:
    assert rope_factor(None) == 0.0
    assert rope_factor("yarn") == 4.0
    assert rope_factor({"rope_type": "yarn", "factor": 2.0}) == 2.0
    for wrong in (
        "linear",
        {"factor": 2.0},
        {"type": "yarn", "factor": 0.5},
        {"type": "yarn", "x": 1},
    ):
        with pytest.raises(InvalidArgument, match="rope_scaling"):
            rope_factor(wrong)
    with Llama.tiny(n_ctx=512, rope_scaling="yarn") as llm:
        assert llm.info.n_ctx_train == 4 * 262_144
        stretched = llm.eval(llm.tokenize("Once upon a time"))
    with Llama.tiny(n_ctx=512) as llm:
        assert (llm.eval(llm.tokenize("Once upon a time")) != stretched).any()
