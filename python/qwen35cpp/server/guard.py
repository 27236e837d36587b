"""Who may ask: checked before a request reaches its endpoint."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import HttpError, anthropic_error, openai_error
from .metrics import Metrics
from .reply import send_json
from .settings import Settings

# A page that is open may be loaded, and a health probe has no key.
_OPEN = frozenset({"/", "/health"})
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def is_anthropic(path: str) -> bool:
    """Whether a path speaks Anthropic's protocol."""
    return path.startswith("/v1/messages")


class Guard:
    """Checks Host, Origin and key, and counts the requests."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.responded(path, message["status"])
                names = {name for name, _ in message["headers"]}
                message["headers"] += [pair for pair in _HEADERS if pair[0] not in names]
            await send(message)

        try:
            self._check(Headers(scope=scope), path)
        except HttpError as error:
            body = anthropic_error(error) if is_anthropic(path) else openai_error(error)
            await send_json(counted, error.status, body, error.headers)
            return
        await self._app(scope, receive, counted)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        if not self._settings.accepts_host(host):
            raise HttpError(
                403, "this server does not go by that name (--allow-host adds one)", code="host"
            )
        origin = headers.get("origin")
        if origin is not None and not self._accepts_origin(origin, host):
            raise HttpError(
                403, "pages of other origins may not ask (--cors-origin)", code="origin"
            )
        if self._keys and path not in _OPEN and not path.startswith("/page/"):
            self._check_key(headers)

    def _accepts_origin(self, origin: str, host: str) -> bool:
        own = bool(host) and urlsplit(origin).netloc.lower() == host.lower()
        return own or origin in self._settings.cors_origins

    def _check_key(self, headers: Headers) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
        data = given.strip().encode()
        # All keys are compared, in constant time each.
        if not any([hmac.compare_digest(data, key) for key in self._keys]):  # noqa: C419
            raise HttpError(401, "a valid API key is needed", code="invalid_api_key")
