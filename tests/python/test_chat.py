"""Llama.chat on the bundled model: mechanics, not wisdom. It is a toy whose answers may change."""

from __future__ import annotations

import functools
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from qwen35cpp import (
    ChatChunk,
    ChatText,
    ContextTooLong,
    FileError,
    InvalidArgument,
    Llama,
    Sampling,
    SessionBusy,
    ToolCall,
    recommended,
)
from qwen35cpp.chat.loops import LoopDetector
from qwen35cpp.chat.model import conversation
from qwen35cpp.chat.reader import AnswerReader
from qwen35cpp.chat.run_tools import run_tools
from qwen35cpp.chat.thought import budget_within, thinking_asked
from qwen35cpp.chat.vocabulary import Vocabulary

QUESTION = "What is 3 + 4?"


@pytest.fixture(scope="module")
def opened() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=2048, n_threads=1) as llama:
        yield llama


@pytest.fixture
def tiny(opened: Llama) -> Llama:
    opened.reset()
    return opened


def special(llama: Llama, name: str) -> int:
    (token,) = llama.tokenize(name, special=True)
    return token


def never(llama: Llama, *names: str) -> dict[int, float]:
    """A bias without which the model does not say these tokens."""
    return {special(llama, name): float("-inf") for name in names}


ENDS = ("<|im_end|>", "<|endoftext|>")


def thoughtful(llama: Llama) -> dict[str, Any]:
    """Options for a thought of ten tokens and some thirty of text, whatever the model knows."""
    bias = never(llama, *ENDS, "<think>", "</think>", "<tool_call>", "<|im_start|>")
    return {"thinking_budget": 10, "logit_bias": bias, "max_tokens": 44, "seed": 3}


# ---- answers ------------------------------------------------------------------------------------


def test_an_answer_is_text_with_its_figures(tiny: Llama) -> None:
    answer = tiny.chat(QUESTION, seed=1, max_tokens=40)
    assert isinstance(answer, ChatText)
    assert answer
    assert "<|im_end|>" not in answer
    assert answer.finish_reason == "stop"
    assert answer.stop_reason == special(tiny, "<|im_end|>")
    assert answer.reasoning == ""
    assert answer.reasoning_tokens == 0
    assert answer.tool_calls == ()
    rendered = tiny.render_chat([{"role": "user", "content": QUESTION}])
    assert answer.usage.prompt_tokens == len(rendered.ids)
    assert answer.usage.completion_tokens == len(answer.tokens)
    assert answer.timings.decode_per_second > 0
    assert answer.message == {"role": "assistant", "content": str(answer)}
    assert answer.messages == [{"role": "user", "content": QUESTION}, answer.message]


def test_the_conversation_goes_on_from_the_answer(tiny: Llama) -> None:
    first = tiny.chat(QUESTION, system="Be brief.", seed=1, max_tokens=20)
    assert [message["role"] for message in first.messages] == ["system", "user", "assistant"]
    more = {"role": "user", "content": "And 4 + 5?"}
    second = tiny.chat([*first.messages, more], seed=1, max_tokens=20)
    assert len(second.messages) == 5
    expected = tiny.render_chat([*first.messages, more]).ids
    assert second.usage.prompt_tokens == len(expected)
    # The empty thought before the first answer is gone, so that everything is read again.
    assert second.usage.cached_tokens == 0


def test_a_stream_prints_the_answer_and_no_thought(tiny: Llama) -> None:
    options = thoughtful(tiny)
    whole = tiny.chat(QUESTION, **options)
    tiny.reset()
    stream = tiny.chat(QUESTION, stream=True, **options)
    chunks = list(stream)
    assert all(isinstance(chunk, ChatChunk) for chunk in chunks)
    assert "".join(chunks) == whole == stream.result
    assert "".join(chunk.reasoning for chunk in chunks) == whole.reasoning
    kinds = [chunk.kind for chunk in chunks]
    assert kinds == sorted(kinds)  # the thought, then the text
    assert set(kinds) == {"reasoning", "text"}
    assert all(not chunk for chunk in chunks if chunk.kind == "reasoning")
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason == "length"


def test_a_stream_holds_a_slot_until_closed() -> None:
    with Llama.tiny(n_parallel=1) as llama:
        with llama.chat(QUESTION, stream=True, seed=1) as stream:
            next(stream)
            with pytest.raises(SessionBusy):
                llama.chat(QUESTION)
        assert llama.chat(QUESTION, seed=1, max_tokens=4)


def test_threads_share_one_llama(tiny: Llama) -> None:
    expected = tiny.chat(QUESTION, temperature=0, max_tokens=12)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(tiny.chat(QUESTION, temperature=0, max_tokens=12))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_stop_strings_end_the_text_but_not_the_thought(tiny: Llama) -> None:
    whole = tiny.chat(QUESTION, **thoughtful(tiny))
    stop = next(char for char in whole[1:] if char not in whole.reasoning or char.isalpha())
    tiny.reset()
    cut = tiny.chat(QUESTION, stop=[stop], **thoughtful(tiny))
    assert cut.reasoning == whole.reasoning
    assert cut == whole[: whole.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)


def test_sampling_starts_from_the_card_of_the_mode(tiny: Llama) -> None:
    def sampling(think: bool, **options: Any) -> Sampling:
        messages = [{"role": "user", "content": QUESTION}]
        return tiny._chat().request(messages, options, seed=1, think=think).request.sampling

    assert sampling(True) == recommended(tiny.info, thinking=True)
    assert sampling(False) == recommended(tiny.info)
    assert sampling(True, top_k=5) == replace(recommended(tiny.info, thinking=True), top_k=5)
    assert sampling(True, temperature=0) == Sampling(temperature=0)


def test_logprobs_are_those_of_the_text(tiny: Llama) -> None:
    answer = tiny.chat(QUESTION, logprobs=2, **thoughtful(tiny))
    assert answer.logprobs
    text = b"".join(entry.piece for entry in answer.logprobs).decode("utf-8", "replace")
    assert text == answer
    assert all(len(entry.top) == 2 for entry in answer.logprobs)


def test_a_character_that_the_limit_cuts_becomes_one_replacement(tiny: Llama) -> None:
    first = tiny.tokenize("👍")[0]
    answer = tiny.chat("x", temperature=0, logit_bias={first: 1e4}, max_tokens=1)
    assert answer == "\ufffd"


def test_mistakes_are_refused_before_the_model_works(tiny: Llama) -> None:
    with pytest.raises(InvalidArgument, match="the messages begin with a system message"):
        tiny.chat([{"role": "system", "content": "a"}], system="b")
    with pytest.raises(InvalidArgument, match="must be a list of messages"):
        tiny.chat(b"bytes")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="thinking_budget must be at least 0"):
        tiny.chat("x", thinking_budget=-1)
    with pytest.raises(InvalidArgument, match="a stop string is empty"):
        tiny.chat("x", stop="")
    with pytest.raises(TypeError, match="max_token'"):
        tiny.chat("x", max_token=5)  # type: ignore[call-overload]
    with pytest.raises(ContextTooLong, match="the context holds 2048"):
        tiny.chat("word " * 3000)
    assert tiny.n_tokens == 0


def test_pictures_that_cannot_be_shown(tiny: Llama) -> None:
    with pytest.raises(FileError, match="no picture at cat"):
        tiny.chat("What is this?", images="cat.png")
    with pytest.raises(InvalidArgument, match="message of the user at the end"):
        tiny.chat([{"role": "assistant", "content": "x"}], images=["cat.png"])


def test_pictures_go_before_the_text_of_the_last_message() -> None:
    early = {"role": "user", "content": "early"}
    late = {"role": "user", "content": [{"type": "text", "text": "late"}]}
    found = conversation([early, late], "Be brief.", ["a.png", b"bytes"])
    assert [message["role"] for message in found] == ["system", "user", "user"]
    assert found[1] == early
    shown = [part.get("image", part.get("text")) for part in found[2]["content"]]
    assert shown == ["a.png", b"bytes", "late"]
    assert late["content"] == [{"type": "text", "text": "late"}]  # untouched
    assert conversation("q", None, None) == [{"role": "user", "content": "q"}]


# ---- thinking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"think": True}, True),
        ({"enable_thinking": False}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"think": False, "reasoning_effort": "none"}, False),
    ],
)
def test_thinking_is_asked_for_in_any_spelling(asked: Any, expected: bool | None) -> None:
    assert thinking_asked(**asked) is expected


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"think": True, "reasoning_effort": "none"}, "contradict"),
        ({"think": "yes"}, "think must be True, False or None"),
        ({"reasoning_effort": "much"}, "must be one of"),
    ],
)
def test_thinking_asked_for_wrongly_is_refused(asked: Any, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        thinking_asked(**asked)


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 20, 64])
def test_a_budget_holds_to_the_token(tiny: Llama, budget: int) -> None:
    tags = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # it would think on and on
    bias = never(tiny, *ENDS, *tags)
    answer = tiny.chat(
        "x", thinking_budget=budget, seed=budget, logit_bias=bias, max_tokens=budget + 12
    )
    assert answer.reasoning_tokens == budget
    assert answer.reasoning_end == "budget"
    end = answer.tokens.index(special(tiny, "</think>"))
    assert end in (budget, budget + 1)  # with the line break before it, unless there was one
    assert answer
    # What the model read is what a conversation with this answer renders.
    thought = tiny.decode(answer.tokens[:end])
    assert thought.strip() == answer.reasoning.strip()


def test_the_model_reads_the_end_put_to_its_thought(tiny: Llama) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    bias = never(tiny, *ENDS, "<think>", "</think>", "<tool_call>")
    options: dict[str, Any] = {"temperature": 0, "logit_bias": bias}
    answer = tiny.chat(messages, thinking_budget=6, max_tokens=30, **options)
    answered = answer.tokens.index(special(tiny, "</think>")) + 1 + len(tiny.tokenize("\n\n"))
    tiny.reset()
    told = tiny.render_chat(messages, think=True).ids + answer.tokens[:answered]
    # No more than two: what the bias leaves has near ties, and prompts may be rounded otherwise
    # than single tokens (AMX).
    went_on = tiny.generate(told, max_tokens=2, **options)
    assert went_on.tokens == answer.tokens[answered : answered + 2]


def test_a_thought_leaves_room_for_the_answer(tiny: Llama) -> None:
    bias = never(tiny, *ENDS, "</think>", "<tool_call>")
    answer = tiny.chat("x", think=True, seed=1, logit_bias=bias, max_tokens=100)
    closing = len(tiny.tokenize("\n")) + 1 + len(tiny.tokenize("\n\n"))
    assert answer.reasoning_tokens == 100 - closing - 25
    assert answer.usage.completion_tokens == 100
    assert answer.finish_reason == "length"
    assert answer.strip()


def test_the_room_for_a_thought() -> None:
    assert budget_within(100, None, 3) == 72
    assert budget_within(100_000, None, 3) == 100_000 - 3 - 1024
    assert budget_within(100, 50, 3) == 50
    assert budget_within(100, 96, 3) == 96
    assert budget_within(100, 97, 3) == 96
    assert budget_within(4, None, 3) is None
    assert budget_within(4, 1, 3) == 1
    assert budget_within(5, 9, 3) == 1


def test_an_answer_too_short_for_thought_and_text_ends_within_the_thought(tiny: Llama) -> None:
    bias = never(tiny, *ENDS, "</think>", "<tool_call>")
    answer = tiny.chat("x", think=True, seed=1, logit_bias=bias, max_tokens=3)
    assert answer == ""
    assert answer.reasoning_tokens == 3
    assert (answer.finish_reason, answer.reasoning_end) == ("length", None)


def test_thinking_off_gives_no_thinking_tokens(tiny: Llama) -> None:
    think = special(tiny, "<think>")
    for seed in range(10):
        # Without the ban the model would say nothing but <think>.
        for off in ({"think": False}, {"thinking_budget": 0}, {}):
            bias = {think: 1e4}
            answer = tiny.chat("x", seed=seed, logit_bias=bias, max_tokens=6, **off)  # type: ignore[arg-type]
            assert think not in answer.tokens
            assert answer.reasoning_tokens == 0
            assert answer.reasoning == ""


def test_a_turn_that_ends_within_the_thought_still_owes_the_answer(tiny: Llama) -> None:
    end = special(tiny, "<|im_end|>")
    answer = tiny.chat("x", think=True, seed=1, logit_bias={end: 1e4}, max_tokens=20)
    assert tiny.decode(answer.tokens) == "\n</think>\n\n"  # and then the end once more
    assert (answer, answer.reasoning, answer.reasoning_tokens) == ("", "", 0)
    assert (answer.finish_reason, answer.stop_reason) == ("stop", end)
    assert answer.reasoning_end == "model"


def test_an_endless_thought_is_ended(tiny: Llama) -> None:
    (word,) = tiny.tokenize("x")
    answer = tiny.chat("x", think=True, temperature=0, logit_bias={word: 60.0}, max_tokens=400)
    assert answer.reasoning_end == "loop"
    assert answer.reasoning_tokens == 64
    assert answer


@pytest.mark.parametrize("period", [1, 2, 5, 21, 22, 100, 511, 512])
def test_a_loop_is_found_at_its_third_turn(period: int) -> None:
    rng = random.Random(period)
    before = [rng.randrange(1000) for _ in range(300)]
    turn = [rng.randrange(1000, 2000) for _ in range(period)]
    detector = LoopDetector()
    assert not any(detector.push(token) for token in before)
    found = [detector.push(token) for token in turn * (3 + 64 // period)]
    assert found.index(True) + 1 == max(3 * period, 64)


def test_no_loop_is_seen_where_there_is_none() -> None:
    rng = random.Random(1)
    counting = [token for i in range(200) for token in (1, 2, 3, 1000 + i, 4)]  # "step 1", ...
    twice = [rng.randrange(50) for _ in range(600)] * 2
    too_long = [rng.randrange(50) for _ in range(513)] * 5
    words = [rng.choice([1, 2]) for _ in range(20_000)]
    for tokens in (counting, twice, too_long, words):
        detector = LoopDetector()
        assert not any(detector.push(token) for token in tokens)


# ---- telling the parts of an answer apart -------------------------------------------------------


def read(llama: Llama, said: str, *, thinking: bool, cut: bool = False) -> tuple[str, str, Any]:
    """Text, thought and call pieces of an answer written with its control tokens."""
    vocabulary = Vocabulary(llama._engine.tokenize)
    reader = AnswerReader(llama._engine, vocabulary, thinking=thinking, parameters={})
    parts = [part for token in llama.tokenize(said, special=True) for part in reader.push(token)]
    parts += reader.finish(cut=cut)
    text = "".join(part.text for part in parts if part.kind == "text")
    thought = "".join(part.text for part in parts if part.kind == "reasoning")
    return text, thought, [part.call for part in parts if part.call is not None]


@pytest.mark.parametrize(
    ("said", "text", "thought"),
    [
        ("\nhm\nso\n</think>\n\nYes.\n", "Yes.\n", "hm\nso"),
        ("</think>\n\nYes", "Yes", ""),
        ("hm", "", "hm"),
        ("<think>\nhm\n</think>\n\nYes", "Yes", "hm"),
        ("a <think> b</think>Yes", "Yes", "a  b"),
        ("a</think>b</think>c", "bc", "a"),
        ("a</think>b<think>c</think>d", "bd", "ac"),
        ("日本</think>👍🏽", "👍🏽", "日本"),
    ],
)
def test_thoughts_are_told_from_text(tiny: Llama, said: str, text: str, thought: str) -> None:
    assert read(tiny, said, thinking=True)[:2] == (text, thought)


def test_tags_in_plain_tokens_are_text(tiny: Llama) -> None:
    vocabulary = Vocabulary(tiny._engine.tokenize)
    said = "</think> and <tool_call> and <think>"
    for thinking, kind in ((True, "reasoning"), (False, "text")):
        reader = AnswerReader(tiny._engine, vocabulary, thinking=thinking, parameters={})
        parts = [part for token in tiny.tokenize(said) for part in reader.push(token)]
        parts += reader.finish(cut=False)
        assert "".join(part.text for part in parts) == said
        assert {part.kind for part in parts} == {kind}


def test_a_call_within_a_thought_ends_it(tiny: Llama) -> None:
    call = "<tool_call>\n<function=f>\n</function>\n</tool_call>"
    text, thought, pieces = read(tiny, f"hm\n\n{call}", thinking=True)
    assert (text, thought) == ("", "hm")
    assert [piece.name for piece in pieces if piece.name] == ["f"]
    text, _, pieces = read(tiny, f"Let me see.\n\n{call}\n{call}", thinking=False)
    assert text == "Let me see."
    assert [piece.index for piece in pieces if piece.done] == [0, 1]


# ---- tools --------------------------------------------------------------------------------------


def get_weather(city: str, day: str = "today") -> str:
    """Weather of a city on a day."""
    return f"Sunny in {city} on {day}."


ASK = "What is the weather in Oslo on Friday?"


def forced(llama: Llama, **options: Any) -> Any:
    """Asks with a call forced until there is a result, as for a model that knows when to call."""

    def ask(messages: list[dict[str, Any]]) -> ChatText:
        called = any(message["role"] == "tool" for message in messages)
        request = llama._chat().request(
            messages,
            {"temperature": 0, "max_tokens": 80, **options},
            seed=None,
            tools=[get_weather],
            forced_call=None if called else "get_weather",
        )
        return llama._chat().answer(request).drain()

    return ask


def test_a_call_comes_typed_and_in_pieces(tiny: Llama) -> None:
    messages = [{"role": "user", "content": ASK}]
    answer = forced(tiny)(messages)
    call = answer.tool_calls[0]
    assert answer.finish_reason == "tool_calls"
    assert (call.name, call.complete) == ("get_weather", True)
    assert "<tool_call>" not in answer
    shaped = answer.message["tool_calls"][0]
    assert shaped["function"]["name"] == "get_weather"
    assert json.loads(shaped["function"]["arguments"]) == call.arguments
    tiny.reset()
    request = tiny._chat().request(
        messages,
        {"temperature": 0, "max_tokens": 80},
        seed=None,
        tools=[get_weather],
        forced_call="get_weather",
    )
    pieces = [chunk.tool_call for chunk in tiny._chat().answer(request) if chunk.tool_call]
    first = [piece for piece in pieces if piece.index == 0]
    assert json.loads("".join(piece.arguments for piece in first)) == call.arguments


def test_a_tool_loop_goes_on_without_reading_again(tiny: Llama) -> None:
    ask = forced(tiny)
    asked = ask([{"role": "user", "content": ASK}])
    read_so_far = asked.usage.prompt_tokens + len(asked.tokens)
    answer = ask([*asked.messages, {"role": "tool", "content": "Sunny."}])
    assert answer.usage.cached_tokens == read_so_far > 0


def test_tools_are_run_until_there_is_an_answer(tiny: Llama) -> None:
    confirmed: list[str] = []

    def confirm(call: ToolCall) -> bool:
        confirmed.append(call.name)
        return True

    messages = [{"role": "user", "content": ASK}]
    answer = run_tools(forced(tiny), messages, [get_weather], confirm, 3)
    assert confirmed[0] == "get_weather"
    roles = [message["role"] for message in answer.messages]
    assert roles[:3] == ["user", "assistant", "tool"]
    assert roles[-1] == "assistant"
    assert "Sunny in" in answer.messages[2]["content"]
    assert answer.messages[2]["tool_call_id"] == answer.messages[1]["tool_calls"][0]["id"]


def test_a_broken_tool_does_not_end_the_loop(tiny: Llama) -> None:
    def broken(**_: object) -> str:
        raise RuntimeError("no network")

    box = functools.wraps(get_weather)(broken)
    messages = [{"role": "user", "content": ASK}]
    answer = run_tools(forced(tiny), messages, [box], None, 2)
    assert answer.messages[2]["content"] == "Error: RuntimeError: no network"
    last = run_tools(forced(tiny), messages, [box], None, 1)
    assert last.finish_reason == "tool_calls"
    assert len(last.messages) == 2


def test_run_tools_of_the_class(tiny: Llama) -> None:
    answer = tiny.run_tools(ASK, [get_weather], max_steps=2, temperature=0, max_tokens=60)
    roles = [message["role"] for message in answer.messages]
    assert roles[0] == "user"
    assert roles[-1] == "assistant"
    assert roles.count("assistant") <= 2
    with pytest.raises(InvalidArgument, match="max_steps"):
        tiny.run_tools(ASK, [get_weather], max_steps=0)
    with pytest.raises(InvalidArgument, match="no functions"):
        tiny.run_tools(ASK, [])


def test_a_conversation_that_is_too_long_loses_its_oldest_turns(tiny: Llama) -> None:
    talk = [{"role": "system", "content": "Be brief."}]
    for i in range(60):
        talk += [{"role": "user", "content": f"Question {i}? " * 9}]
        talk += [{"role": "assistant", "content": f"Answer {i}."}]
    talk += [{"role": "user", "content": "And the last one?"}]
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
    with pytest.raises(ContextTooLong):
        tiny.chat(talk, **options)
    answer = tiny.chat(talk, overflow="drop", **options)
    kept = answer.messages
    assert kept[0] == talk[0]
    assert kept[1]["role"] == "user"
    assert kept[1:-1] == talk[-len(kept[1:-1]) :]
    assert tiny.n_ctx() // 2 < answer.usage.prompt_tokens <= tiny.n_ctx() - 4
    short = tiny.chat(talk[-3:], overflow="drop", **options)
    assert short.messages[:-1] == talk[-3:]
    with pytest.raises(InvalidArgument, match="overflow"):
        tiny.chat("x", overflow="shift")  # type: ignore[call-overload]


def test_turns_are_dropped_in_steps(tiny: Llama) -> None:
    """A client that always sends the whole conversation does not have it read again each time."""
    talk = [{"role": "system", "content": "Be brief."}]
    first = []
    for i in range(30):
        talk += [{"role": "user", "content": f"Question {i}? " * (tiny.n_ctx() // 60)}]
        asked = tiny._chat().request(talk, {"overflow": "drop", "max_tokens": 4}, seed=0)
        assert asked.messages[0] == talk[0]
        assert asked.messages[-1] == talk[-1]
        assert len(asked.request.tokens) <= tiny.n_ctx() - 4
        first.append(talk.index(asked.messages[1]))
        talk += [{"role": "assistant", "content": f"Answer {i}."}]
    assert first == sorted(first)
    steps = [b - a for a, b in pairwise(first) if b != a]
    assert len(steps) >= 2
    assert all(step > 2 for step in steps[:-1])  # several turns at once


def test_a_session_keeps_its_system_prompt(tiny: Llama) -> None:
    session = tiny.session(system="Be brief.")
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "think": False}
    question = "Where is the ball that was on the table? " * 50
    for _ in range(3):
        session.chat(question, **options)
    with pytest.raises(ContextTooLong):
        session.chat(question, **options)
    known = len(session.messages)
    for _ in range(4):
        session.chat(question, overflow="drop", **options)
        assert session.messages[0] == {"role": "system", "content": "Be brief."}
        assert session.messages[1]["role"] == "user"
    assert len(session.messages) < known + 8
