"""create_completion: the shapes of OpenAI's API and llama-cpp-python."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwen35cpp import InvalidArgument, Llama

PROMPT = "Hello world"
FORCED: dict[str, Any] = {"temperature": 0, "logit_bias": {"65": 1e4}}


def test_a_completion_reads_as_dictionary_and_attributes(llama: Llama) -> None:
    output = llama.create_completion(PROMPT, max_tokens=4, seed=1, stop=None)
    assert output["object"] == "text_completion"
    assert output["choices"][0]["text"] == output.choices[0].text
    assert output.id.startswith("cmpl-")
    assert isinstance(output.created, int)
    assert output.model.endswith(".gguf")
    assert output.usage.total_tokens == output.usage.prompt_tokens + output.usage.completion_tokens
    assert json.loads(json.dumps(output)) == output


def test_the_call_is_the_same(llama: Llama) -> None:
    one = llama(PROMPT, max_tokens=6, seed=2)
    two = llama.create_completion(PROMPT, max_tokens=6, seed=2)
    assert one.choices == two.choices


def test_sixteen_tokens_are_the_default_and_none_is_no_limit(tiny_path: str) -> None:
    with Llama(tiny_path, n_ctx=64) as llama:
        assert llama(PROMPT, **FORCED).usage.completion_tokens == 16
        room = 64 - len(llama.tokenize(PROMPT))
        for limit in (None, -1, 0):
            text = llama.create_completion(PROMPT, max_tokens=limit, **FORCED)
            assert text.usage.completion_tokens == room
            assert text.choices[0].finish_reason == "length"


def test_stop_and_echo(llama: Llama) -> None:
    output = llama(PROMPT, max_tokens=40, seed=3)
    whole = output.choices[0].text
    echoed = llama(PROMPT, max_tokens=40, seed=3, echo=True)
    assert echoed.choices[0].text == PROMPT + whole
    letter = next(c for c in whole if c.isascii() and c.isprintable())
    cut = llama(PROMPT, max_tokens=40, seed=3, stop=[letter])
    assert cut.choices[0].text == whole[: whole.index(letter)]
    assert cut.choices[0].finish_reason == "stop"


def test_stream_chunks_join_to_the_text(llama: Llama) -> None:
    whole = llama.create_completion(PROMPT, max_tokens=30, seed=4, echo=True)
    llama.reset()
    chunks = list(llama.create_completion(PROMPT, max_tokens=30, seed=4, echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    assert "usage" not in chunks[0]


def test_logprobs_have_the_old_shape(llama: Llama) -> None:
    output = llama(PROMPT, max_tokens=6, seed=5, logprobs=3, echo=True)
    logprobs = output.choices[0].logprobs
    assert logprobs is not None
    n = output.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == n
    assert all(len(top) <= 3 for top in logprobs.top_logprobs)
    assert logprobs.text_offset[0] == len(PROMPT)
    assert all(value <= 0 for value in logprobs.token_logprobs)


def test_arguments_that_would_change_the_answer_are_refused(llama: Llama) -> None:
    with pytest.raises(InvalidArgument, match="suffix is not supported"):
        llama.create_completion(PROMPT, suffix="after")
    with pytest.raises(InvalidArgument, match="grammar is not supported"):
        llama.create_completion(PROMPT, grammar="root ::= x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="max_token'"):
        llama.create_completion(PROMPT, max_token=3)  # type: ignore[call-overload]
    with pytest.warns(UserWarning, match="tfs_z has no effect"):
        llama.create_completion(PROMPT, max_tokens=1, tfs_z=1.0)
    assert llama.create_completion(PROMPT, max_tokens=1, suffix=None, user="me")
