"""Rendering a chat: token-identical with the specified template, whatever people write.

The official template file is not part of this repository; reference/chat_template.jinja is our own
rendering of the format that it defines. Where you have official ones (chat_template.jinja of a
checkpoint), name them: QWEN35_OFFICIAL_TEMPLATE=4b.jinja:0.8b.jinja.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")

import jinja2

import qwen_vocab
from conversations import HOSTILE, Conversation, Source, Template
from qwen35cpp import InvalidArgument, Llama, ModelUnsupported, Rendered
from qwen35cpp.chat.messages import parse_messages
from qwen35cpp.chat.render import render
from qwen35cpp.chat.vocabulary import Vocabulary, thinks_by_default

USER = {"role": "user", "content": "q"}
OFFICIAL = [path for path in os.environ.get("QWEN35_OFFICIAL_TEMPLATE", "").split(":") if path]
TEMPLATES = {default: Template(thinks_by_default=default) for default in (True, False)}


class Reference:
    """`tokenizers` with the real vocabulary, and our Vocabulary on top of it."""

    def __init__(self) -> None:
        vocab = qwen_vocab.load()
        self.full = qwen_vocab.hf_tokenizer(vocab)
        self.plain = qwen_vocab.hf_tokenizer(vocab, special=False)
        self.first_control = vocab.id_of("<|endoftext|>")
        self.vocabulary = Vocabulary(self.tokenize)

    def tokenize(self, text: bytes, special: bool) -> list[int]:
        tokenizer = self.full if special else self.plain
        ids: list[int] = tokenizer.encode(text.decode(), add_special_tokens=False).ids
        return ids

    def controls(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token >= self.first_control]


@pytest.fixture(scope="module")
def real() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def tiny() -> Iterator[Llama]:
    with Llama.tiny(vocab_only=True) as llama:
        yield llama


def ours(vocabulary: Vocabulary, given: Conversation, *, default: bool) -> Rendered:
    return render(
        given.messages,
        vocabulary,
        tools=given.tools,
        thinking=default if given.thinking is None else given.thinking,
        add_generation_prompt=given.add_generation_prompt,
        add_vision_id=given.add_vision_id,
    )


def say(*contents: str) -> list[dict[str, Any]]:
    """User and assistant in turn."""
    return [
        {"role": "assistant" if i % 2 else "user", "content": text}
        for i, text in enumerate(contents)
    ]


# ---- against the template -----------------------------------------------------------------------


def test_conversations_are_token_identical_with_the_template(real: Reference) -> None:
    source = Source(20)
    roles = set()
    for number in range(500):
        default = number % 2 == 0
        given = source.conversation()
        expected = TEMPLATES[default].render(given)
        found = ours(real.vocabulary, given, default=default)
        assert found.ids == real.tokenize(expected.encode(), True), (number, given)
        roles |= {message["role"] for message in given.messages}
    assert roles == {"system", "developer", "user", "assistant", "tool"}


@pytest.mark.skipif(not OFFICIAL, reason="needs QWEN35_OFFICIAL_TEMPLATE")
@pytest.mark.parametrize("path", OFFICIAL)
def test_conversations_are_token_identical_with_official_templates(
    real: Reference, tiny: Llama, path: str
) -> None:
    text = Path(path).read_text(encoding="utf-8")
    default = thinks_by_default(text, tiny.info)
    official = Template(thinks_by_default=default, text=text)
    source = Source(20)
    for number in range(500):
        given = source.conversation()
        expected = official.render(given)
        found = ours(real.vocabulary, given, default=default)
        assert found.ids == real.tokenize(expected.encode(), True), (number, given)
    # Texts that hold control strings: the two templates treat them alike.
    own, source = Template(thinks_by_default=default), Source(24, hostile=True)
    for _ in range(200):
        given = source.conversation()
        assert _outcome(own, given) == _outcome(official, given), given


def _outcome(template: Template, given: Conversation) -> str:
    try:
        return template.render(given)
    except jinja2.TemplateError as error:
        return str(error)


def test_text_never_becomes_a_control_token(real: Reference) -> None:
    source = Source(21, hostile=True)
    compared = 0
    for _ in range(200):
        given = source.conversation()
        given.add_vision_id = False
        harmless = json.loads(_without_hostile(json.dumps(given.messages, default=str)))
        tools = json.loads(_without_hostile(json.dumps(given.tools)))
        quiet = Conversation(harmless, tools, given.thinking, given.add_generation_prompt)
        # Two strings have a meaning in the format: </think> in what an assistant said, and a user's
        # text that is wholly a tool response. Where they change the shape there is no comparison.
        if _shape(given) == _shape(quiet):
            found = ours(real.vocabulary, given, default=False)
            expected = ours(real.vocabulary, quiet, default=False)
            assert real.controls(found.ids) == real.controls(expected.ids)
            compared += any(marker in str(given) for marker in HOSTILE)
    assert compared > 80


def _shape(given: Conversation) -> list[Any]:
    try:
        turns = parse_messages(given.messages)
    except InvalidArgument:
        return []
    return [(turn.is_query, bool(turn.reasoning), len(turn.content)) for turn in turns]


def _without_hostile(text: str) -> str:
    for marker in HOSTILE:
        text = text.replace(json.dumps(marker)[1:-1], "harmless")
    return text


def test_the_engine_gives_the_ids_of_the_bundled_tokenizer(tiny: Llama, repository: Any) -> None:
    from tokenizers import Tokenizer

    path = repository / "tests" / "tiny" / "qwen35-tiny" / "tokenizer.json"
    reference = Tokenizer.from_file(str(path))
    source = Source(22)
    for _ in range(60):
        given = source.conversation()
        found = tiny.render_chat(
            given.messages,
            tools=given.tools,
            think=given.thinking,
            add_generation_prompt=given.add_generation_prompt,
            add_vision_id=given.add_vision_id,
        )
        expected = TEMPLATES[False].render(given)
        assert found.ids == reference.encode(expected, add_special_tokens=False).ids


# ---- examples -----------------------------------------------------------------------------------


def text_of(tiny: Llama, messages: list[dict[str, Any]], **options: Any) -> str:
    return tiny.decode(tiny.render_chat(messages, **options).ids, special=True)


def test_thinking_opens_a_thought_or_puts_an_empty_one(tiny: Llama) -> None:
    messages = [{"role": "system", "content": " You are terse. "}, *say("Hi")]
    head = "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    on = text_of(tiny, messages, think=True)
    assert on == head + "<|im_start|>assistant\n<think>\n"
    off = text_of(tiny, messages, think=False)
    assert off == head + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert text_of(tiny, messages) == off  # the bundled model's own default


def test_a_new_question_drops_earlier_thoughts(tiny: Llama) -> None:
    told = say("q1", "<think>\nsecret\n</think>\n\nanswer1")
    assert "secret" in text_of(tiny, told, add_generation_prompt=False)
    later = text_of(tiny, [*told, USER], think=True)
    assert "secret" not in later
    assert "<|im_start|>assistant\nanswer1<|im_end|>" in later


def test_the_tools_block_is_the_specified_one(tiny: Llama) -> None:
    schema = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    found = text_of(tiny, [{"role": "system", "content": "Sys"}, USER], tools=[schema])
    assert found.startswith("<|im_start|>system\n# Tools\n\nYou have access to the following")
    wrapped = json.dumps({"type": "function", "function": schema})
    assert f"<tools>\n{wrapped}\n</tools>" in found
    assert "</IMPORTANT>\n\nSys<|im_end|>\n<|im_start|>user\nq<|im_end|>\n" in found


def test_media_are_listed_with_their_places(tiny: Llama) -> None:
    first, second = object(), b"frames"
    parts = [{"image": first}, {"type": "text", "text": "Describe"}, {"video": second}]
    found = tiny.render_chat([{"role": "user", "content": parts}], add_vision_id=True)
    assert [(m.kind, m.source) for m in found.media] == [("image", first), ("video", second)]
    shown = [tiny.decode([found.ids[m.index]], special=True) for m in found.media]
    assert shown == ["<|image_pad|>", "<|video_pad|>"]
    text = tiny.decode(found.ids, special=True)
    assert "user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>DescribeVideo 1: " in text


def test_halves_of_characters_are_joined_or_replaced(real: Reference) -> None:
    pair, lone = "\ud83d\ude00", "a\ud83db"
    ids = real.vocabulary.encode(pair)
    assert real.full.decode(ids) == "\N{GRINNING FACE}"
    assert real.full.decode(real.vocabulary.encode(lone)) == "a\ufffdb"


# ---- prefixes -----------------------------------------------------------------------------------


def test_a_turn_is_a_prefix_of_the_next_where_the_format_allows(real: Reference) -> None:
    source = Source(23)
    within = 0
    for number in range(120):
        given = source.conversation()
        given.add_vision_id, given.add_generation_prompt = False, True
        turns = parse_messages(given.messages)
        if any(str(part)[0].isspace() for turn in turns for part in turn.content):
            continue  # blanks behind a thought within the content melt into the line break before
        roles = [turn.role for turn in turns]
        for end in range(1, len(roles)):
            if "user" not in roles[:end] or roles[end] != "assistant":
                continue
            early = Conversation(given.messages[:end], given.tools, thinking=number % 2 == 0)
            late = Conversation(given.messages, given.tools, thinking=early.thinking)
            first = ours(real.vocabulary, early, default=False)
            second = ours(real.vocabulary, late, default=False)
            # Never more than the thoughts are rewritten; nothing while there is no new question.
            assert second.ids[: first.stable] == first.ids[: first.stable]
            if bool(turns[end].reasoning) == early.thinking and "user" not in roles[end:]:
                assert second.ids[: len(first.ids)] == first.ids
                within += 1
    assert within > 20


# ---- errors and defaults ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([], "no messages"),
        ("hi", "must be a list"),
        (["hi"], r"messages\[0\] must be a dictionary"),
        ([{"role": "system", "content": "x"}], "no user query"),
        ([{"role": "user", "content": "<tool_response>x</tool_response>"}], "no user query"),
        ([USER, {"role": "system", "content": "x"}], r"messages\[1\]: a system message"),
        ([USER, {"role": "boss", "content": "x"}], r"messages\[1\] has the unexpected role 'boss'"),
        ([{"role": "user", "content": 5}], r"messages\[0\]: content must be"),
        ([{"role": "user", "content": [{"type": "audio"}]}], r"content\[0\]: unexpected type"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"content\[0\] has no image"),
        ([{"role": "system", "content": [{"image": "a"}]}, USER], "cannot contain images"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": 1}]}], r"tool_calls\[0\] needs"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            r"messages\[1\]: tool_calls\[0\]: arguments are not JSON",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}],
            "arguments must be an object",
        ),
        ([USER, {"role": "assistant", "reasoning_content": 1}], "reasoning_content must be"),
    ],
)
def test_messages_that_cannot_be_rendered_are_named(messages: Any, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        parse_messages(messages)


@pytest.mark.parametrize(
    ("template", "size", "thinks"),
    [
        ("{%- if enable_thinking is defined and enable_thinking is true %}", 4096, False),
        ("{%- if enable_thinking is defined and enable_thinking is false %}", 1024, True),
        ("{%- if enable_thinking is not true -%}", 4096, False),
        ("{% if enable_thinking == False %}", 1024, True),
        ("{{ messages }}", 2048, False),
        ("{{ messages }}", 2560, True),
        (None, 1024, False),
    ],
)
def test_the_template_in_the_file_decides_the_default(
    tiny: Llama, template: str | None, size: int, thinks: bool
) -> None:
    from dataclasses import replace

    assert thinks_by_default(template, replace(tiny.info, n_embd=size)) is thinks


def test_the_oracle_refuses_what_we_refuse() -> None:
    for messages in ([], [{"role": "boss", "content": "x"}, USER], [USER, {"role": "system"}]):
        with pytest.raises(jinja2.TemplateError):
            TEMPLATES[True].render(Conversation(messages))


def test_a_vocabulary_without_the_format_is_refused(
    make_words: Callable[[bytes, bool], list[int]],
) -> None:
    with pytest.raises(ModelUnsupported, match=r"no token <\|im_start\|>"):
        Vocabulary(make_words)


@pytest.fixture
def make_words(real: Reference) -> Callable[[bytes, bool], list[int]]:
    return lambda text, _special: real.tokenize(text, False)
