"""Threads, interrupts, forks and process ends: the ways in which calls meet each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import tiny_gguf
from qwen35cpp import Cancelled, Llama, SessionBusy, SessionClosed
from qwen35cpp._turn import Turn

PROMPTS = [f"Prompt number {i}: tell me more." for i in range(16)]


def answer(llama: Llama, prompt: str) -> list[int]:
    text = llama.generate(prompt, max_tokens=12, seed=7, ignore_eos=True)
    return text.tokens


@pytest.fixture(scope="module")
def long_path(tiny_model: Callable[..., tiny_gguf.TinyModel]) -> str:
    """A model whose context takes minutes to fill."""
    return str(tiny_model(n_ctx=200_000).path)


def run_python(
    code: str, *arguments: str, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *arguments],
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


# ---- threads ------------------------------------------------------------------------------------


def test_threads_that_share_one_llama_get_the_serial_results(tiny_path: str) -> None:
    with Llama(tiny_path, prefix_cache=False) as llama:
        serial = [answer(llama, prompt) for prompt in PROMPTS]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda prompt: answer(llama, prompt), PROMPTS * 3))
    assert parallel == serial * 3


def test_threads_may_mix_calls_of_every_kind(tiny_path: str) -> None:
    with Llama(tiny_path, prefix_cache=False) as llama:
        expected_text = answer(llama, PROMPTS[0])
        expected_vector = llama.embed(PROMPTS[1]).tolist()
        expected_tokens = llama.tokenize(PROMPTS[2] * 50)

        def work(i: int) -> bool:
            if i % 4 == 0:
                return answer(llama, PROMPTS[0]) == expected_text
            if i % 4 == 1:
                return bool(llama.embed(PROMPTS[1]).tolist() == expected_vector)
            if i % 4 == 2:
                return llama.tokenize(PROMPTS[2] * 50) == expected_tokens
            pieces = llama.generate(PROMPTS[0], max_tokens=12, seed=7, ignore_eos=True, stream=True)
            return [t for piece in pieces for t in piece.tokens] == expected_text

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(work, range(48)))


def test_streams_of_one_thread_may_overlap(tiny_path: str) -> None:
    with Llama(tiny_path, prefix_cache=False, n_parallel=4) as llama:
        serial = [answer(llama, prompt) for prompt in PROMPTS[:4]]
        streams = [
            llama.generate(prompt, max_tokens=12, seed=7, ignore_eos=True, stream=True)
            for prompt in PROMPTS[:4]
        ]
        mixed: list[list[int]] = [[] for _ in streams]
        for _ in range(200):
            for stream, tokens in zip(streams, mixed, strict=True):
                chunk = next(stream, None)
                tokens += chunk.tokens if chunk else []
        assert mixed == serial


def test_overlapping_conversations_keep_their_slots(tiny_path: str) -> None:
    with Llama(tiny_path, n_parallel=2) as llama:
        first = llama.generate(PROMPTS[0], max_tokens=8, stream=True, ignore_eos=True)
        next(first)
        second = llama.generate("Another " + PROMPTS[1], max_tokens=8, ignore_eos=True)
        started = llama.tokenize(PROMPTS[0]) + first.drain().tokens
        # The last token drawn was not evaluated.
        again = llama.generate([*started, 5], max_tokens=1, ignore_eos=True)
        assert again.usage.cached_tokens == len(started) - 1
        started = llama.tokenize("Another " + PROMPTS[1]) + second.tokens
        again = llama.generate([*started, 5], max_tokens=1, ignore_eos=True)
        assert again.usage.cached_tokens == len(started) - 1


def test_a_stream_makes_others_wait_in_the_order_of_their_arrival(tiny_path: str) -> None:
    order: list[int] = []
    with Llama(tiny_path, n_parallel=1) as llama:
        stream = llama.generate(PROMPTS[0], stream=True, max_tokens=4, ignore_eos=True)
        first = next(stream)
        turn = llama._engine.turn
        threads = []
        for i in range(4):

            def call(i: int = i) -> None:
                llama.generate(PROMPTS[i], max_tokens=2, ignore_eos=True)
                order.append(i)

            threads.append(threading.Thread(target=call))
            threads[-1].start()
            while len(turn._waiting) < i + 1:
                threading.Event().wait(0.001)
        assert order == []
        assert sum(len(chunk.tokens) for chunk in [first, *stream]) == 4
        for thread in threads:
            thread.join()
    assert order == [0, 1, 2, 3]


def test_a_stream_may_move_from_thread_to_thread(tiny_path: str) -> None:
    with Llama(tiny_path, n_parallel=1) as llama, ThreadPoolExecutor(1) as pool:
        stream = llama.generate(PROMPTS[0], stream=True, max_tokens=6, ignore_eos=True)
        next(stream)
        pool.submit(next, stream).result()
        with pytest.raises(SessionBusy):  # the reader is the other thread now
            pool.submit(llama.reset).result()
        rest = pool.submit(list, stream).result()
        assert rest[-1].finish_reason == "length"
        llama.reset()


def test_a_waiter_that_gives_up_leaves_the_queue() -> None:
    turn = Turn(lambda: None, ["slot"])
    served: list[str] = []

    class Impatient:
        """A gate whose wait is interrupted, as by Ctrl-C."""

        def acquire(self, **_options: float) -> bool:
            raise KeyboardInterrupt

    def impatient() -> None:
        hold = turn.hold()
        hold.gate = Impatient()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt), hold:
            served.append("impatient")

    def patient() -> None:
        with turn.hold():
            served.append("patient")

    first = turn.hold()
    with first:
        threads = [threading.Thread(target=work) for work in (impatient, patient)]
        for thread in threads:
            thread.start()
        threads[0].join()
        assert served == []
    threads[1].join()
    assert served == ["patient"]


def test_a_turn_comes_back_when_its_holder_vanishes() -> None:
    turn = Turn(lambda: None, ["slot"])
    lost = turn.hold()
    lost.__enter__()
    with pytest.raises(SessionBusy):
        turn.hold().__enter__()
    del lost  # as when Ctrl-C hits __exit__
    with turn.hold():
        pass


# ---- cancelling ---------------------------------------------------------------------------------


def test_cancel_stops_a_long_prompt_and_the_next_call_works(long_path: str) -> None:
    with Llama(long_path, n_batch=64) as llama:
        expected = answer(llama, PROMPTS[0])
        started = threading.Event()
        outcome: list[BaseException] = []

        def long_call() -> None:
            try:
                llama.generate([70] * 150_000, max_tokens=1, progress=lambda *_: started.set())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=long_call)
        thread.start()
        started.wait()
        llama.cancel()
        thread.join()
        assert [type(error) for error in outcome] == [Cancelled]
        assert 0 < llama.n_tokens < 150_000
        assert answer(llama, PROMPTS[0]) == expected


def test_closing_ends_the_calls_of_other_threads(long_path: str) -> None:
    llama = Llama(long_path, n_batch=64)
    started = threading.Event()

    def long_call() -> None:
        llama.generate([70] * 150_000, max_tokens=1, progress=lambda *_: started.set())

    def waiting_call() -> None:
        llama.generate(PROMPTS[0])

    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(long_call)
        started.wait()
        waiting = [pool.submit(waiting_call) for _ in range(2)]
        llama.close()
        for future in (running, *waiting):
            with pytest.raises(SessionClosed):
                future.result()


def test_closing_frees_those_who_wait_for_an_idle_stream(tiny_path: str) -> None:
    llama = Llama(tiny_path, n_parallel=1)
    stream = llama.generate(PROMPTS[0], stream=True, ignore_eos=True)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(llama.generate, PROMPTS[1])
        while not llama._engine.turn._waiting:
            threading.Event().wait(0.001)
        llama.close()
        with pytest.raises(SessionClosed):
            waiting.result()


INTERRUPTED = """
import os, signal, sys, threading
from qwen35cpp import Llama
llama = Llama(sys.argv[1], n_batch=64)
expected = llama.generate("Hello world", max_tokens=8, seed=1, ignore_eos=True).tokens
started = threading.Event()

def interrupt():
    started.wait()
    os.kill(os.getpid(), signal.SIGINT)

for _ in range(3):
    started.clear()
    threading.Thread(target=interrupt).start()
    try:
        llama.generate([70] * 150_000, max_tokens=1, progress=lambda *_: started.set())
        print("not interrupted")
    except KeyboardInterrupt:
        print("interrupted", 0 < llama.n_tokens < 150_000)
    llama.reset()
    print(llama.generate("Hello world", max_tokens=8, seed=1, ignore_eos=True).tokens == expected)
"""


def test_ctrl_c_stops_a_long_prompt_and_the_next_call_works(long_path: str) -> None:
    done = run_python(INTERRUPTED, long_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["interrupted True", "True"] * 3


DECODING = """
import os, signal, sys, threading
from qwen35cpp import Llama
llama = Llama(sys.argv[1])
pieces = 0
def interrupt():
    while pieces < 5:
        threading.Event().wait(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    for piece in llama.generate("Hello world", stream=True, ignore_eos=True):
        pieces += 1
except KeyboardInterrupt:
    print("interrupted")
del piece
print(len(llama.generate("Hello world", max_tokens=8, ignore_eos=True).tokens))
"""


def test_ctrl_c_stops_decoding_and_the_next_call_works(long_path: str) -> None:
    done = run_python(DECODING, long_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["interrupted", "8"]


INTERRUPTIBLE = """
import faulthandler, random, signal, sys
import numpy  # an import that is interrupted fails for reasons of its own
from qwen35cpp import Llama, SessionBusy
faulthandler.dump_traceback_later(110, exit=True)
llama = Llama(sys.argv[1], n_batch=64, n_parallel=int(sys.argv[2]))

def answer(n=8):
    return llama.generate("Hello world", max_tokens=n, temperature=0, ignore_eos=True).tokens

expected = answer()
"""

STORM = """
def interrupt(*_):
    raise KeyboardInterrupt

def call(kind):
    if kind == 0:
        llama.generate([70] * 300, max_tokens=10, ignore_eos=True)
    elif kind == 1:
        for _ in llama.generate("abc" * 20, stream=True, max_tokens=20, ignore_eos=True):
            pass
    else:
        llama.embed(["a b c" * 30, "d"])

signal.signal(signal.SIGALRM, interrupt)
rng, hits = random.Random(0), 0
while hits < 150:
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.02))
        call(rng.randrange(3))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hits += 1
        if hits % 10 == 0:
            assert answer() == expected
print("ok")
"""


def test_interrupts_at_random_moments_leave_the_llama_usable(tiny_path: str) -> None:
    done = run_python(INTERRUPTIBLE + STORM, tiny_path, "4")
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


# Python looks for signals when it enters a function of its own and when one written in C returned.
EVERY_MOMENT = """
calls = [
    lambda: llama.generate([70] * 70, max_tokens=2, ignore_eos=True),
    lambda: list(llama.generate("abc", stream=True, max_tokens=2, ignore_eos=True)),
    lambda: llama.embed(["a b", "d"]),
]

def interrupt(call, moment):
    passed = 0

    def step(frame, event, _):
        nonlocal passed
        passed += event in ("call", "c_return")
        if passed == moment:
            raise KeyboardInterrupt

    sys.setprofile(step)
    try:
        call()
    finally:
        sys.setprofile(None)

for call in calls:
    busy, moment, ended = 0, 1, False
    while not ended:
        try:
            interrupt(call, moment)
            ended = True
        except KeyboardInterrupt:
            try:  # while the exception and so the frames that it went through are alive
                assert answer(1) == expected[:1]
            except SessionBusy:
                busy += 1
        if moment % 16 == 0 or ended:
            assert answer() == expected
        moment += 1
    print(moment > 300, busy < 4)
"""


def test_an_interrupt_at_any_moment_leaves_the_llama_usable(tiny_path: str) -> None:
    done = run_python(INTERRUPTIBLE + EVERY_MOMENT, tiny_path, "1")
    assert (done.returncode, done.stdout) == (0, "True True\n" * 3), done.stderr


# ---- processes ----------------------------------------------------------------------------------

FORKED = """
import os, sys, gc
from qwen35cpp import ForkedProcess, Llama
llama = Llama(sys.argv[1], n_threads=2)
expected = llama.generate("Hello world", max_tokens=8, seed=1, ignore_eos=True).tokens
stream = llama.generate("Hello world", stream=True, ignore_eos=True)
next(stream)
pid = os.fork()
if pid == 0:
    code = 10
    calls = [lambda: llama.generate([1, 2]), lambda: llama.tokenize("x"), llama.reset,
             lambda: llama.embed("x"), lambda: next(stream)]
    for call in calls:
        try:
            call()
        except ForkedProcess:
            code += 1
    llama.close()
    del llama, calls, stream
    gc.collect()
    with Llama(sys.argv[1], n_threads=2) as own:
        again = own.generate("Hello world", max_tokens=8, seed=1, ignore_eos=True).tokens
        code += again == expected
    os._exit(code)
_, status = os.waitpid(pid, 0)
print(os.WEXITSTATUS(status))
stream.close()
print(llama.generate("Hello world", max_tokens=8, seed=1, ignore_eos=True).tokens == expected)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_gets_a_clear_error_and_can_open_its_own(tiny_path: str) -> None:
    done = run_python(FORKED, tiny_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["16", "True"]


EXITING = """
import sys, threading
from qwen35cpp import Llama
llama = Llama(sys.argv[1], n_threads=2)
def work():
    for _ in range(1000):
        llama.generate("Hello world", max_tokens=50, ignore_eos=True)
if "thread" in sys.argv[2]:
    threading.Thread(target=work, daemon=True).start()
stream = llama.generate("Hello", stream=True, ignore_eos=True)
if "stream" in sys.argv[2]:
    next(stream)
if "error" in sys.argv[2]:
    raise SystemExit(3)
"""


@pytest.mark.parametrize("what", ["nothing", "stream", "thread", "thread stream", "stream error"])
def test_the_interpreter_may_end_at_any_point(tiny_path: str, what: str) -> None:
    for _ in range(5):
        done = run_python(EXITING, tiny_path, what)
        assert done.returncode == (3 if "error" in what else 0), done.stderr
        assert done.stderr == ""


def test_the_command_ends_with_130_when_interrupted(long_path: str) -> None:
    command = [sys.executable, "-m", "qwen35cpp", "run", long_path, "Hello world", "--temp", "0"]
    with subprocess.Popen(
        [*command, "--max-tokens", "190000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b""
