"""Requests with the same beginning at the same time: read once, whatever happens to the reader."""

from __future__ import annotations

import asyncio
import functools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tiny_gguf
from qwen35cpp import AsyncLlama, Cancelled, Llama, SessionClosed, Text
from qwen35cpp._prefix import Plan, Reading, Readings
from qwen35cpp._prefix.boundaries import GRID
from qwen35cpp._prefix.reading import WORTH

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logprobs": 0, "ignore_eos": True}
SHARED, TAIL = 2000, 24


def prompts(n: int) -> list[list[int]]:
    """Token ids of prompts that part behind SHARED tokens, the same ones every time."""
    rng = random.Random(1)
    prefix = rng.choices(range(100, 900), k=SHARED)
    return [[*prefix, 1000 + i, *rng.choices(range(100, 900), k=TAIL - 1)] for i in range(n)]


def figures(text: Text) -> tuple[str, list[float]]:
    return str(text), [each.logprob for each in text.logprobs or ()]


def read(texts: Sequence[Text]) -> int:
    """Tokens of prompts that were evaluated."""
    return sum(text.usage.prompt_tokens - text.usage.cached_tokens for text in texts)


def waiting(llm: Llama) -> int:
    """How many requests wait for a prompt that is being read."""
    with llm._engine.cache.tree.lock:
        return sum(len(reading._gates) for reading in llm._engine.cache.readings)


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.fixture(scope="module")
def cold() -> Iterator[Callable[[Sequence[int]], tuple[str, list[float]]]]:
    """What a prompt gives alone."""
    with Llama.tiny(n_ctx=4096, prefix_cache=False) as llm:

        @functools.cache
        def alone(prompt: tuple[int, ...]) -> tuple[str, list[float]]:
            return figures(llm.generate(list(prompt), **GREEDY))

        yield lambda prompt: alone(tuple(prompt))


def together(llm: Llama, asked: Sequence[Sequence[int]]) -> list[Text]:
    """The answers to prompts that come at the same time."""
    start = threading.Barrier(len(asked))

    def ask(prompt: Sequence[int]) -> Text:
        start.wait()
        return llm.generate(list(prompt), **GREEDY)

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(ask, asked))


# ---- read once -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "slots"), [(4, 4), (16, 4), (16, 16)])
def test_what_prompts_have_in_common_is_read_once(n: int, slots: int, cold: Any) -> None:
    asked = prompts(n)
    with Llama.tiny(n_ctx=4096, n_parallel=slots) as llm:
        texts = together(llm, asked)
        assert waiting(llm) == 0
    assert read(texts) <= SHARED + n * (TAIL + GRID)
    some = slice(None, None, n // 4)
    assert [figures(text) for text in texts[some]] == [cold(prompt) for prompt in asked[some]]


def test_a_system_prompt_is_read_once() -> None:
    system = " ".join(random.Random(1).choices(["the cat", "a red lamp", "Oslo"], k=800))
    questions = [f"{i}. What is {i} plus {i}?" for i in range(4)]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "think": False, "logprobs": 0}
    with Llama.tiny(n_ctx=4096, prefix_cache=False) as llm:
        expected = [figures(llm.chat(q, system=system, **options)) for q in questions]
    with Llama.tiny(n_ctx=4096) as llm, ThreadPoolExecutor(4) as pool:
        n_system = len(llm.tokenize(system))
        assert n_system > 2 * WORTH
        texts = list(pool.map(lambda q: llm.chat(q, system=system, **options), questions))
    assert [figures(text) for text in texts] == expected
    tails = sum(text.usage.prompt_tokens - n_system for text in texts)
    assert read(texts) <= n_system + tails + 4 * GRID


def test_equal_prompts_are_read_once(cold: Any) -> None:
    prompt = prompts(1)[0]
    with Llama.tiny(n_ctx=4096) as llm:
        texts = together(llm, [prompt] * 4)
    assert read(texts) <= len(prompt) + 3 * 2 * GRID
    assert {str(text) for text in texts} == {cold(prompt)[0]}


def test_a_picture_is_read_once() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (640, 640, 3), np.uint8)
    options: dict[str, Any] = {"images": picture, "temperature": 0, "max_tokens": 3, "logprobs": 0}
    questions = [f"{i}. What is it?" for i in range(3)]
    with Llama.tiny(n_ctx=4096, prefix_cache=False) as llm:
        expected = [figures(llm.chat(q, think=False, **options)) for q in questions]
    with Llama.tiny(n_ctx=4096) as llm, ThreadPoolExecutor(3) as pool:
        texts = list(pool.map(lambda q: llm.chat(q, think=False, **options), questions))
    assert [figures(text) for text in texts] == expected
    assert texts[0].usage.prompt_tokens > 400
    assert read(texts) <= 400 + 3 * 2 * GRID


def test_a_reader_far_behind_is_not_waited_for() -> None:
    tokens, plan = list(range(1, 2001)), Plan(2000, (), 512)
    readings = Readings(threading.RLock())
    reading = readings.start(tokens, plan, 0, {1984})
    reading._thread += 1  # another one's
    assert readings.find(tokens, plan, 0) is not None
    assert readings.find(tokens, plan, 1024) is None
    assert readings.find(tokens, plan, 1984 - WORTH + 1) is None


def test_the_offers_of_a_reader() -> None:
    tokens = list(range(1, 2001))
    plan = Plan(2000, (), 512)
    reading = Reading(threading.RLock(), tokens, plan, 0, {256, 1984})
    reading.begin_part(512)
    other = [*tokens[:1500], 0, *range(500)]
    fits = Plan(len(other), (), 512)
    assert reading.offer(other, fits) == 1472  # where they part, on the grid
    assert reading.offer(tokens[:300] + [0] * 99, Plan(399, (), 512)) == 256  # too late for 288
    assert reading.offer(tokens[:520] + [0] * 99, Plan(619, (), 512)) == 512  # just in time
    assert reading.offer(tokens, plan) == 1984
    assert reading.offer([0, *tokens], Plan(2001, (), 512)) == 0
    reading.end_part()
    assert reading.offer(tokens[:300] + [0] * 99, Plan(399, (), 512)) == 0


# ---- nothing waits in vain -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_path(tiny_model: Callable[..., tiny_gguf.TinyModel]) -> str:
    """A model whose context takes minutes to fill."""
    return str(tiny_model(n_ctx=200_000).path)


class Endless:
    """A prompt that is read in a thread until it is told to end."""

    def __init__(self, llm: Llama, pool: ThreadPoolExecutor) -> None:
        self.prompt = [70] * 150_000
        self._end: BaseException | None = None
        started = threading.Event()

        def progress(_done: int, _total: int) -> None:
            started.set()
            if self._end is not None:
                raise self._end

        self.call: Future[Text] = pool.submit(
            llm.generate, self.prompt, max_tokens=1, progress=progress
        )
        started.wait()

    def end(self, error: BaseException) -> None:
        self._end = error
        with pytest.raises(type(error)):
            self.call.result()


def test_prompts_that_differ_do_not_wait(long_path: str) -> None:
    with ThreadPoolExecutor(2) as pool, Llama(long_path, n_batch=64) as llm:
        reader = Endless(llm, pool)
        alone = [*reader.prompt[: WORTH - 1], *range(80, 200)]  # in common, but little
        llm.generate(alone, max_tokens=2)
        assert all(slot.waited == 0 for slot in llm._engine.slots)
        assert not reader.call.done()
        reader.end(Cancelled("enough"))


def test_a_waiting_request_can_be_cancelled(long_path: str) -> None:
    async def main(llm: Llama, prompt: list[int]) -> None:
        async with AsyncLlama(llm) as many:
            task = asyncio.create_task(many.generate(prompt, max_tokens=1))
            while not waiting(llm):
                await asyncio.sleep(0.001)
            since = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert time.monotonic() - since < 5

    with ThreadPoolExecutor(2) as pool, Llama(long_path, n_batch=64) as llm:
        reader = Endless(llm, pool)
        asyncio.run(main(llm, reader.prompt))
        assert not reader.call.done()
        waiter = pool.submit(llm.generate, reader.prompt, max_tokens=1)
        until(lambda: waiting(llm) > 0)
        llm.cancel()
        for call in (reader.call, waiter):
            with pytest.raises(Cancelled):
                call.result()
        assert llm.generate([70, 71], max_tokens=2, ignore_eos=True).tokens


INTERRUPTED = """
import os, signal, sys, threading
from qwen35cpp import Cancelled, Llama
llama = Llama(sys.argv[1], n_batch=64)
prompt, started = [70] * 150_000, threading.Event()

def read():
    try:
        llama.generate(prompt, max_tokens=1, progress=lambda *_: started.set())
    except Cancelled:
        print("cancelled")

def interrupt():
    while not any(each._gates for each in llama._engine.cache.readings):
        threading.Event().wait(0.001)
    os.kill(os.getpid(), signal.SIGINT)

reader = threading.Thread(target=read)
reader.start()
started.wait()
threading.Thread(target=interrupt).start()
try:
    llama.generate(prompt, max_tokens=1)
except KeyboardInterrupt:
    print("interrupted", reader.is_alive())
print(len(llama.generate("Hello world", max_tokens=8, ignore_eos=True).tokens))
llama.cancel()
reader.join()
"""

# Requests of two threads with the same beginning, one of which is interrupted all the time.
STORM = """
import random, signal, sys, threading, time
import numpy  # an import that is interrupted fails for reasons of its own
from qwen35cpp import Llama
llama = Llama(sys.argv[1], n_batch=64)
rounds, others, done = 0, 0, False

def call(end):
    prompt = random.Random(rounds).choices(range(100, 200), k=700)
    llama.generate([*prompt, end], max_tokens=2, ignore_eos=True)

def other():
    global others
    while not done:
        others = rounds
        call(1)

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
thread = threading.Thread(target=other)
thread.start()
rng, hits = random.Random(0), 0
while hits < 40:
    rounds += 1
    while rounds % 2 and others != rounds:  # let the other one be the reader
        time.sleep(0.0005)
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.06))
        call(2)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hits += 1
done = True
thread.join()
print("ok")
"""


def run_python(code: str, path: str) -> str:
    command = [sys.executable, "-X", "faulthandler", "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctrl_c_ends_a_wait_and_nothing_else(long_path: str) -> None:
    assert run_python(INTERRUPTED, long_path).split() == ["interrupted", "True", "8", "cancelled"]


def test_interrupts_at_random_moments_leave_nobody_waiting(tiny_path: str) -> None:
    assert run_python(STORM, tiny_path) == "ok\n"


def test_closing_ends_a_wait(long_path: str) -> None:
    llm = Llama(long_path, n_batch=64)
    with ThreadPoolExecutor(2) as pool:
        reader = Endless(llm, pool)
        waiter = pool.submit(llm.generate, reader.prompt, max_tokens=1)
        until(lambda: waiting(llm) > 0)
        llm.close()
        for call in (reader.call, waiter):
            with pytest.raises(SessionClosed):
                call.result()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), Cancelled("left")])
def test_a_waiter_goes_on_when_the_reader_ends(error: BaseException, cold: Any) -> None:
    asked = prompts(4)
    with ThreadPoolExecutor(4) as pool, Llama.tiny(n_ctx=4096, n_batch=64) as llm:

        def progress(done: int, _total: int) -> None:
            if done == 1024:
                until(lambda: waiting(llm) == 3)
                raise error

        reader = pool.submit(llm.generate, asked[0], progress=progress, **GREEDY)
        until(lambda: any(each.passed for each in llm._engine.cache.readings))
        calls = [pool.submit(llm.generate, prompt, **GREEDY) for prompt in asked[1:]]
        with pytest.raises(type(error)):
            reader.result()
        texts = [call.result() for call in calls]
    assert read(texts) <= SHARED + 3 * (TAIL + GRID)
    assert [figures(text) for text in texts] == [cold(prompt) for prompt in asked[1:]]


def test_a_progress_function_may_wait_for_other_requests(cold: Any) -> None:
    asked = prompts(3)
    inside: list[Text] = []
    with ThreadPoolExecutor(1) as pool, Llama.tiny(n_ctx=4096) as llm:

        def progress(_done: int, _total: int) -> None:
            if not inside:
                inside.append(llm.generate(asked[1], **GREEDY))
                inside.append(pool.submit(llm.generate, asked[2], **GREEDY).result())

        texts = [llm.generate(asked[0], progress=progress, **GREEDY), *inside]
    assert [figures(text) for text in texts] == [cold(prompt) for prompt in asked]


def test_states_that_find_no_room_are_not_waited_for_twice(cold: Any) -> None:
    asked = prompts(4)
    with Llama.tiny(n_ctx=4096, prefix_cache_bytes=0) as llm:
        texts = together(llm, asked)
    assert [figures(text) for text in texts] == [cold(prompt) for prompt in asked]
