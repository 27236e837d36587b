"""Runs the small Qwen 3.5 models on the CPU.

>>> from qwen35cpp import Llama
>>> llm = Llama("model.gguf")
>>> print(llm.generate("The capital of France is", max_tokens=8))
"""

from ._generate import TextStream
from ._native import system_info, version
from .errors import (
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
    Qwen35Error,
    SessionBusy,
    SessionClosed,
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

__version__ = version()

__all__ = [
    "Cancelled",
    "Chunk",
    "Completion",
    "ContextTooLong",
    "CpuNotSupported",
    "EmbeddingResponse",
    "FileError",
    "ForkedProcess",
    "ImageInvalid",
    "InternalError",
    "InvalidArgument",
    "Llama",
    "MissingExtra",
    "ModelInfo",
    "ModelInvalid",
    "ModelNotFound",
    "ModelUnsupported",
    "NotEnoughMemory",
    "Qwen35Error",
    "Sampling",
    "SessionBusy",
    "SessionClosed",
    "Text",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "Usage",
    "VisionInfo",
    "VisionMissing",
    "recommended",
    "system_info",
    "version",
]
