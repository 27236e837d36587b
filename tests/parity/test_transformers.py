"""Logits and greedy text of our files against transformers in float32, on random weights.

Greedy decoding of 20 prompts by 128 tokens on four shapes, and 512 positions of logits each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from parity import SHAPES, Models, Shape, mean_kld, random_tokens
from qwen35cpp import Llama

POSITIONS = 512
PROMPTS, PROMPT_LENGTH, NEW_TOKENS = 20, 24, 128


def _reference_logits(model: object, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].numpy()  # type: ignore[operator]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("stored", "type_name", "limit"), [("float32", "f32", 1e-6), ("bfloat16", "bf16", 1e-4)]
)
def test_logits_equal_the_reference(
    models: Models,
    report: Callable[[str], None],
    shape: Shape,
    stored: str,
    type_name: str,
    limit: float,
) -> None:
    reference = models.reference(shape, stored)
    with Llama(models.gguf(shape, type_name, stored), n_ctx=POSITIONS) as llm:
        tokens = random_tokens(llm.n_vocab(), POSITIONS, seed=1)
        ours = llm.eval(tokens, all_logits=True)
    kld = mean_kld(_reference_logits(reference, tokens), ours)
    report(f"{shape} {type_name}: mean KLD {kld:.2e} over {POSITIONS} positions")
    assert kld <= limit


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_greedy_text_equals_the_reference(
    models: Models, report: Callable[[str], None], shape: Shape
) -> None:
    reference = models.reference(shape)
    with Llama(models.gguf(shape, "f32"), n_ctx=256) as llm:
        prompts = [random_tokens(llm.n_vocab(), PROMPT_LENGTH, seed) for seed in range(PROMPTS)]
        ours = [_greedy(llm, prompt) for prompt in prompts]
    with torch.no_grad():
        theirs = reference.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(PROMPTS, PROMPT_LENGTH, dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
        )[:, PROMPT_LENGTH:].tolist()
    distinct = len({tuple(ids) for ids in ours})
    report(f"{shape}: {PROMPTS} prompts of {NEW_TOKENS} tokens, {distinct} different texts")
    assert ours == theirs
    assert distinct == PROMPTS
    assert all(len(set(ids)) > NEW_TOKENS // 8 for ids in ours), "texts that repeat prove little"


def _greedy(llm: Llama, prompt: list[int]) -> list[int]:
    """Plain argmax over every row, as the reference does it."""
    llm.reset()
    ids: list[int] = []
    fed = prompt
    for _ in range(NEW_TOKENS):
        ids.append(int(np.argmax(llm.eval(fed))))
        fed = ids[-1:]
    return ids
