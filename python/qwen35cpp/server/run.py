"""Runs the application: until it is told to end, or beside the caller's own code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import FileError
from ..llama import Llama
from .app import create_app
from .settings import Settings

_HEADERS_DUE = 10.0  # seconds that a new connection has for its first request
_CONNECTIONS = 4096  # cheap ones; the usual limit of 1,024 files is met by that many slow clients


class _Protocol(H11Protocol):
    """Closes connections that never ask for anything."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._due = self.loop.call_later(_HEADERS_DUE, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._due.cancel()
        super().connection_lost(exc)

    def _late(self) -> None:
        if self.cycle is None:  # no request has come
            self.transport.close()


def serve(llama: Llama, settings: Settings, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; `ready` gets the address.

    The first signal lets answers go on for `settings.grace` seconds, a second one does not.
    """
    with _bound(settings) as listener:
        server = _server(llama, settings)
        ready(_url(listener))
        # uvicorn raises the signals that it caught again when it is done.
        before = signal.signal(signal.SIGTERM, _ignore)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.run([listener])
        finally:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def serving(llama: Llama, settings: Settings) -> Iterator[str]:
    """Serves in a thread while the context lasts; gives the address."""
    with _bound(settings) as listener:
        server = _server(llama, settings)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(0.005)
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join()


def _server(llama: Llama, settings: Settings) -> uvicorn.Server:
    _allow_connections()
    config = uvicorn.Config(
        create_app(llama, settings),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(settings.grace),
    )
    return uvicorn.Server(config)


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named asyncio turns Nagle's delay off, 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise FileError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}",
            hint="another server may run there: choose another --port, 0 takes a free one",
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _allow_connections() -> None:
    """Raises this process' limit of open files as far as it may."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, _CONNECTIONS)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _ignore(number: int, frame: FrameType | None) -> None:
    del number, frame
