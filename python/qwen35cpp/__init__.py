"""Runs the small Qwen 3.5 models on the CPU.

>>> from qwen35cpp import Llama
>>> llm = Llama("model.gguf")
>>> print(llm.chat("What is the capital of France?"))
>>> print(llm.generate("The capital of France is", max_tokens=8))
"""

from ._generate import TextStream
from ._native import system_info, version
from .chat import (
    CallDelta,
    ChatChunk,
    ChatCompletion,
    ChatCompletionChunk,
    ChatStream,
    ChatText,
    Media,
    Rendered,
    ToolCall,
    function_schema,
)
from .errors import (
    Cancelled,
    ContextTooLong,
    CpuNotSupported,
    FileError,
    ForkedProcess,
    InternalError,
    InvalidArgument,
    MissingExtra,
    ModelInvalid,
    ModelNotFound,
    ModelUnsupported,
    NotEnoughMemory,
    NotSupported,
    Qwen35Error,
    SessionBusy,
    SessionClosed,
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
)

__version__ = version()

__all__ = [
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
    "EmbeddingResponse",
    "FileError",
    "ForkedProcess",
    "InternalError",
    "InvalidArgument",
    "Llama",
    "Media",
    "MissingExtra",
    "ModelInfo",
    "ModelInvalid",
    "ModelNotFound",
    "ModelUnsupported",
    "NotEnoughMemory",
    "NotSupported",
    "Qwen35Error",
    "Rendered",
    "Sampling",
    "SessionBusy",
    "SessionClosed",
    "Text",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "function_schema",
    "recommended",
    "system_info",
    "version",
]
