"""Converted files in llama.cpp: it must load them and continue texts as transformers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkpoints

pytest.importorskip("xllamacpp")  # the wheel is an optional peer

import torch
from qwen35cpp.convert import convert, quantize
from qwen35cpp.convert._engine import GgufFile
from qwen35cpp.convert.pipeline import Job, write_file
from qwen35cpp.convert.quantize import _Copy, _known_type
from qwen35cpp.convert.writer import TensorSpec
from transformers import Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration

from llama_cpp_peer import open_model

PROMPTS = [[7, 300, 41], [*range(100, 900, 12)]]
STEPS = 10
# llama.cpp computes attention partly in F16: measured 9e-4 at most over 12 prompts of 16 steps.
LOGPROB_TOLERANCE = 5e-3


def reference(folder: Path, causal_lm: bool, prompt: list[int]) -> list[tuple[int, float, float]]:
    """Greedy ids of transformers with their log-probability and lead over the second best."""
    kind = Qwen3_5ForCausalLM if causal_lm else Qwen3_5ForConditionalGeneration
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    ids, steps = list(prompt), []
    with torch.no_grad():
        for _ in range(STEPS):
            logprobs = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            (first, second), (best, _) = (item.tolist() for item in logprobs.topk(2))
            steps.append((best, first, first - second))
            ids.append(best)
    return steps


@pytest.mark.parametrize(
    ("r", "tied", "causal_lm", "dtype"),
    [(1, True, False, "bfloat16"), (2, False, True, "float32"), (2, True, False, "float32")],
)
def test_same_text_as_transformers(
    converted: Callable[..., Path], r: int, tied: bool, causal_lm: bool, dtype: str
) -> None:
    options: dict[str, Any] = {
        "r": r,
        "tied": tied,
        "causal_lm": causal_lm,
        "dtype": dtype,
        "vision": not causal_lm,
    }
    with open_model(converted("f32", **options), kv_type="f32") as peer:
        for prompt in PROMPTS:
            expected = reference(checkpoints.build(**options), causal_lm, prompt)
            found = peer.greedy_steps(prompt, STEPS, n_top=1)
            assert len(found) == STEPS
            for step, (best, logprob, lead) in zip(found, expected, strict=True):
                if lead < LOGPROB_TOLERANCE and step.id != best:
                    break  # a tie: the texts may part here
                assert step.id == best
                assert step.logprob == pytest.approx(logprob, abs=LOGPROB_TOLERANCE)


@pytest.mark.parametrize(
    "type_name", ["bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs"]
)
def test_every_type_loads(converted: Callable[..., Path], type_name: str) -> None:
    """Rounded weights give nearby distributions: most of the 20 likeliest tokens stay."""
    exact, rounded = converted("f32", r=2, tied=False), converted(type_name, r=2, tied=False)
    with open_model(exact) as peer:
        expected = dict(peer.greedy_steps(PROMPTS[0], 1, n_top=20)[0].top)
    with open_model(rounded) as peer:
        found = dict(peer.greedy_steps(PROMPTS[0], 1, n_top=20)[0].top)
    shared = expected.keys() & found.keys()
    assert len(shared) >= (18 if type_name in ("bf16", "f16") else 10)


@pytest.mark.parametrize("vision_type", ["f16", "q8_0"])
def test_projector_loads(tmp_path: Path, converted: Callable[..., Path], vision_type: str) -> None:
    path = converted("q8_0", r=2, tied=False)
    mmproj = tmp_path / "mmproj.gguf"
    quantize(path.with_name(f"mmproj-{path.name}"), mmproj, vision_type)
    with open_model(path, mmproj=mmproj) as peer:
        assert len(peer.greedy("Hello", 2)) == 2


def test_without_list_of_recurrent_layers(tmp_path: Path, converted: Callable[..., Path]) -> None:
    """Older files lack `attention.recurrent_layers`: the interval must say the same."""
    path, out = converted("f32"), tmp_path / "older.gguf"
    with GgufFile(path) as file:
        kept = {k: v for k, v in file.metadata.items() if not k.endswith("recurrent_layers")}
        jobs = [
            Job(TensorSpec(item.name, item.ne, _known_type(item)), copy=_Copy(file, item))
            for item in file.tensors
        ]
        write_file(out, kept, jobs)
    with open_model(path) as new, open_model(out) as old:
        assert new.greedy(PROMPTS[0], 6) == old.greedy(PROMPTS[0], 6)


def test_requantised_file_is_the_converted_one(
    tmp_path: Path, converted: Callable[..., Path]
) -> None:
    """quantize() of an F32 file gives byte for byte what convert() gives directly."""
    quantize(converted("f32", r=2, tied=False), tmp_path / "q.gguf", "q4_k_m")
    assert (tmp_path / "q.gguf").read_bytes() == converted("q4_k_m", r=2, tied=False).read_bytes()


def test_conversion_without_mtp_loads(tmp_path: Path) -> None:
    convert(checkpoints.build(r=2, mtp=False), tmp_path / "m.gguf", "bf16", vision="none")
    with open_model(tmp_path / "m.gguf") as peer:
        assert len(peer.greedy(PROMPTS[0], 3)) == 3
