"""The answer to a request: JSON when the work is done, or events while it is being done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from starlette.types import Message, Receive, Scope, Send

from .errors import HttpError, as_http_error
from .jobs import Event, Job, Jobs, Work

_KEEP_ALIVE = 10.0  # seconds of silence after which a comment is sent

ErrorBody = Callable[[HttpError], dict[str, Any]]


def encoded(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def as_event(event: Event) -> bytes:
    """A server-sent event of JSON; of a string, the string itself."""
    name, value = event if isinstance(event, tuple) else (None, event)
    data = value.encode() if isinstance(value, str) else encoded(value)
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + data + b"\n\n"


class Reply:
    """Does the work of a request and sends what comes of it.

    When the client leaves, its work is stopped, or taken out of the queue.
    """

    def __init__(
        self,
        jobs: Jobs,
        work: Work,
        *,
        stream: bool,
        stalled: float,
        error_body: ErrorBody,
        error_event: Callable[[HttpError], Event] | None = None,
    ) -> None:
        self._jobs, self._work, self._stream, self._stalled = jobs, work, stream, stalled
        self._error_body, self._error_event = error_body, error_event or error_body
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Works and sends."""
        del scope

        async def patient(message: Message) -> None:
            with anyio.fail_after(self._stalled):
                await send(message)

        # anyio and not asyncio.wait_for, which may swallow a cancellation before Python 3.12.
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._answer(patient)
            tasks.cancel_scope.cancel()

    async def _answer(self, send: Send) -> None:
        # OSError: the client left. TimeoutError: it takes nothing any more.
        with contextlib.suppress(OSError, TimeoutError):
            try:
                async with self._jobs.run(self._work) as job:
                    first = await job.next()
                    if self._stream:
                        await self._send_events(job, first, send)
                    else:
                        await send_json(send, 200, first)
            except (OSError, TimeoutError):
                raise
            except Exception as error:
                await self._send_error(as_http_error(error), send)

    async def _send_events(self, job: Job, first: Event, send: Send) -> None:
        headers = {"content-type": "text/event-stream", "cache-control": "no-store"}
        await send(_start(200, headers))
        self._begun = True
        data = as_event(first)
        while True:
            ended = False
            try:
                while job.waiting:  # what is there goes out together
                    data += as_event(await job.next())
            except StopAsyncIteration:
                ended = True
            await send({"type": "http.response.body", "body": data, "more_body": not ended})
            if ended:
                return
            data = b": still at work\n\n"
            with anyio.move_on_after(_KEEP_ALIVE):
                try:
                    data = as_event(await job.next())
                except StopAsyncIteration:
                    await send({"type": "http.response.body", "body": b""})
                    return

    async def _send_error(self, error: HttpError, send: Send) -> None:
        if self._begun:
            data = as_event(self._error_event(error))
            await send({"type": "http.response.body", "body": data})
        else:
            await send_json(send, error.status, self._error_body(error), error.headers)


async def send_json(
    send: Send, status: int, value: Any, headers: Mapping[str, str] | None = None
) -> None:
    """A whole response."""
    data = encoded(value)
    await send(_start(status, {"content-type": "application/json", **(headers or {})}, len(data)))
    await send({"type": "http.response.body", "body": data})


def _start(status: int, headers: Mapping[str, str], length: int | None = None) -> Message:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    if length is not None:
        pairs.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": pairs}
