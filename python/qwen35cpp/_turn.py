"""Who may use the session: callers from any thread are served in the order of their arrival."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from .errors import SessionBusy

_ON_ITS_WAY = -1  # the turn was given to a caller that has not woken up yet


class Turn:
    """A lock with a first-in, first-out queue, for use in a `with` statement.

    A thread that asks while it holds the turn itself gets SessionBusy instead of a deadlock. Any
    thread may release: a stream can be closed by the garbage collector of another one. For the same
    reason every step allows a release in its middle, on the same thread: hence the RLock, and a
    waiter is queued first and served second.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._waiting: deque[threading.Lock] = deque()
        self._holder: int | None = None

    def __enter__(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        with self._mutex:
            if self._holder == threading.get_ident():
                raise SessionBusy("this thread still reads a stream of the same Llama")
            self._waiting.append(gate)
            self._serve()
        try:
            gate.acquire()
            self.adopt()
        except BaseException:  # Ctrl-C while waiting
            self._leave(gate)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def adopt(self) -> None:
        """Makes the calling thread the holder: a stream may move from thread to thread."""
        self._holder = threading.get_ident()

    def release(self) -> None:
        """Gives the turn to the next in the queue."""
        with self._mutex:
            self._holder = None
            self._serve()

    def _serve(self) -> None:
        if self._holder is None and self._waiting:
            self._holder = _ON_ITS_WAY
            self._waiting.popleft().release()

    def _leave(self, gate: threading.Lock) -> None:
        with self._mutex:
            if gate in self._waiting:
                self._waiting.remove(gate)
            else:
                self.release()
