"""States of the multi-token-prediction layer against a reference of transformers' own parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from parity import Models, Shape, random_tokens
from qwen35cpp import convert
from tiny import model as tiny_model

Floats = NDArray[np.float32]
DEPTH = 3
COLUMNS, CELLS = 4, 12  # of the picture
# A prefill, single tokens, a few at once, more than the trail holds, a picture, text after it.
PIECES = [60, 1, 1, 5, 8, *[7] * 6, 40, -CELLS, 3, 20]


def _load_mtp(folder: Path, text: Any) -> tiny_model.Mtp:
    """The layer with a checkpoint's weights."""
    mtp = tiny_model.Mtp(text)
    mtp.layers[0].self_attn.config._attn_implementation = "eager"
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    own = {name.removeprefix("mtp."): t for name, t in tensors.items() if name.startswith("mtp.")}
    mtp.load_state_dict({name: t.float() for name, t in own.items()})
    return mtp.float().eval()


def _places(pieces: list[int]) -> torch.Tensor:
    """Rotary positions [3, n] of tokens and cells."""
    columns: list[tuple[int, int, int]] = []
    at = 0
    for size in pieces:
        if size > 0:
            columns += [(at + i,) * 3 for i in range(size)]
            at += size
        else:
            columns += [(at, at + i // COLUMNS, at + i % COLUMNS) for i in range(-size)]
            at += max(COLUMNS, -size // COLUMNS)
    return torch.tensor(columns).T


@torch.no_grad()
def _expected(model: Any, mtp: tiny_model.Mtp, tokens: list[int], rows: Floats) -> Floats:
    """[pieces, DEPTH, hidden]: the layer over the whole text again for every draft."""
    text = model.model.language_model
    embedded = text.embed_tokens(torch.tensor([tokens]))
    picture = sum(abs(size) for size in PIECES[: PIECES.index(-CELLS)])
    embedded[0, picture : picture + CELLS] = torch.from_numpy(rows)
    places = _places(PIECES)[:, None]
    hidden = text(
        inputs_embeds=embedded[:, : places.shape[-1]], position_ids=places
    ).last_hidden_state
    chains, done = [], 0
    for i, size in enumerate(PIECES):
        done += abs(size)
        cos, sin = text.rotary_emb(embedded, _places([*PIECES[: i + 1], DEPTH])[:, None])
        states = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :done]], 1)
        # What is drafted is text, also where a picture follows.
        drafts = text.embed_tokens(torch.tensor([tokens[done : done + DEPTH]]))
        inputs = torch.cat([embedded[:, :done], drafts], 1)
        chain = []
        for depth in range(DEPTH):
            n = done + depth + 1
            x = mtp.fc(
                torch.cat([mtp.pre_fc_norm_embedding(inputs[:, :n]),
                           mtp.pre_fc_norm_hidden(states)], -1)
            )  # fmt: skip
            mask = torch.full((n, n), -torch.inf).triu(1)[None, None]
            angles = (cos[:, :n], sin[:, :n])
            x = mtp.layers[0](x, position_embeddings=angles, attention_mask=mask)
            state = mtp.norm(x[0] if isinstance(x, tuple) else x)[:, -1:]
            states = torch.cat([states, state], 1)
            chain.append(state[0, 0].numpy())
        chains.append(np.stack(chain))
    return np.stack(chains)


def _ours(
    run_check: Callable[..., str], folder: Path, gguf: Path, tokens: list[int], rows: Floats
) -> Floats:
    (folder / "tokens").write_bytes(np.array(tokens, np.int32).tobytes())
    (folder / "rows").write_bytes(rows.tobytes())
    arguments = [gguf, folder / "tokens", folder / "rows", COLUMNS, folder / "out", DEPTH, *PIECES]
    run_check("draft_states", *map(str, arguments))
    out = np.fromfile(folder / "out", np.float32)
    return out.reshape(len(PIECES), DEPTH, -1)


@pytest.mark.parametrize("name", ["r1-tied", "r2-untied", "tiny"])
def test_states_equal_the_reference(
    models: Models,
    run_check: Callable[..., str],
    repository: Path,
    tmp_path: Path,
    report: Callable[[str], None],
    name: str,
) -> None:
    if name == "tiny":
        checkpoint, gguf = repository / "tests/tiny/qwen35-tiny", tmp_path / "tiny.gguf"
        convert.convert(checkpoint, gguf, "f32", vision="none")
        model = tiny_model.Qwen3_5ForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32
        ).eval()
    else:
        shape = Shape(int(name[1]), name.endswith("-tied"))
        checkpoint, gguf = models.checkpoint(shape), models.gguf(shape, "f32")
        model = models.reference(shape)
    mtp = _load_mtp(checkpoint, model.config.text_config)
    tokens = random_tokens(
        model.config.text_config.vocab_size, sum(map(abs, PIECES)) + DEPTH, seed=3
    )
    width = model.config.text_config.hidden_size
    rows = np.random.default_rng(4).normal(size=(CELLS, width)).astype(np.float32)
    rows *= float(model.model.language_model.embed_tokens.weight.detach().std())
    expected = _expected(model, mtp, tokens, rows)
    ours = _ours(run_check, tmp_path, gguf, tokens, rows)
    error = np.abs(ours - expected).max() / expected.std()
    report(f"MTP {name}: largest error {error:.1e} of a state's deviation")
    assert error < 2e-4
    other = np.roll(ours, 1, axis=0)  # states of another place are far from right
    assert np.abs(other - expected).max() / expected.std() > 0.5
