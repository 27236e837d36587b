"""Embeddings: what must hold for any model."""

from __future__ import annotations

import numpy as np
import pytest

from qwen35cpp import ContextTooLong, InvalidArgument, Llama

TEXTS = ["Hello world", "a much longer text " * 20, "x", "naïve 日本"]


def test_embed_gives_unit_vectors_of_float32(llama: Llama) -> None:
    vectors = llama.embed(TEXTS)
    assert vectors.shape == (4, llama.n_embd())
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert llama.embed("x").shape == (llama.n_embd(),)
    assert llama.embed([]).shape == (0, llama.n_embd())


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_depends_on_its_text_alone(llama: Llama, pooling: str) -> None:
    together = llama.embed(TEXTS, pooling=pooling)  # type: ignore[arg-type]
    reverse = llama.embed(TEXTS[::-1], pooling=pooling)[::-1]  # type: ignore[arg-type]
    llama.generate("something else", max_tokens=3)
    alone = np.stack([llama.embed(text, pooling=pooling) for text in TEXTS])  # type: ignore[arg-type]
    assert np.array_equal(together, reverse)
    assert np.array_equal(together, alone)
    assert len({vector.tobytes() for vector in together}) == len(TEXTS)


def test_mean_is_the_mean_of_the_states(llama: Llama) -> None:
    tokens = llama.tokenize("Hello world, a few tokens")
    last = np.stack([
        llama.embed([tokens[: n + 1]], pooling="last", normalize=False)[0]
        for n in range(len(tokens))
    ])  # fmt: skip
    mean = llama.embed([tokens], pooling="mean", normalize=False)[0]
    assert mean == pytest.approx(last.mean(axis=0), abs=1e-3 * float(np.abs(last).max()))


def test_a_text_longer_than_a_batch_is_embedded_whole(tiny_path: str) -> None:
    text = "word " * 300
    with Llama(tiny_path, n_batch=64) as small, Llama(tiny_path, n_batch=2048) as large:
        for pooling in ("mean", "last"):
            one = small.embed(text, pooling=pooling)
            two = large.embed(text, pooling=pooling)
            assert float((one * two).sum()) == pytest.approx(1, abs=1e-4)


def test_an_empty_text_is_the_end_of_text_token(llama: Llama) -> None:
    end = llama.tokenize("<|endoftext|>", special=True)
    assert np.array_equal(llama.embed(""), llama.embed([end])[0])


def test_a_text_beyond_the_context_is_named(tiny_path: str) -> None:
    with Llama(tiny_path, n_ctx=16) as llama:
        with pytest.raises(ContextTooLong, match=r"text 1 has \d+ tokens.*holds 16"):
            llama.embed(["short", "a long text that has more tokens than that"])
        assert llama.embed([[65] * 16]).shape == (1, llama.n_embd())
        cut = llama.embed([[65] * 20], truncate=True)
        assert np.array_equal(cut, llama.embed([[65] * 16]))


def test_an_unknown_pooling_is_refused(llama: Llama) -> None:
    with pytest.raises(InvalidArgument, match="pooling"):
        llama.embed("x", pooling="max")  # type: ignore[arg-type]


def test_generation_after_embedding_starts_anew(llama: Llama) -> None:
    before = llama.generate("Hello", max_tokens=6, temperature=0, ignore_eos=True)
    llama.embed(TEXTS)
    after = llama.generate("Hello", max_tokens=6, temperature=0, ignore_eos=True)
    assert after.usage.cached_tokens == 0
    assert before.tokens == after.tokens


def test_create_embedding_has_the_shape_of_the_api(llama: Llama) -> None:
    response = llama.create_embedding(input=["Hello", "world"])
    assert response["object"] == "list"
    assert [item.index for item in response.data] == [0, 1]
    assert response.data[1].embedding == pytest.approx(llama.embed("world").tolist())
    assert response.usage.prompt_tokens == len(llama.tokenize("Hello") + llama.tokenize("world"))
