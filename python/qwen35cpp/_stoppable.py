"""Calls in worker threads that can be told to stop within a token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ._generate import Stream
from .errors import Cancelled
from .types import Chunk, Text

C = TypeVar("C", bound=Chunk)
T = TypeVar("T", bound=Text)


class Stop:
    """A request to stop, from any thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Stops the calls that look here, soon."""
        self._asked.set()

    def check(self) -> None:
        """Raises Cancelled when it was asked for."""
        if self._asked.is_set():
            raise Cancelled("cancelled")

    def watched(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a call whose prompt can be stopped: its progress function looks here."""
        progress = options.get("progress")

        def report(done: int, total: int) -> None:
            self.check()
            if progress is not None:
                progress(done, total)

        return {**options, "progress": report}

    def drain(self, stream: Stream[C, T], chunk: Callable[[C], None] | None = None) -> T:
        """Reads a stream to its end, giving each chunk to `chunk`; Cancelled when stopped."""
        with stream:
            for item in stream:
                self.check()
                if chunk is not None:
                    chunk(item)
            return stream.drain()
