"""Runs the small Qwen 3.5 models on the CPU.

>>> from qwen35cpp import Llama
>>> llm = Llama("model.gguf")
>>> print(llm.chat("What is the capital of France?"))
>>> print(llm.generate("The capital of France is", max_tokens=8))
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._generate import TextStream
from ._native import system_info, version
from .errors import (
    AnswerInvalid,
    Cancelled,
    ContextTooLong,
    CpuNotSupported,
    FileError,
    ForkedProcess,
    ImageInvalid,
    InternalError,
    InvalidArgument,
    MissingExtra,
    ModelInvalid,
    ModelNotFound,
    ModelUnsupported,
    NotEnoughMemory,
    NotSupported,
    Qwen35Error,
    SchemaError,
    SessionBusy,
    SessionClosed,
    StateInvalid,
    TemplateInvalid,
    VisionMissing,
)
from .llama import Llama
from .sampling import Sampling, recommended
from .types import (
    Chunk,
    Completion,
    EmbeddingResponse,
    ModelInfo,
    Text,
    Timings,
    TokenLogprob,
    Usage,
    VisionInfo,
)

if TYPE_CHECKING:
    from ._map import Mapped
    from .aio import AsyncLlama, AsyncStream
    from .chat.answer import ChatChunk, ChatText, ToolCall
    from .chat.calls import CallDelta
    from .chat.conversation import ChatStream
    from .chat.openai import ChatCompletion, ChatCompletionChunk
    from .chat.render import Media, Rendered
    from .chat.tools import function_schema
    from .decisions.decide import Decision, Label
    from .decisions.fields import Field
    from .decisions.rank import Ranked
    from .decisions.score import Score
    from .session import Session, Snapshot

__version__ = version()

# Names whose modules are imported at their first use: half of the time that importing would take.
_LATER = {
    "AsyncLlama": "aio",
    "AsyncStream": "aio",
    "CallDelta": "chat.calls",
    "ChatChunk": "chat.answer",
    "ChatCompletion": "chat.openai",
    "ChatCompletionChunk": "chat.openai",
    "ChatStream": "chat.conversation",
    "ChatText": "chat.answer",
    "Decision": "decisions.decide",
    "Field": "decisions.fields",
    "Label": "decisions.decide",
    "Mapped": "_map",
    "Media": "chat.render",
    "Ranked": "decisions.rank",
    "Rendered": "chat.render",
    "Score": "decisions.score",
    "Session": "session",
    "Snapshot": "session",
    "ToolCall": "chat.answer",
    "function_schema": "chat.tools",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


__all__ = [
    "AnswerInvalid",
    "AsyncLlama",
    "AsyncStream",
    "CallDelta",
    "Cancelled",
    "ChatChunk",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatStream",
    "ChatText",
    "Chunk",
    "Completion",
    "ContextTooLong",
    "CpuNotSupported",
    "Decision",
    "EmbeddingResponse",
    "Field",
    "FileError",
    "ForkedProcess",
    "ImageInvalid",
    "InternalError",
    "InvalidArgument",
    "Label",
    "Llama",
    "Mapped",
    "Media",
    "MissingExtra",
    "ModelInfo",
    "ModelInvalid",
    "ModelNotFound",
    "ModelUnsupported",
    "NotEnoughMemory",
    "NotSupported",
    "Qwen35Error",
    "Ranked",
    "Rendered",
    "Sampling",
    "SchemaError",
    "Score",
    "Session",
    "SessionBusy",
    "SessionClosed",
    "Snapshot",
    "StateInvalid",
    "TemplateInvalid",
    "Text",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "VisionInfo",
    "VisionMissing",
    "function_schema",
    "recommended",
    "system_info",
    "version",
]
