"""The application: which path does what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..llama import Llama
from . import chat_completions, completions, decisions, messages, pages, responses
from .answers import Context
from .errors import HttpError, anthropic_error, as_http_error, openai_error
from .guard import Guard, is_anthropic
from .jobs import Event, Job, Jobs
from .metrics import Metrics
from .reply import Reply, send_json
from .settings import Settings

Work = Callable[[Job], Iterator[Event]]
Parse = Callable[[Context, bytes], "tuple[Work, bool] | Work"]


def create_app(llama: Llama, settings: Settings) -> Starlette:
    """An ASGI application that serves a model. The Llama stays the caller's to close."""
    server = _Server(llama, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await server.jobs.close()

    post = server.endpoint
    routes = [
        Route("/health", server.health),
        Route("/metrics", server.measured),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.model),
        Route(
            "/v1/chat/completions",
            post(chat_completions.chat_work, chat_completions.stream_error),
            methods=["POST"],
        ),
        Route(
            "/v1/completions",
            post(completions.completion_work, chat_completions.stream_error),
            methods=["POST"],
        ),
        Route("/v1/embeddings", post(completions.embedding_work), methods=["POST"]),
        Route("/v1/decisions", post(decisions.decision_work), methods=["POST"]),
        Route(
            "/v1/responses", post(responses.response_work, responses.stream_error), methods=["POST"]
        ),
        Route("/v1/messages", post(messages.message_work, messages.stream_error), methods=["POST"]),
        Route("/v1/messages/count_tokens", post(messages.count_work), methods=["POST"]),
        *pages.routes(),
    ]
    middleware = [Middleware(Guard, settings=settings, metrics=server.context.metrics)]
    if settings.cors_origins:
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            ),
        )
    handlers: dict[Any, Any] = {404: _not_found, 405: _not_found}
    return Starlette(
        routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers
    )


class _Failure:
    """An error as a response."""

    def __init__(self, path: str, error: HttpError) -> None:
        self._body = anthropic_error(error) if is_anthropic(path) else openai_error(error)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_json(send, self._error.status, self._body, self._error.headers)


async def _not_found(request: Request, error: Any) -> Any:
    status = error.status_code
    path = request.url.path
    what = "is not served here" if status == 404 else f"takes no {request.method}"
    return _Failure(path, HttpError(status, f"{path} {what}", code="not_found"))


class _Server:
    """The endpoints and what they share."""

    def __init__(self, llama: Llama, settings: Settings) -> None:
        self._settings = settings
        name = settings.name or Path(llama.model_path).stem
        self.context = Context(llama, name, settings, Metrics())
        self.jobs = Jobs(settings.parallel, settings.queue, settings.timeout)
        self._created = int(Path(llama.model_path).stat().st_mtime)

    def endpoint(
        self, parse: Parse, stream_error: Callable[[HttpError], Event] | None = None
    ) -> Callable[[Request], Awaitable[Any]]:
        """An endpoint from a function that turns a body into work."""

        async def handle(request: Request) -> Any:
            path = request.url.path
            try:
                data = await self._body(request)
                # Large bodies take a while to parse: not on the event loop.
                parsed = await asyncio.to_thread(_parsed, parse, self.context, data)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                return _Failure(path, as_http_error(error))
            work, stream = parsed if isinstance(parsed, tuple) else (parsed, False)
            return Reply(
                self.jobs,
                work,
                stream=stream,
                stalled=self._settings.stalled,
                error_body=anthropic_error if is_anthropic(path) else openai_error,
                error_event=stream_error,
            )

        return handle

    async def _body(self, request: Request) -> bytes:
        """The body, within the limits of size and patience."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(415, "the body must be JSON: content-type application/json")
        most = self._settings.max_body
        too_large = HttpError(413, f"a request may have {most:,} bytes", code="body_too_large")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        chunks = request.stream()
        while True:
            try:
                with anyio.fail_after(self._settings.body_idle):
                    part = await chunks.__anext__()
            except StopAsyncIteration:
                return b"".join(parts)
            except TimeoutError:
                raise HttpError(408, "the request did not arrive", code="timeout") from None
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)

    # ---- what answers at once -------------------------------------------------------------------

    async def health(self, request: Request) -> Any:
        """Says that the server lives, and how busy it is."""
        del request
        busy = {"running": self.jobs.running, "waiting": self.jobs.waiting}
        return _Json({"status": "ok", **busy})

    async def measured(self, request: Request) -> Response:
        """Counters for Prometheus."""
        del request
        gauges = {"running": self.jobs.running, "waiting": self.jobs.waiting}
        text = self.context.metrics.text(gauges)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _model(self) -> dict[str, Any]:
        llama = self.context.llama
        return {
            "id": self.context.name,
            "object": "model",
            "created": self._created,
            "owned_by": "qwen35cpp",
            "type": "model",  # Anthropic's, with the name that follows
            "display_name": self.context.name,
            "meta": {
                "n_ctx": llama.n_ctx(),
                "n_vocab": llama.n_vocab(),
                "n_embd": llama.n_embd(),
                "n_params": llama.info.n_params,
                "thinks": llama._chat().thinks_by_default,
            },
        }

    async def models(self, request: Request) -> Any:
        """The list of the one model, in the forms of OpenAI and Anthropic at once."""
        del request
        name = self.context.name
        page = {"has_more": False, "first_id": name, "last_id": name}
        return _Json({"object": "list", "data": [self._model()], **page})

    async def model(self, request: Request) -> Any:
        """The model by its name."""
        name = request.path_params["name"]
        if name != self.context.name:
            error = HttpError(404, f"there is no model {name[:100]!r}", code="model_not_found")
            return _Failure(request.url.path, error)
        return _Json(self._model())


class _Json:
    """A JSON response."""

    def __init__(self, value: Any) -> None:
        self._value = value

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_json(send, 200, self._value, {"cache-control": "no-store"})


def _parsed(parse: Parse, context: Context, data: bytes) -> tuple[Work, bool] | Work:
    try:
        return parse(context, data)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise HttpError(400, f"the body is not valid JSON: {error}", code="json") from None
