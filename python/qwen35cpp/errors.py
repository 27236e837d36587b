"""What can go wrong, one class each. All derive from Qwen35Error and carry a code and a hint."""

from __future__ import annotations


class Qwen35Error(Exception):
    """Base of every error raised by qwen35cpp.

    `code` is a short stable name for programs, `hint` says what to do about it ("" when there is
    nothing useful to say); `str(error)` is one sentence.
    """

    code = "error"
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class InvalidArgument(Qwen35Error, ValueError):
    """An argument is out of range."""

    code = "invalid_argument"


class ModelNotFound(Qwen35Error, FileNotFoundError):
    """There is no file at the path of the model."""

    code = "model_not_found"

    def __str__(self) -> str:
        """The sentence alone, without the errno form of OSError."""
        return str(self.args[0])


class FileError(Qwen35Error, OSError):
    """The operating system refused to open, read or write a file."""

    code = "file_error"

    def __str__(self) -> str:
        """The sentence alone, without the errno form of OSError."""
        return str(self.args[0])


class ModelInvalid(Qwen35Error, ValueError):
    """The file is not a valid model; the message names key, offset, expected and found."""

    code = "model_invalid"
    hint = "the file may be cut short or damaged: compare its size and checksum with the source"


class ModelUnsupported(Qwen35Error):
    """The file is valid but of a kind that this engine does not run."""

    code = "model_unsupported"
    hint = "qwen35cpp runs GGUF files of architecture qwen35 (Qwen 3.5 0.8B, 2B, 4B, 9B)"


class NotEnoughMemory(Qwen35Error, MemoryError):
    """The model or its context does not fit into memory."""

    code = "not_enough_memory"
    hint = "use a smaller n_ctx, a smaller model or a stronger quantisation such as Q4_K_M"


class ContextTooLong(Qwen35Error, ValueError):
    """More tokens than the context holds."""

    code = "context_too_long"
    hint = "open the model with a larger n_ctx or shorten the prompt"


class StateInvalid(Qwen35Error, ValueError):
    """A saved state is damaged, or belongs to another model or other settings."""

    code = "state_invalid"


class ImageInvalid(Qwen35Error, ValueError):
    """A picture or video cannot be read, or exceeds a limit."""

    code = "image_invalid"


class TemplateInvalid(Qwen35Error, ValueError):
    """A custom chat template is none, fails, or exceeds a limit; the message names its line."""

    code = "template_invalid"
    hint = "without chat_template the format of the Qwen 3.5 models is used, and no template is run"


class VisionMissing(Qwen35Error):
    """The model has no vision tower: pictures cannot be shown to it."""

    code = "vision_missing"
    hint = "pass the projector file that belongs to the model: Llama(path, mmproj=...)"


class Cancelled(Qwen35Error):
    """The request was stopped by `Llama.cancel()`."""

    code = "cancelled"


class CpuNotSupported(Qwen35Error):
    """This CPU, or the instruction set asked for in QWEN35_ISA, cannot run the engine."""

    code = "cpu_not_supported"
    hint = "unset QWEN35_ISA, or set it to a tier that `qwen35cpp doctor` lists"


class InternalError(Qwen35Error):
    """A bug in the engine."""

    code = "internal_error"
    hint = "this is a bug: please report it together with the message"


class NotSupported(Qwen35Error, NotImplementedError):
    """The request is valid but asks for what this version cannot do."""

    code = "not_supported"


class MissingExtra(Qwen35Error, ImportError):
    """A package that only this function needs is not installed."""

    code = "missing_extra"


class SchemaError(InvalidArgument):
    """A schema, regular expression or choice cannot be enforced, and is therefore refused.

    `path` is the place in the schema, such as "#/properties/age", and `keyword` the keyword there
    that stands in the way; "" where there is no such.
    """

    code = "schema_error"

    def __init__(
        self, message: str, *, path: str = "", keyword: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.path, self.keyword = path, keyword


class AnswerInvalid(Qwen35Error, ValueError):
    """An answer is not what its schema asks for: it was cut off, or a class refuses its values."""

    code = "answer_invalid"


class SessionBusy(Qwen35Error, RuntimeError):
    """This thread already reads a stream of the same Llama."""

    code = "session_busy"
    hint = "read the stream to its end or close() it first, or use a second Llama"


class SessionClosed(Qwen35Error, RuntimeError):
    """The Llama was closed."""

    code = "session_closed"


class ForkedProcess(Qwen35Error, RuntimeError):
    """The model was opened before fork(): its threads do not exist in the child process."""

    code = "forked_process"
    hint = "open the model in the child process, or start processes with the 'spawn' method"


# In the order of the QWEN35_ERROR_* codes of qwen35.h, which start at 1.
_BY_STATUS: tuple[type[Qwen35Error], ...] = (
    InvalidArgument,
    FileError,
    ModelInvalid,
    ModelUnsupported,
    NotEnoughMemory,
    ContextTooLong,
    Cancelled,
    CpuNotSupported,
    InternalError,
)


def from_status(status: int, message: str) -> Qwen35Error:
    """The exception for a status of the C API other than QWEN35_OK."""
    known = 1 <= status <= len(_BY_STATUS)
    kind = _BY_STATUS[status - 1] if known else InternalError
    return kind(message or f"the engine failed with status {status}")
