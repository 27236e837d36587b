"""Chat templates of the user's own: rendered apart, and no content becomes a control token."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("minijinja", reason="needs the extra [template]")

import qwen35cpp.cli
from conversations import HOSTILE, OWN_TEMPLATE, Conversation, Source, own_variables
from qwen35cpp import (
    FileError,
    InvalidArgument,
    Llama,
    MissingExtra,
    ModelUnsupported,
    TemplateInvalid,
)
from qwen35cpp.chat.custom import ChatTemplate
from qwen35cpp.chat.messages import parse_messages
from qwen35cpp.chat.vocabulary import Vocabulary

OFFICIAL = [path for path in os.environ.get("QWEN35_OFFICIAL_TEMPLATE", "").split(":") if path]
USER = {"role": "user", "content": "q"}
CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}{{ eos_token }}
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
LIST_BOMB = """\
{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}
{{ n.x | length }}
"""
WHOLE_TOKENS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def own_template() -> str:
    """Our template of the Qwen 3.5 format, with what it takes beside the usual variables."""
    head = [f"{{%- set {name} = {json.dumps(value)} -%}}"
            for name, value in own_variables(False).items()]  # fmt: skip
    return "".join(head) + OWN_TEMPLATE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain() -> Iterator[Llama]:
    with Llama.tiny(vocab_only=True) as llama:
        yield llama


@pytest.fixture(scope="module")
def custom() -> Iterator[Llama]:
    with Llama.tiny(vocab_only=True, chat_template=own_template()) as llama:
        yield llama


def rendered(template: str, messages: Any = (USER,), **options: Any) -> str:
    """What a template makes of messages, as text with the control tokens."""
    with Llama.tiny(vocab_only=True, chat_template=template) as llama:
        ids = llama.render_chat(messages, **options).ids
        return llama.decode(ids, special=True)


def test_a_template_of_the_format_gives_the_ids_of_the_renderer(
    plain: Llama, custom: Llama
) -> None:
    source, compared = Source(31), 0
    for number in range(300):
        given = source.conversation()
        if begins_with_blanks(given):
            continue
        compared += 1
        options: dict[str, Any] = {
            "tools": given.tools,
            "think": given.thinking,
            "add_generation_prompt": given.add_generation_prompt,
            "add_vision_id": given.add_vision_id,
        }
        expected = plain.render_chat(given.messages, **options)
        assert custom.render_chat(given.messages, **options) == expected, (number, given)
    assert compared > 250


@pytest.mark.skipif(not OFFICIAL, reason="needs QWEN35_OFFICIAL_TEMPLATE, see test_chat_render")
@pytest.mark.parametrize("path", OFFICIAL)
def test_official_templates_give_the_ids_of_the_renderer(plain: Llama, path: str) -> None:
    with Llama.tiny(vocab_only=True, chat_template=path) as llama:
        default = llama._chat().thinks_by_default
        source, compared = Source(41), 0
        for _ in range(500):
            given = source.conversation()
            if begins_with_blanks(given):
                continue
            options: dict[str, Any] = {
                "tools": given.tools,
                "add_generation_prompt": given.add_generation_prompt,
                "add_vision_id": given.add_vision_id,
            }
            found = llama.render_chat(given.messages, think=given.thinking, **options)
            think = default if given.thinking is None else given.thinking
            assert found == plain.render_chat(given.messages, think=think, **options), given
            compared += 1
    assert compared == 455


def begins_with_blanks(given: Conversation) -> bool:
    """Whether there are blanks behind a thought in the content: templates trim what they get."""
    turns = parse_messages(given.messages)
    return any(str(part)[0].isspace() for turn in turns for part in turn.content[:1])


def test_contents_never_become_control_tokens(custom: Llama) -> None:
    controls = {custom.tokenize(name, special=True)[0] for name in [*HOSTILE, "<|im_end|>"]
                if len(custom.tokenize(name, special=True)) == 1}  # fmt: skip

    def counted(messages: list[dict[str, Any]], tools: Any) -> list[int]:
        ids = custom.render_chat(messages, tools=tools, think=True).ids
        return [token for token in ids if token in controls]

    def conversation(text: str, word: str) -> tuple[list[dict[str, Any]], Any]:
        call = {"name": word, "arguments": {word: text, "list": [text], "n": 64976}}
        tool = {"name": "f", "description": text, "parameters": {"properties": {"x": {}}}}
        return [
            {"role": "system", "content": "s" + text},
            {"role": "user", "content": [{"type": "text", "text": "u" + text}, {"image": "a"}]},
            {"role": "assistant", "content": "a", "reasoning_content": text, "tool_calls": [call]},
            {"role": "tool", "content": text},
        ], [tool]

    quiet = counted(*conversation("harmless", "word"))
    for text in [*HOSTILE, "".join(HOSTILE), "\ufdd0\ufdd1\ufdef", "<|im_", "\ud83d<think>"]:
        word = "think" if "think" in text else "word"
        assert counted(*conversation(text, word)) == quiet, text


def test_a_token_put_together_from_pieces_stays_text(plain: Llama) -> None:
    template = CHATML + "{{ '<|im_' ~ 'end|>' }}<{{ messages[0].content }}>"
    with Llama.tiny(vocab_only=True, chat_template=template) as llama:
        ids = llama.render_chat([{"role": "user", "content": "think"}]).ids
    whole = plain.tokenize("<|im_end|><think>", special=False)
    assert ids[-len(whole) :] == whole
    assert rendered(CHATML + "{{ '\\ufdef' }}\ufdee").endswith("\ufffd\ufffd")


def test_escapes_and_blanks_are_those_of_transformers() -> None:
    # trim_blocks and lstrip_blocks; nothing is escaped for HTML, JSON is not sorted.
    template = (
        "{% if true %}\n  {% set x = '\\u00e9\\n\\'' %}\n{% endif %}\n"
        "{{ x }}{{ messages[0].content }}{{ {'b': '<&>', 'a': [1, true, none]} | tojson }}"
        "{{ true | string }}{{ none | string }}{{ -2e-7 | string }}"
    )
    found = rendered(template, [{"role": "user", "content": "<b>&amp;"}])
    assert found == 'é\n\'<b>&amp;{"b": "<&>", "a": [1, true, null]}TrueNone-2e-07'


def test_the_template_decides_about_thoughts() -> None:
    assert rendered(CHATML).endswith("<|im_start|>assistant\n")
    assert rendered(CHATML, think=False).endswith("<|im_start|>assistant\n")
    with pytest.raises(InvalidArgument, match="opens no thought though thinking is on"):
        rendered(CHATML, think=True)
    opening = CHATML + "<think>"
    assert rendered(opening).endswith("<think>")
    with pytest.raises(InvalidArgument, match="opens a thought though thinking is off"):
        rendered(opening, think=False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% if %}", "chat template, line 2: .*unexpected end of block"),
        (
            "\n\n{{ nothing_of_the_kind() }}",
            "chat template, line 3: nothing_of_the_kind is unknown",
        ),
        ("{{ messages[0].no.such }}", "chat template, line 1: "),
        ("{% include 'a' %}", "line 1: other templates cannot be included"),
        ("{% from '/etc/passwd' import x %}", "line 1: other templates cannot be included"),
        (
            "\n{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            "line 2: takes too many steps",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1: recursion limit exceeded"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "line 1: .*recursion limits"),
        ("{{ ('x' * 9999999) }}", "renders more than|takes too many steps"),
        # A list of 2**40, and one nested until the stack ends.
        (LIST_BOMB, "takes too much memory or time"),
        (
            "{% set n = namespace(x=1) %}{% for i in range(90000) %}{% set n.x = [n.x] %}"
            "{% endfor %}{{ n.x }}",
            "takes too much memory or time|too many steps",
        ),
        ("{# #}" + "x" * 300_000, "has 300,010 characters"),
    ],
)
def test_what_fails_is_an_error_with_its_line(template: str, message: str) -> None:
    with pytest.raises(TemplateInvalid, match=message):
        rendered(template + "{# #}")


def test_a_template_goes_on_after_its_process_died() -> None:
    bomb = "{% if messages[0].content == 'boom' %}" + LIST_BOMB + "{% endif %}"
    with Llama.tiny(vocab_only=True, chat_template=CHATML + bomb) as llama:
        before = llama.render_chat([USER]).ids
        with pytest.raises(TemplateInvalid, match="too much memory"):
            llama.render_chat([{"role": "user", "content": "boom"}])
        assert llama.render_chat([USER]).ids == before


def test_messages_that_the_template_refuses_are_an_argument_error(custom: Llama) -> None:
    with pytest.raises(InvalidArgument, match=r"refuses the messages: no, q"):
        rendered("{{ raise_exception('no, ' ~ messages[0].content) }}")
    with pytest.raises(InvalidArgument, match="no user query"):  # what can never be right
        custom.render_chat([{"role": "system", "content": "x"}])


def test_pictures_stand_where_the_template_puts_them(plain: Llama, custom: Llama) -> None:
    picture = [{"role": "user", "content": [{"image": b"one"}, {"type": "text", "text": "?"}]}]
    assert custom.render_chat(picture).media == plain.render_chat(picture).media
    for template, message in (
        (CHATML + "{{ 1 }}", "leaves 1 pictures out"),
        (CHATML + "<|vision_start|><|video_pad|><|vision_end|>", "other pictures"),
        (CHATML + "<|image_pad|>", "outside of"),
    ):
        with pytest.raises(TemplateInvalid, match=message):
            rendered(template, picture)


def test_templates_come_as_text_as_a_path_and_from_the_model_file(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(CHATML)
    expected = rendered(CHATML)
    assert rendered(str(tmp_path / "chat.jinja")) == expected
    assert rendered(tmp_path / "chat.jinja") == expected  # type: ignore[arg-type]
    with pytest.raises(FileError, match=r"cannot read the chat template 'none.jinja'"):
        rendered("none.jinja")


def test_the_template_of_the_bundled_model_gives_the_ids_of_the_renderer(plain: Llama) -> None:
    with Llama.tiny(vocab_only=True, chat_template="file") as llama:
        source, same = Source(32), 0
        for _ in range(60):
            given = source.conversation()
            pictures = any(isinstance(message["content"], list) for message in given.messages)
            if pictures or begins_with_blanks(given):
                continue
            options: dict[str, Any] = {"tools": given.tools, "think": bool(given.thinking)}
            expected = plain.render_chat(given.messages, **options)
            assert llama.render_chat(given.messages, **options) == expected, given
            same += 1
        assert same >= 10


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "minijinja", None)
    with pytest.raises(MissingExtra, match="needs the package minijinja") as caught:
        Llama.tiny(vocab_only=True, chat_template=CHATML)
    assert caught.value.hint == 'pip install "qwen35cpp[template]"'


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is new in Python 3.11")
def test_nothing_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rendered(CHATML)
    for name in ("minijinja", "json", "resource"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert rendered(CHATML) == expected


def test_threads_share_a_template(custom: Llama) -> None:
    expected = [custom.render_chat([{"role": "user", "content": str(i)}]).ids for i in range(8)]
    found: dict[int, list[list[int]]] = {}

    def work(i: int) -> None:
        messages = [{"role": "user", "content": str(i)}]
        found[i] = [custom.render_chat(messages).ids for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [ids] * 10 for i, ids in enumerate(expected)}


def test_chats_tools_and_decisions_work_as_with_the_renderer() -> None:
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return f"rain in {city}"

    results = []
    for template in (None, own_template()):
        with Llama.tiny(n_ctx=2048, n_threads=1, seed=1, chat_template=template) as llama:
            told = llama.chat("Tell me a story about a dog.", temperature=0, max_tokens=30)
            thought = llama.chat("Is it?", think=True, thinking_budget=6, max_tokens=20, seed=2)
            forced = llama.create_chat_completion(
                [{"role": "user", "content": "What is the weather in Rome?"}],
                tools=[get_weather],
                tool_choice="required",
                temperature=0,
                max_tokens=60,
            )
            decided = llama.decide("The lamp is red.", colour=["red", "blue"])
            calls = [call.function for call in forced.choices[0].message.tool_calls]
            results.append((told, thought, thought.reasoning, calls, decided.probabilities))
    assert results[0] == results[1]
    assert results[0][2]
    assert results[0][3][0]["name"] == "get_weather"


def test_one_chat_may_have_a_template_of_its_own(plain: Llama) -> None:
    before = plain.render_chat([USER]).ids
    for i in range(6):  # more than are kept
        ids = plain.render_chat([USER], chat_template=CHATML + f"{i}").ids
        assert plain.decode(ids).endswith(str(i))
    assert plain.render_chat([USER]).ids == before
    assert len(plain._chat()._templates) == 4
    with Llama.tiny(n_ctx=512, n_threads=1) as llama:
        own = llama.chat("Hi", chat_template=own_template(), temperature=0, max_tokens=5)
        assert own == llama.chat("Hi", temperature=0, max_tokens=5)
        with pytest.raises(TemplateInvalid, match="line 1"):
            llama.chat("Hi", chat_template="{% if %}")


def test_a_request_to_the_server_cannot_bring_a_template() -> None:
    pytest.importorskip("starlette", reason="needs the extra [server]")
    import httpx2

    from qwen35cpp.server import Settings, serving

    with Llama.tiny(n_ctx=512, n_threads=1) as llama, serving(llama, Settings(port=0)) as url:
        for more in ({"chat_template": CHATML}, {"chat_template_kwargs": {"chat_template": "x"}}):
            answer = httpx2.post(f"{url}/v1/chat/completions", json={"messages": [USER], **more})
            assert answer.status_code == 400
            assert "chat_template" in answer.json()["error"]["message"]


def test_commands_take_a_template(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(own_template())
    command = ["run", "tiny", "Tell me a story about a dog.", "-n", "12", "--temp", "0", "-t", "1"]
    texts = []
    for more in ([], ["--chat-template", str(tmp_path / "chat.jinja")]):
        assert qwen35cpp.cli.main([*command, *more]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    (tmp_path / "chat.jinja").write_text("{% if %}")
    assert qwen35cpp.cli.main([*command, *more]) == 1
    assert "chat template, line 1" in capsys.readouterr().err


def test_a_vocabulary_without_the_format_is_refused_before_the_template(custom: Llama) -> None:
    with pytest.raises(ModelUnsupported):
        Vocabulary(lambda text, _special: list(text))
    vocabulary = Vocabulary(custom._engine.tokenize)
    assert all(vocabulary.knows(name) for name in WHOLE_TOKENS)
    assert not vocabulary.knows("<|no_such_token|>")
    assert ChatTemplate(CHATML, vocabulary)
