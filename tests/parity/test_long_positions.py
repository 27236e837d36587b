"""Rotary positions beyond the native context, stretched by YaRN, against transformers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import Qwen3_5ForConditionalGeneration

from parity import Models, Shape, mean_kld, random_tokens
from qwen35cpp import Llama

FACTOR = 4.0
GRID = (4, 6)  # of the picture between two runs of text
SHAPE = Shape(2, True)


def positions(first: int, text: int, more: int) -> torch.Tensor:
    """Time, row and column of every token: [3, 1, text + cells + more]."""
    rows, columns = GRID
    start = first + text
    cells = [(start, start + i // columns, start + i % columns) for i in range(rows * columns)]
    behind = start + max(GRID)
    places = [(p, p, p) for p in range(first, start)] + cells
    places += [(p, p, p) for p in range(behind, behind + more)]
    return torch.tensor(places).T[:, None]


@pytest.mark.parametrize("first", [0, 262_144, 524_000, 1_009_000])
def test_yarn_equals_the_reference(
    models: Models, report: Callable[[str], None], first: int
) -> None:
    folder, path = models.checkpoint(SHAPE), models.gguf(SHAPE, "f32")
    with Llama(path, n_ctx=256, rope_scaling={"rope_type": "yarn", "factor": FACTOR}) as llm:
        native = int(llm.info.n_ctx_train / FACTOR)
        text, more = (random_tokens(llm.n_vocab(), 24, seed) for seed in (1, 2))
        cells = np.random.default_rng(3).normal(0, 0.05, (GRID[0] * GRID[1], llm.n_embd()))
        cells = cells.astype(np.float32)
        slot = llm._engine.slots[0]
        snapshot = slot.session.snapshot()
        snapshot[8:12] = first.to_bytes(4, "little")  # the rotary position, see snapshot.cpp
        slot.session.restore(snapshot)
        slot.eval(text)
        slot.session.eval_picture(cells, GRID)
        ours = llm.eval(more, all_logits=True)

    model = Qwen3_5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config.text_config
    config.rope_parameters = {
        **config.rope_parameters,
        "rope_type": "yarn",
        "factor": FACTOR,
        "original_max_position_embeddings": native,
    }
    trunk = model.model.language_model
    trunk.rotary_emb = type(trunk.rotary_emb)(config)
    with torch.no_grad():
        embed = trunk.embed_tokens
        inputs = torch.cat(
            [embed(torch.tensor(text)), torch.from_numpy(cells), embed(torch.tensor(more))]
        )[None]
        places = positions(first, len(text), len(more))
        hidden = trunk(inputs_embeds=inputs, position_ids=places).last_hidden_state
        theirs = model.lm_head(hidden[0, -len(more) :]).numpy()
    kld = mean_kld(theirs, ours)
    report(f"YaRN x{FACTOR:.0f} from position {first}: mean KLD {kld:.1e}")
    assert kld <= (1e-6 if first == 0 else 1e-4)
