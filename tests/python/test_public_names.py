"""The public surface: names, error codes, and that importing stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import qwen35cpp
from qwen35cpp import errors, types

NAMES = [
    "AnswerInvalid", "AsyncLlama", "AsyncStream", "CallDelta", "Cancelled", "ChatChunk",
    "ChatCompletion", "ChatCompletionChunk", "ChatStream", "ChatText", "Chunk", "Completion",
    "ContextTooLong", "CpuNotSupported", "Decision", "EmbeddingResponse", "Field", "FileError",
    "ForkedProcess", "ImageInvalid", "InternalError", "InvalidArgument", "Label", "Llama",
    "Mapped", "Media", "MissingExtra", "ModelInfo", "ModelInvalid", "ModelNotFound",
    "ModelUnsupported", "NotEnoughMemory", "NotSupported", "Qwen35Error", "Ranked", "Rendered",
    "Sampling", "SchemaError", "Score", "Session", "SessionBusy", "SessionClosed", "Snapshot",
    "StateInvalid", "TemplateInvalid", "Text", "TextStream", "Timings", "TokenLogprob",
    "ToolCall", "Usage", "VisionInfo", "VisionMissing", "function_schema", "recommended",
    "system_info", "version",
]  # fmt: skip
LLAMA = [
    "cancel", "chat", "classify", "close", "context_memory", "create_chat_completion",
    "create_chat_completion_openai_v1", "create_completion", "create_embedding", "decide",
    "decider", "decode", "detokenize", "embed", "eval", "extract", "from_pretrained",
    "generate", "generate_tokens", "info", "load_state", "locate", "map", "metadata", "n_ctx",
    "n_embd", "n_threads", "n_tokens", "n_vocab", "rank", "render_chat", "reset", "run_tools",
    "sample", "save_state", "score", "session", "set_cache", "set_seed", "tiny", "token_bos",
    "token_eos", "token_nl", "tokenize", "tokenizer",
]  # fmt: skip


def test_public_names_are_these() -> None:
    assert sorted(qwen35cpp.__all__) == NAMES
    assert all(hasattr(qwen35cpp, name) for name in NAMES)
    assert not hasattr(qwen35cpp, "ChatTextt")
    public = [name for name in dir(qwen35cpp.Llama) if not name.startswith("_")]
    assert public == LLAMA


def test_everything_public_is_documented() -> None:
    for name in NAMES:
        assert inspect.getdoc(getattr(qwen35cpp, name)), name
    for name in LLAMA:
        assert inspect.getdoc(getattr(qwen35cpp.Llama, name)), name


def test_generate_options_are_the_parameters_of_generate() -> None:
    from qwen35cpp.llama import GenerateOptions

    parameters = set(inspect.signature(qwen35cpp.Llama.generate).parameters)
    assert set(GenerateOptions.__annotations__) == parameters - {"self", "prompt", "stream"}


def test_load_options_are_the_parameters_of_llama() -> None:
    from qwen35cpp.llama import LoadOptions

    parameters = set(inspect.signature(qwen35cpp.Llama).parameters)
    assert set(LoadOptions.__annotations__) == parameters - {"model_path", "ignored"}


def test_version_matches_the_library_and_the_package() -> None:
    from importlib.metadata import version

    assert qwen35cpp.__version__ == qwen35cpp.version() == version("qwen35cpp")


@pytest.mark.parametrize(
    ("status", "kind", "also"),
    [
        (1, errors.InvalidArgument, ValueError),
        (2, errors.FileError, OSError),
        (3, errors.ModelInvalid, ValueError),
        (4, errors.ModelUnsupported, Exception),
        (5, errors.NotEnoughMemory, MemoryError),
        (6, errors.ContextTooLong, ValueError),
        (7, errors.Cancelled, Exception),
        (8, errors.CpuNotSupported, Exception),
        (9, errors.InternalError, Exception),
    ],
)
def test_each_status_has_its_error(status: int, kind: type, also: type) -> None:
    error = errors.from_status(status, "what happened")
    assert type(error) is kind
    assert isinstance(error, errors.Qwen35Error)
    assert isinstance(error, also)
    assert str(error) == "what happened"


def test_error_codes_are_distinct_and_hints_are_text() -> None:
    kinds = [k for k in vars(errors).values() if inspect.isclass(k) and issubclass(k, Exception)]
    assert errors.Qwen35Error in kinds
    assert len({getattr(kind, "code") for kind in kinds}) == len(kinds)  # noqa: B009
    assert all(isinstance(getattr(kind, "hint"), str) for kind in kinds)  # noqa: B009
    assert errors.ModelNotFound("no", hint="there").hint == "there"


def test_records_are_dictionaries_with_attributes() -> None:
    record = types.Completion(id="a", choices=[types.CompletionChoice(text="b")])
    assert record.choices[0].text == record["choices"][0]["text"] == "b"
    with pytest.raises(AttributeError):
        _ = record.usage


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (
            "import qwen35cpp",
            {"numpy", "PIL", "argparse", "cffi", "uuid", "hashlib", "qwen35cpp.chat.model"},
        ),
        ("from qwen35cpp import Llama; Llama.tiny().chat('hi', max_tokens=1)", {"numpy", "PIL"}),
        ("from qwen35cpp import cli; cli.build_parser()", {"numpy", "statistics", "http"}),
    ],
)
def test_what_is_heavy_is_loaded_when_it_is_needed(code: str, heavy: set[str]) -> None:
    code = f"import sys; {code}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
