"""A first look at the output head: the largest logits are those of the whole head, bit by bit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from qwen35cpp import Llama, _handles
from qwen35cpp._native import system_info

CHECKPOINT = Path(__file__).resolve().parents[1] / "tiny" / "qwen35-tiny"
PROMPT = "Once there was a girl named Mia."


def tiers() -> list[str]:
    """The tiers of this machine that take a first look."""
    features = system_info()["features"].split(",")
    needs = {"avx2": "avx2", "avx_vnni": "avx_vnni", "avx512": "vnni", "amx": "amx"}
    return [tier for tier, feature in needs.items() if feature in features]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a head of Q6_K."""
    path = tmp_path_factory.mktemp("head") / "toy.gguf"
    command = [sys.executable, "-m", "qwen35cpp", "convert", CHECKPOINT, "-o", path]
    subprocess.run([*command, "--type", "q6_k"], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def model(toy: Path) -> Iterator[_handles.Model]:
    model = _handles.Model(str(toy).encode(), n_threads=2)
    yield model
    model.close()


def greedy(model: _handles.Model, *, whole: bool) -> _handles.Sampler:
    """A sampler that needs the largest logit, or log-probabilities and so all of them."""
    return _handles.Sampler(
        model, _handles.Sampling(temperature=0.0), seed=0, n_logprobs=0 if whole else None,
        logit_bias={},
    )  # fmt: skip


@pytest.mark.parametrize("tier", tiers())
@pytest.mark.parametrize(("top_k", "temperature"), [(1, 0), (3, 1)], ids=["greedy", "top 3"])
@pytest.mark.parametrize("drafts", [0, 1], ids=["plain", "drafts"])
def test_the_largest_logits_of_every_step(
    run_check: Callable[..., str], toy: Path, tier: str, top_k: int, temperature: int, drafts: int
) -> None:
    arguments = (toy, 2400, top_k, temperature, drafts)
    said = run_check("head_steps", *arguments, env={"QWEN35_ISA": tier})
    figures = {name: int(value) for name, value in re.findall(r"(\w+) (\d+)", said)}
    assert figures["different"] == 0
    assert figures["looks"] > 100
    assert figures["read"] < figures["groups"] / 3


@pytest.mark.long
def test_the_largest_logits_of_100_000_steps(run_check: Callable[..., str], toy: Path) -> None:
    run_check("head_steps", toy, 100_000, 1, 0, 0)


@pytest.mark.skipif(not tiers(), reason="this machine's tiers read the whole head")
def test_all_logits_are_there_when_they_are_asked_for(model: _handles.Model) -> None:
    ids = model.tokenize(PROMPT.encode(), special=False)
    n_vocab = model.info.n_vocab
    looking, whole = (_handles.Session(model, n_ctx=256) for _ in range(2))
    looking.eval(ids)
    whole.eval(ids)
    sampler = greedy(model, whole=False)
    token = looking.decode((), sampler, (), 1)[0][0]
    before = model.head_statistics().looks
    for _ in range(20):
        drawn = looking.decode((token,), sampler, (), 1)[0][0]
        whole.eval([token])
        assert drawn == int(whole.logits(n_vocab).argmax())
        token = drawn
    assert model.head_statistics().looks == before + 20
    np.testing.assert_array_equal(looking.logits(n_vocab), whole.logits(n_vocab))
    # What is kept is kept whole, and drawn from by samplers that look at all of it.
    drawn = looking.decode((token,), sampler, (), 1)[0][0]
    snapshot = looking.snapshot()
    whole.eval([token])
    again = looking.decode((), greedy(model, whole=True), (), 1)[0]
    assert again[0] == drawn
    looking.reset()
    looking.eval([*ids, *ids])
    other = looking.logits(n_vocab)
    looking.close()
    assert not np.array_equal(other, whole.logits(n_vocab))
    assert snapshot[-4 * n_vocab :] == whole.logits(n_vocab).tobytes()
    whole.close()


PENALTIES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"temperature": 0, "logit_bias": {7: -100.0, 260: 3.0}},
    {"temperature": 1.0, "top_k": 2, "top_p": 0.9, "seed": 3},
    {"temperature": 1.5, "top_k": 4, "min_p": 0.05, "presence_penalty": 1.0, "seed": 4},
    {"temperature": 1.0, "top_k": 0, "top_p": 0.9, "seed": 5},
]


@pytest.mark.parametrize("draft", ["off", "lookup", "both"])
def test_texts_are_the_same(toy: Path, draft: str) -> None:
    with Llama(str(toy), n_ctx=1024, draft=draft) as llm:
        for options in PENALTIES:
            kept = {"max_tokens": 120, **options}
            assert llm.generate(PROMPT, **kept) == llm.generate(PROMPT, logprobs=0, **kept)


def test_rows_that_are_not_numbers(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    shutil.copy(toy, path)
    with Llama(str(toy), n_ctx=256, draft="off") as llm:
        expected = llm.generate(PROMPT, temperature=0, max_tokens=60)
        used = {*llm.tokenize(PROMPT), *expected.tokens}
    reader = gguf.GGUFReader(path, "r+")
    (head,) = (tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    unused = [row for row in range(len(head.data)) if row not in used]
    head.data[unused[::7], -2:] = np.frombuffer(b"\x00\x7e", np.uint8)  # the scale, a NaN
    reader.data.flush()
    with Llama(str(path), n_ctx=256, draft="off") as llm:
        assert llm.generate(PROMPT, temperature=0, max_tokens=60) == expected
        whole = llm.generate(PROMPT, temperature=0, max_tokens=60, logprobs=0)
        assert whole == expected
