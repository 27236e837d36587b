"""Embeddings: what must hold for any model."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import pytest

from qwen35cpp import ContextTooLong, InvalidArgument, Llama
from tiny import pictures

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
        with pytest.raises(ContextTooLong, match=r"prompt 1 has \d+ tokens.*holds 16"):
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


def scenes(seed: int, count: int) -> list[np.ndarray]:
    rng = random.Random(seed)
    return [pictures.scene(rng, False).image for _ in range(count)]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_images_have_vectors(pooling: Literal["mean", "last"]) -> None:
    first, second = scenes(1, 2)
    near = np.clip(first.astype(np.int16) + 2, 0, 255).astype(np.uint8)  # the same, a bit brighter
    with Llama.tiny(n_ctx=256) as llm:
        vectors = llm.embed(images=[first, near, second], pooling=pooling)
        assert vectors.shape == (3, llm.n_embd())
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
        assert np.array_equal(llm.embed(images=first, pooling=pooling), vectors[0])


def test_the_mean_covers_every_token_of_an_image() -> None:
    """Evaluated in batches of 8, token by token states add up to the same."""
    image = scenes(2, 1)[0]
    means = []
    for n_batch in (8, 512):
        with Llama.tiny(n_ctx=256, n_batch=n_batch) as llm:
            means.append(llm.embed(images=image, normalize=False))
    assert np.allclose(means[0], means[1], rtol=0.02, atol=0.02 * np.abs(means[0]).max())


def test_embedding_images_reports_and_stops() -> None:
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with Llama.tiny(n_ctx=256) as llm:
        with pytest.raises(KeyboardInterrupt):
            llm.embed(images=scenes(3, 2), progress=stop)
        assert calls == [(0, 2)] * 3  # while the tower worked
        assert llm.embed(images=scenes(3, 1)).shape == (1, llm.n_embd())
        with pytest.raises(InvalidArgument, match="either texts or images"):
            llm.embed()
