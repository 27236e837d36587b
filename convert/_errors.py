"""Errors of the converter: the one place where `qwen35cpp.errors` is imported.

Each says what was wrong, where, and through `.hint` what to do about it.
"""

from __future__ import annotations

from qwen35cpp.errors import Qwen35Error


class ConversionError(Qwen35Error):
    """The checkpoint or the model file cannot be converted as asked."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = "conversion"
        self.hint = hint or ""


class CheckpointError(ConversionError):
    """The Hugging Face folder is damaged, incomplete, unsafe or of another architecture."""


class DiskSpaceError(ConversionError):
    """The output does not fit on the disk."""


__all__ = ["CheckpointError", "ConversionError", "DiskSpaceError", "Qwen35Error"]
