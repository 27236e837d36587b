"""The chat page: a few static files that come with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = ("index.html", "style.css", "icon.svg", "app.js", "chat.js", "markdown.js", "store.js")
# Nothing from elsewhere, nothing inline; pictures are those that were dropped into the page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes() -> list[Route]:
    """The page at / and its files at /page/."""
    files = [Route(f"/page/{name}", _endpoint(name)) for name in _FILES[1:]]
    return [Route("/", _endpoint(_FILES[0])), *files]


def _endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    data = resources.files(__package__).joinpath("page").joinpath(name).read_bytes()
    kind = _TYPES[name.rsplit(".", 1)[1]]
    headers = {
        "content-security-policy": _POLICY,
        "cache-control": "no-cache",
        "etag": f'"{hashlib.sha256(data).hexdigest()[:16]}"',
    }

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=f"{kind}; charset=utf-8", headers=headers)

    return serve
