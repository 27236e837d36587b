"""Code written for llama-cpp-python: its names, the shapes of its results, and snippets."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import llama_cpp_api
from qwen35cpp import InvalidArgument, Llama, _compat
from qwen35cpp._bundled import TINY_FILE
from qwen35cpp._completion import CompletionOptions
from qwen35cpp.chat.openai import ChatCompletionOptions

DOCUMENT = Path(__file__).resolve().parents[2] / "python" / "docs" / "llama-cpp-python.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
API: dict[str, Any] = json.loads(llama_cpp_api.TABLE.read_text(encoding="utf-8"))

# What is not here, and why.
ABSENT = {
    "ctx": "a pointer of llama.cpp",
    "model": "a pointer of llama.cpp",
    "pooling_type": "an enumeration of llama.cpp",
    "eval_tokens": "what was evaluated is counted by n_tokens",
    "eval_logits": "eval returns the logits",
    "logits_to_logprobs": "generate(logprobs=) gives them",
    "longest_token_prefix": "a helper of its own cache",
}
OTHER_PARAMETERS = {"generate": {"tokens"}, "embed": {"input", "return_count"}}

# What each snippet prints, where that is the same on every machine.
PRINTED = {
    2: r"\ATrue\n\Z",
    3: r"\A.+ -[\d.]+ 5\n.+ -[\d.]+ 5\n",
    4: r"\ATrue 8\n\Z",
    5: r"\A(length|stop) True\n\Z",
    6: r"\Astory-teller text_completion True\n\Z",
    8: r"\Aassistant: ",
    9: r"\Aget_weather dict\n\Z",
    10: r" True 2\n",
    11: r"\A5 \['system', 'user', 'assistant', 'user', 'assistant'\]\n\Z",
    12: r"\AChatCompletion assistant\n\Z",
    13: r"\ATrue\n\Z",
    14: r"\ATrue 2 my-embedder\n\Z",
    15: r"\A(\d+) 2 \1\n\Z",
    16: r"\Anaïve café\nnaïve café\n\d+ \d+ \d+ -1 \d+\n\Z",
    17: r"\n0\n\Z",
    18: r"\A\d+ True\n\Z",
    19: r"\ATrue\n\Z",
    20: r"\AMia .*\nBo ",
}


@pytest.fixture(autouse=True)
def _nothing_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compat, "_warned", set())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the snippets name; the model is the bundled one."""
    (tmp_path / "model.gguf").symlink_to(TINY_FILE)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
@pytest.mark.usefixtures("folder")
def test_snippets_run_with_only_the_import_changed(number: int) -> None:
    snippet = SNIPPETS[number]
    if "openai_v1" in snippet:
        pytest.importorskip("openai")
    assert "from llama_cpp import Llama\n" in snippet
    code = snippet.replace("from llama_cpp import", "from qwen35cpp import")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that the document lists
        exec(compile(code, f"snippet {number}", "exec"), {})
    assert shown.getvalue().strip()
    assert re.search(PRINTED.get(number, "."), shown.getvalue()), shown.getvalue()


def test_there_are_enough() -> None:
    assert len(SNIPPETS) >= 20
    assert f"llama-cpp-python {API['version']}" in TEXT


def test_the_table_is_that_of_the_installed_release() -> None:
    spec = importlib.util.find_spec("llama_cpp")  # not imported: that would load its engine
    if spec is None or spec.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    folder = Path(spec.origin).parent
    version = re.search('__version__ = "(.*)"', (folder / "__init__.py").read_text("utf-8"))
    assert version is not None
    if version[1] != API["version"]:
        pytest.skip(f"the table is of {API['version']}")
    assert llama_cpp_api.read(folder, version[1]) == API


def accepted(name: str) -> set[str]:
    """The parameters of one of our methods, those that only warn or are refused included."""
    method = getattr(Llama, name)
    parameters = set(inspect.signature(method).parameters)
    tolerated = _compat._GRANTED | _compat._WITHOUT_EFFECT | _compat._MISSING
    options: Mapping[str, Any] = {}
    if name in ("create_completion", "__call__"):
        options = CompletionOptions.__annotations__
    elif name.startswith("create_chat_completion"):
        options = ChatCompletionOptions.__annotations__
    elif name == "sample":
        options = {**_compat.TokenSettings.__annotations__, "idx": None}
    elif name != "__init__":
        return parameters
    return parameters | set(options) | tolerated


@pytest.mark.parametrize("name", sorted(API["Llama"]))
def test_every_method_and_parameter_is_known(name: str) -> None:
    if name in ABSENT:
        assert not hasattr(Llama, name), f"{name} is here now: take it off the list"
        return
    theirs = set(API["Llama"][name])
    if name == "generate":  # generate_tokens here, with the settings of sample
        theirs, name = theirs - {"stopping_criteria"}, "sample"
        theirs -= OTHER_PARAMETERS["generate"]
    missing = theirs - accepted(name) - OTHER_PARAMETERS.get(name, set())
    assert not missing


def covers(name: str, result: Any) -> None:
    """Whether a result has all keys that are required there."""
    keys = API["results"][name]
    assert keys
    assert set(keys) <= set(result), f"{name} lacks {set(keys) - set(result)}"


def test_results_have_their_keys(folder: Path) -> None:
    with Llama(folder / "model.gguf", n_ctx=512) as llm:
        text = llm.create_completion("Once", max_tokens=3, logprobs=2)
        covers("CreateCompletionResponse", text)
        covers("CompletionUsage", text.usage)
        covers("CompletionChoice", text.choices[0])
        covers("CompletionLogprobs", text.choices[0].logprobs)
        messages = [{"role": "user", "content": "hi"}]
        options: Any = {"max_tokens": 4, "logprobs": True, "top_logprobs": 1}
        chat = llm.create_chat_completion(messages, **options)
        covers("CreateChatCompletionResponse", chat)
        covers("ChatCompletionResponseChoice", chat.choices[0])
        covers("ChatCompletionResponseMessage", chat.choices[0].message)
        logprobs = chat.choices[0].logprobs
        assert logprobs is not None
        covers("ChatCompletionLogprobs", logprobs)
        covers("ChatCompletionLogprobToken", logprobs.content[0])
        covers("ChatCompletionTopLogprobToken", logprobs.content[0].top_logprobs[0])
        for chunk in llm.create_chat_completion(messages, stream=True, **options):
            covers("CreateChatCompletionStreamResponse", chunk)
            covers("ChatCompletionStreamResponseChoice", chunk.choices[0])
        vectors = llm.create_embedding("hi")
        covers("CreateEmbeddingResponse", vectors)
        covers("Embedding", vectors.data[0])
        covers("EmbeddingUsage", vectors.usage)


def test_one_warning_for_an_argument_without_effect(folder: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            Llama(folder / "model.gguf", n_ctx=64, n_gpu_layers=-1, flash_attn=True).close()
    said = sorted(str(warning.message).split(":")[1].split()[0] for warning in caught)
    assert said == ["flash_attn", "n_gpu_layers"]
    assert {warning.filename for warning in caught} == {__file__}


def test_single_steps_give_the_text_of_generate(folder: Path) -> None:
    with Llama(folder / "model.gguf", n_ctx=256, seed=3) as llm:
        prompt = llm.tokenize("Once there was a girl named")
        wanted = llm.generate(prompt, temperature=0, max_tokens=12).tokens
        llm.reset()
        llm.eval(prompt)
        stepped = []
        while len(stepped) < 12:
            stepped.append(llm.sample(temp=0))
            llm.eval(stepped[-1:])
        assert stepped[: len(wanted)] == wanted
        tokens = llm.generate_tokens(prompt, temp=0)
        assert [next(tokens) for _ in range(12)] == stepped
        (forced,) = llm.tokenize(" Mia")
        after = tokens.send([forced])
        tokens.close()
        again = llm.generate([*prompt, *stepped, forced], temperature=0, max_tokens=1)
        assert again.tokens == [after]
        one, two = llm.generate_tokens(prompt, temp=1.0), llm.generate_tokens(prompt, temp=1.0)
        assert [next(one) for _ in range(8)] == [next(two) for _ in range(8)]  # the model's seed
        one.close()
        two.close()
        llm.reset()
        with pytest.raises(InvalidArgument, match="logits"):
            llm.sample()


def test_a_penalty_of_sample_counts_what_was_evaluated(folder: Path) -> None:
    with Llama(folder / "model.gguf", n_ctx=256) as llm:
        llm.eval(llm.tokenize("Mia likes tea. Mia likes tea. Mia likes"))
        assert llm.decode([llm.sample(temp=0)]) == " tea"
        assert llm.decode([llm.sample(temp=0, repeat_penalty=2.0)]) != " tea"
