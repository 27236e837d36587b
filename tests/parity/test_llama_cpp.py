"""The same file in llama.cpp: it loads there, and greedy ids agree except at near ties.

Both engines round activations to eight bits: llama.cpp in groups of 256 values for K types and 32
for the others, we in groups of 32 always. What that costs is measured against the same weights
decoded to float32 and evaluated without rounding: our loss must not exceed llama.cpp's, and where
the texts part the tokens must be closer than the rounding moves logits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ggml_writer
import llama_cpp_peer
from parity import Models, Shape, mean_kld, random_tokens
from qwen35cpp import Llama, convert

PROMPTS, PROMPT_LENGTH, NEW_TOKENS = 20, 24, 32
SHAPES = [Shape(1, True), Shape(2, False)]
TYPES = ["q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "iq4_xs"]


def prompts_of(llm: Llama) -> list[list[int]]:
    return [random_tokens(llm.n_vocab(), PROMPT_LENGTH, seed) for seed in range(PROMPTS)]


def next_logits(llm: Llama, prompt: list[int]) -> np.ndarray:
    llm.reset()
    return llm.eval(prompt)


def peer_log_probs(peer: llama_cpp_peer.Peer, prompt: list[int], vocab: int) -> np.ndarray:
    """The whole distribution of the next token; rows the peer leaves out count as -100."""
    row = np.full(vocab, -100.0, np.float32)
    for token, logprob in peer.greedy_steps(prompt, 1, vocab)[0].top:
        row[token] = max(logprob, -100.0)
    return row


def first_difference(llm: Llama, prompt: list[int], theirs: list[int]) -> float | None:
    """Our best logit minus that of their token where the texts part; None if they never do."""
    llm.reset()
    fed = prompt
    for token in theirs:
        logits = llm.eval(fed)
        best = int(np.argmax(logits))
        if best != token:
            return float(logits[best] - logits[token])
        fed = [token]
    return None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float_files_give_the_same_ids(
    models: Models, report: Callable[[str], None], shape: Shape
) -> None:
    path = models.gguf(shape, "f32")
    with Llama(path, n_ctx=256, kv_type="f16") as llm, llama_cpp_peer.open_model(path) as peer:
        gaps = [first_difference(llm, p, peer.greedy(p, NEW_TOKENS)) for p in prompts_of(llm)]
    differing = [round(gap, 4) for gap in gaps if gap is not None]
    report(f"{shape} f32: {gaps.count(None)} of {PROMPTS} texts equal, gaps {differing}")
    assert gaps.count(None) >= PROMPTS - 2
    assert all(gap < 0.02 for gap in differing), (
        "the rounding of the f16 cache moves logits by 0.01"
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("type_name", TYPES)
def test_our_files_agree_up_to_rounding(
    models: Models,
    report: Callable[[str], None],
    tmp_path: Path,
    shape: Shape,
    type_name: str,
) -> None:
    path = models.gguf(shape, type_name)
    report(f"our file, {shape} {type_name}: {compare(path, tmp_path)}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("type_name", sorted(ggml_writer.FILE_TYPES))
def test_files_of_llama_cpp_agree_up_to_rounding(
    models: Models,
    report: Callable[[str], None],
    tmp_path: Path,
    shape: Shape,
    type_name: str,
) -> None:
    path = tmp_path / f"{type_name}.gguf"
    ggml_writer.requantise(models.gguf(shape, "f32"), path, type_name)
    report(f"llama.cpp's file, {shape} {type_name}: {compare(path, tmp_path)}")


def compare(path: Path, folder: Path) -> str:
    """Asserts that both engines agree on `path` up to rounding; returns the figures."""
    exact_path = folder / "exact.gguf"
    convert.quantize(path, exact_path, "f32", allow_requantize=True)
    with (
        Llama(path, n_ctx=256, kv_type="f16") as llm,
        Llama(exact_path, n_ctx=256) as exact,
        llama_cpp_peer.open_model(path) as peer,
    ):
        prompts = prompts_of(llm)
        truth = np.stack([next_logits(exact, p) for p in prompts])
        ours = np.stack([next_logits(llm, p) for p in prompts])
        theirs = np.stack([peer_log_probs(peer, p, llm.n_vocab()) for p in prompts])
        gaps = [first_difference(llm, p, peer.greedy(p, NEW_TOKENS)) for p in prompts]
    our_loss, their_loss = mean_kld(truth, ours), mean_kld(truth, theirs)
    moved = float(np.abs(ours - truth).max())
    differing = sorted(round(gap, 3) for gap in gaps if gap is not None)
    figures = (
        f"KLD to the unrounded model {our_loss:.1e}, llama.cpp {their_loss:.1e}; "
        f"{gaps.count(None)} of {PROMPTS} texts equal, logit gaps where they part {differing}, "
        f"rounding moves logits by up to {moved:.2f}"
    )
    assert our_loss <= 1.5 * their_loss, figures
    # Both engines move logits, independently; their scales are as the roots of their losses.
    assert all(gap <= 2 * moved * (1 + their_loss / our_loss) ** 0.5 for gap in differing), figures
    return figures
