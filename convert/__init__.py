"""Converter: Qwen 3.5 checkpoints to GGUF, requantising, inspection, verification.

>>> from qwen35cpp.convert import convert, verify
>>> convert("Qwen3.5-0.8B", "model.gguf", "q4_k_m")
>>> verify("model.gguf")
[]
"""

from ._errors import CheckpointError, ConversionError, DiskSpaceError
from .hf_to_gguf import ConvertResult, convert
from .inspect import FileInfo, TensorInfo, info
from .quantize import quantize
from .verify import verify

__all__ = [
    "CheckpointError",
    "ConversionError",
    "ConvertResult",
    "DiskSpaceError",
    "FileInfo",
    "TensorInfo",
    "convert",
    "info",
    "quantize",
    "verify",
]
