"""What went wrong -> status, and an error body in the form of the protocol that was asked in."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from ..errors import (
    Cancelled,
    ImageInvalid,
    InternalError,
    NotEnoughMemory,
    Qwen35Error,
    SessionClosed,
)

log = logging.getLogger("qwen35cpp.server")

# The names that OpenAI and Anthropic share.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class HttpError(Exception):
    """A refusal with everything that its body says."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.code, self.param = code, param
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}

    @property
    def type(self) -> str:
        """The kind of the error in the words of OpenAI and Anthropic."""
        return _TYPES.get(self.status, "api_error")


def bad(message: str, param: str | None = None) -> HttpError:
    """A request that cannot be served."""
    return HttpError(400, message, code="invalid_argument", param=param)


def as_http_error(error: BaseException) -> HttpError:
    """The refusal for any exception. What nobody foresaw is logged and not told."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, msgspec.ValidationError):
        what, _, where = str(error).partition(" - at `$")
        return bad(f"{where.strip('.`')}: {what}" if where else what, where.strip(".`") or None)
    if isinstance(error, (Cancelled, SessionClosed)):
        return HttpError(503, "the server is shutting down", code=error.code, retry_after=5)
    if isinstance(error, (NotEnoughMemory, MemoryError)):
        return HttpError(503, "not enough memory", code="not_enough_memory", retry_after=5)
    if isinstance(error, Qwen35Error) and not isinstance(error, InternalError):
        message = str(error)
        if isinstance(error, ImageInvalid) and error.__cause__ is not None:
            message = message.split(": ")[0]  # no word of a decoder
        hint = f" ({error.hint})" if error.hint else ""
        return HttpError(400, message + hint, code=error.code)
    log.error("a request failed", exc_info=error)
    return HttpError(500, "the server failed; its log says why", code="internal_error")


def openai_error(error: HttpError) -> dict[str, Any]:
    """The body in OpenAI's form."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def anthropic_error(error: HttpError) -> dict[str, Any]:
    """The body in Anthropic's form."""
    return {"type": "error", "error": {"type": error.type, "message": error.message}}
