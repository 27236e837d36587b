"""Many answers at once: Llama.map and AsyncLlama on the bundled model."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from qwen35cpp import AsyncLlama, Cancelled, FileError, InvalidArgument, Llama

QUESTIONS = [f"Tell me about {animal}." for animal in ("cats", "dogs", "foxes", "owls", "mice")]
GREEDY = {"temperature": 0, "max_tokens": 10, "think": False}


@pytest.fixture(scope="module")
def tiny() -> Any:
    with Llama.tiny(n_ctx=1024, prefix_cache=False) as llm:
        yield llm


@pytest.fixture(scope="module")
def alone(tiny: Llama) -> list[str]:
    return [str(tiny.chat(question, **GREEDY)) for question in QUESTIONS]  # type: ignore[call-overload]


# ---- map ----------------------------------------------------------------------------------------


def test_map_gives_what_each_call_would_in_order(tiny: Llama, alone: list[str]) -> None:
    seen: list[tuple[int, int | None]] = []
    rows = [{"animal": q.split()[-1][:-1]} for q in QUESTIONS]
    done = list(
        tiny.map(rows, "Tell me about {animal}.", progress=lambda *at: seen.append(at), **GREEDY)
    )
    assert [item.text for item in done] == alone
    assert [item.row for item in done] == rows
    assert [item.answer.usage.completion_tokens for item in done if item.answer]
    assert seen == [(i, 5) for i in range(1, 6)]
    assert [item.text for item in tiny.map(QUESTIONS[:2], workers=1, **GREEDY)] == alone[:2]
    by_function = tiny.map([0, 1], lambda i: [{"role": "user", "content": QUESTIONS[i]}], **GREEDY)
    assert [item.text for item in by_function] == alone[:2]


def test_map_reads_rows_as_they_are_needed(tiny: Llama) -> None:
    taken = 0

    def rows() -> Any:
        nonlocal taken
        for i in itertools.count():
            taken = i + 1
            yield QUESTIONS[0]

    with_limit = tiny.map(rows(), workers=2, **GREEDY)
    assert next(with_limit).index == 0
    with_limit.close()  # type: ignore[attr-defined]
    assert taken <= 9
    assert tiny.chat(QUESTIONS[0], max_tokens=1)  # every slot is free again


def test_map_goes_on_where_it_was_broken_off(tiny: Llama, alone: list[str], tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    for done in tiny.map(QUESTIONS, resume=journal, **GREEDY):
        if done.index == 1:
            break
    lines = journal.read_text().splitlines()
    assert len(lines) == 2
    # Killed within a line, and rows moved since.
    journal.write_text(lines[0] + "\n" + lines[1][: len(lines[1]) // 2])
    moved = [*QUESTIONS[1:], QUESTIONS[0]]
    again = list(tiny.map(moved, resume=journal, **GREEDY))
    assert [item.text for item in again] == [*alone[1:], alone[0]]
    assert [item.resumed for item in again] == [False, False, False, False, True]
    third = list(tiny.map(QUESTIONS, resume=journal, **GREEDY))
    assert all(item.resumed for item in third)
    assert [item.text for item in third] == alone
    other = list(tiny.map(QUESTIONS[:1], resume=journal, **{**GREEDY, "max_tokens": 4}))
    assert not other[0].resumed  # other options are another question
    written = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(written) == 6


def test_map_says_which_row_is_wrong(tiny: Llama, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="row 1 has no field 'city'"):
        list(tiny.map([{"city": "Oslo"}, {"town": "Rome"}], "Weather in {city}?", **GREEDY))
    kept = list(tiny.map([QUESTIONS[0], "word " * 2000], on_error="keep", **GREEDY))
    assert kept[0].error is None
    assert kept[1].error is not None
    assert kept[1].error.startswith("ContextTooLong: ")
    other = tmp_path / "notes.txt"
    for notes in ("my notes\nmore\n", "my notes"):
        other.write_text(notes)
        with pytest.raises(FileError, match="line 1: not an answer"):
            list(tiny.map(QUESTIONS, resume=other, **GREEDY))
        assert other.read_text() == notes
    for wrong in ({"workers": 0}, {"on_error": "ignore"}, {"stream": True}):
        with pytest.raises(InvalidArgument):
            tiny.map(QUESTIONS, **wrong)  # type: ignore[arg-type]


# ---- asyncio ------------------------------------------------------------------------------------


def test_async_calls_run_together_and_give_the_same(tiny: Llama, alone: list[str]) -> None:
    async def main() -> list[str]:
        async with AsyncLlama(tiny) as llm:
            answers = await asyncio.gather(*(llm.chat(q, **GREEDY) for q in QUESTIONS))
            vectors = await llm.embed(QUESTIONS[:2])
            assert vectors.shape == (2, tiny.n_embd())
            assert await llm.run(lambda llama: llama.tokenize("cats")) == tiny.tokenize("cats")
            text = await llm.generate("Once there was a", max_tokens=3, temperature=0)
            assert len(text.tokens) == 3
        return [str(answer) for answer in answers]

    assert asyncio.run(main()) == alone
    assert tiny.tokenize("still open")


def test_async_streams(alone: list[str]) -> None:
    async def main() -> None:
        async with AsyncLlama.tiny(n_ctx=1024, prefix_cache=False) as llm:
            stream = llm.stream_chat(QUESTIONS[0], **GREEDY)
            pieces = [str(chunk) async for chunk in stream]
            assert "".join(pieces) == alone[0] == stream.result
            async with llm.stream_generate("a b c", ignore_eos=True, max_tokens=900) as endless:
                async for _chunk in endless:
                    break
            assert endless.result is None  # stopped
            with pytest.raises(InvalidArgument):
                await llm.chat(QUESTIONS[0], max_tokens=0)
            assert await llm.chat(QUESTIONS[1], **GREEDY) == alone[1]

    asyncio.run(main())


def test_cancelling_a_task_frees_its_slot(tiny: Llama) -> None:
    async def main() -> None:
        async with AsyncLlama(tiny) as llm:
            long = [
                asyncio.create_task(llm.generate("a b", ignore_eos=True, max_tokens=1000, seed=i))
                for i in range(8)  # half of them wait for a slot
            ]
            await asyncio.sleep(0.05)
            for task in long:
                task.cancel()
            ended = await asyncio.gather(*long, return_exceptions=True)
            assert all(isinstance(end, (asyncio.CancelledError, Cancelled)) for end in ended)
            assert (await llm.generate("a b", max_tokens=2, ignore_eos=True)).tokens

    asyncio.run(main())
