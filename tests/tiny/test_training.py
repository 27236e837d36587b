"""The forward pass of training against transformers, packing, drafts, and the trainer itself."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")  # extra "reference"

from torch import Tensor

from tiny import evaluate, eyes, model, train, vocabulary
from tiny.batches import NAMES, Stream, collate
from tiny.chat_format import Encoded, Renderer
from tiny.skills import SKILLS, mix

CHECKPOINT = Path(__file__).parent / "qwen35-tiny"


@pytest.fixture(scope="module")
def tiny() -> model.TinyModel:
    return model.load(CHECKPOINT).eval()


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(vocabulary.plain(CHECKPOINT))


def _documents(renderer: Renderer, names: list[str], seed: int = 0) -> list[Encoded]:
    rng = random.Random(seed)
    return [renderer.sample(SKILLS[name].make(rng, False)) for name in names]


@torch.no_grad()
def _reference(tiny: model.TinyModel, document: Encoded) -> Tensor:
    """Logits of transformers for a document alone."""
    return tiny.hf(**evaluate.inputs([document])).logits[0]


@torch.no_grad()
def test_packed_rows_equal_transformers_on_each_document(
    tiny: model.TinyModel, renderer: Renderer
) -> None:
    rows = [
        _documents(renderer, ["chat", "shapes", "copy"]),
        _documents(renderer, ["click", "video"]),
    ]
    batch = collate(rows, 1024)
    forward = model.PackedForward(tiny, compiled=False)
    x = eyes.insert(tiny.visual, tiny.text.embed_tokens(batch.ids), batch)
    hidden = forward(x, forward.geometry(batch.documents, batch.positions))
    logits = hidden @ tiny.text.embed_tokens.weight.T
    for row, documents in enumerate(rows):
        at = 0
        for document in documents:
            expected = _reference(tiny, document)
            found = logits[row, at : at + len(document)]
            assert (found - expected).abs().max() < 2e-4 * expected.abs().max()
            at += len(document)


def _taught(document: Encoded, layer: int) -> list[tuple[int, int]]:
    """The lessons that a batch keeps of a document for a layer with attention."""
    seeking, sought = train.lessons(collate([[document]], 4096))[min(layer, 1)]
    return list(zip(seeking.tolist(), sought.tolist(), strict=True))


@torch.no_grad()
def test_lessons_of_looking_back_measure_the_attention_of_transformers(
    tiny: model.TinyModel, renderer: Renderer
) -> None:
    documents = _documents(renderer, ["chat", "passage", "shapes", "video"], seed=5)
    batch = collate([documents[:1], documents[1:]], 4096)
    forward = model.PackedForward(tiny, compiled=False)
    x = eyes.insert(tiny.visual, tiny.text.embed_tokens(batch.ids), batch)
    geo = forward.geometry(batch.documents, batch.positions)
    looked: list[Tensor] = []
    forward(x, geo | {"lesson": (*train.lessons(batch), looked)})
    text = tiny.hf.config.text_config
    head = text.num_attention_heads - text.num_attention_heads // text.num_key_value_heads
    tiny.hf.set_attn_implementation("eager")
    try:
        expected: dict[int, list[Tensor]] = {}
        for document in documents[1:]:
            ran = tiny.hf(**evaluate.inputs([document]), output_attentions=True)
            layers = [weights for weights in ran.attentions if weights is not None]
            for layer, weights in enumerate(layers):
                for token, source in _taught(document, layer):
                    weight = weights[0, head, token, source]
                    expected.setdefault(layer, []).append(-weight.log())
    finally:
        tiny.hf.set_attn_implementation("sdpa")
    assert len(looked) == len(expected) == 2  # layers
    for found, surprises in zip(looked, expected.values(), strict=True):
        assert float(found) == pytest.approx(float(torch.stack(surprises).mean()), rel=1e-3)


def test_inverse_has_the_gradient_of_the_definition() -> None:
    torch.manual_seed(1)
    a = (0.3 * torch.randn(2, 8, 8, dtype=torch.float64)).tril(-1).requires_grad_()
    weight = torch.randn(2, 8, 8, dtype=torch.float64)
    (model._UnitLowerInverse.apply(a) * weight).sum().backward()
    found = a.grad.clone()
    a.grad = None
    (torch.linalg.inv(torch.eye(8, dtype=torch.float64) + a) * weight).sum().backward()
    assert torch.allclose(found, a.grad.tril(-1))


def test_scan_over_chunks_equals_their_order() -> None:
    torch.manual_seed(3)
    rows, length = 2, 11 * model.CHUNK  # not a power of two
    q, k = torch.nn.functional.normalize(
        torch.randn(2, rows * length, 1, 16, dtype=torch.float64), dim=-1
    )
    v = torch.randn(rows * length, 1, 2, 16, dtype=torch.float64, requires_grad=True)
    g = -0.1 * torch.rand(rows * length, 1, 2, dtype=torch.float64)
    g[length + 100] = model._FORGET
    chunks = model.delta_chunks(q, k, v, g, torch.rand_like(g))
    found = []
    for rule in (model.delta_rule, model.delta_scan):
        out = rule(*(t.unflatten(2, (rows, -1)) for t in chunks))
        (grad,) = torch.autograd.grad(out.square().sum(), v, retain_graph=True)
        found.append((out, grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other)


@torch.no_grad()
def test_first_drafts_are_those_of_training(tiny: model.TinyModel, renderer: Renderer) -> None:
    (document,) = _documents(renderer, ["story"], seed=3)
    batch = collate([[document]], 128)
    forward = model.PackedForward(tiny, compiled=False)
    x = tiny.text.embed_tokens(batch.ids)
    geo = forward.geometry(batch.documents, batch.positions)
    hidden = forward(x, geo)
    following = torch.nn.functional.pad(x[:, 1:], (0, 0, 0, 1))
    states = forward.draft(hidden, following, geo)[0, : len(document) - 1]
    expected = (states @ tiny.text.embed_tokens.weight.T).argmax(-1)
    ids = torch.tensor(document.ids)
    found = evaluate.Drafts(tiny)(hidden[0, : len(document)], ids, 1)[0]
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_chained_drafts_equal_drafting_one_place_alone(
    tiny: model.TinyModel, renderer: Renderer
) -> None:
    """All places at once against the prefix that ends at one place, drafted as the last row."""
    (document,) = _documents(renderer, ["story"], seed=4)
    ids = torch.tensor(document.ids)
    hidden = tiny.hf.model(input_ids=ids[None]).last_hidden_state[0]
    drafts = evaluate.Drafts(tiny)
    chain = drafts(hidden, ids, 3)
    for place in (0, 7, len(ids) - 2):
        alone = drafts(hidden[: place + 2], ids[: place + 2], 3)
        assert [int(d[-1]) for d in alone] == [int(d[place]) for d in chain]


def test_stream_keeps_the_shares_and_repeats_itself(renderer: Renderer) -> None:
    def first(seed: int) -> list[list[int]]:
        stream = iter(Stream(renderer, mix(0.5), seed))
        return [next(stream).ids[0].tolist() for _ in range(3)]

    assert first(1) == first(1) != first(2)
    spent = dict.fromkeys(NAMES, 0)
    stream = Stream(renderer, mix(0.5), 1)
    for _ in range(2000):
        document = stream.document()
        spent[document.skill] += len(document) + sum(r * c for r, c in document.grids) // 4
    total = sum(spent.values())
    for name, share in mix(0.5).items():
        assert spent[name] / total == pytest.approx(share, abs=0.01)


def test_muon_moves_every_direction_alike() -> None:
    torch.manual_seed(2)
    values = torch.linalg.svdvals(train.orthogonalise(torch.randn(3, 40, 70)))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    command = [
        sys.executable, str(Path(train.__file__)), "--eager", "--vision", "0.5",
        "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    states, minutes = [], 0.01
    for _ in range(2):
        subprocess.run([*command, "--minutes", str(minutes)], check=True, capture_output=True)
        states.append(torch.load(tmp_path / "work" / "state.pt", weights_only=True))
        minutes = states[0]["spent"] / 60 + 0.01
    assert 0 < states[0]["step"] < states[1]["step"]
    assert states[0]["spent"] < states[1]["spent"]
    written = model.load(tmp_path / "out").state_dict()
    name = "hf.model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(written[name], states[1]["model"][f"tiny.{name}"].bfloat16().float())
