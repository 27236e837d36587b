"""Who may use the session: callers from any thread are served in the order of their arrival."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType

from .errors import SessionBusy

# A waiter looks this often, in seconds, whether the holder vanished or the engine was closed.
_LOOK = 0.5


class Turn:
    """A queue, first in, first out: `with turn.hold(): ...`.

    A thread that asks while it holds the turn itself gets SessionBusy instead of a deadlock. Any
    thread may release: a stream can be closed by the garbage collector of another one. For the same
    reason every step allows a release in its middle, on the same thread: hence the RLock, and a
    waiter is queued first and served second. The holder is referred to weakly, so that the turn
    comes back even when Ctrl-C hits the very code that gives it back.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` raises when there is nothing to wait for any more."""
        self._check = check
        self._mutex = threading.RLock()
        self._waiting: deque[Hold] = deque()
        self._holder: weakref.ref[Hold] | None = None

    def hold(self) -> Hold:
        """A context manager: inside it the turn belongs to the caller."""
        return Hold(self)

    def adopt(self) -> None:
        """Makes the calling thread the holder: a stream may move from thread to thread."""
        holder = self._held_by()
        if holder is not None:
            holder.thread = threading.get_ident()

    def _held_by(self) -> Hold | None:
        return self._holder() if self._holder is not None else None

    def _join(self, hold: Hold) -> None:
        self._check()  # first: in a forked child the locks may be held by nobody
        with self._mutex:
            holder = self._held_by()
            if holder is not None and holder.thread == hold.thread:
                raise SessionBusy("this thread still reads a stream of the same Llama")
            self._waiting.append(hold)
            self._serve()

    def _serve(self) -> None:
        """Gives a free turn to the first in the queue."""
        with self._mutex:
            if self._held_by() is None and self._waiting:
                first = self._waiting.popleft()
                self._holder = weakref.ref(first)
                first.gate.release()

    def _look(self) -> None:
        self._check()
        self._serve()

    def _leave(self, hold: Hold) -> None:
        """Releases the turn if `hold` has it, else leaves the queue."""
        with self._mutex:
            with contextlib.suppress(ValueError):
                self._waiting.remove(hold)
            if self._held_by() is hold:
                self._holder = None
            self._serve()


class Hold:
    """One caller's place in the queue and then its turn."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.thread = threading.get_ident()
        self.gate = threading.Lock()  # released when the turn comes
        self.gate.acquire()

    def __enter__(self) -> None:
        self.thread = threading.get_ident()
        self._turn._join(self)
        try:
            while not self.gate.acquire(timeout=_LOOK):
                self._turn._look()
        except BaseException:  # Ctrl-C while waiting
            self._turn._leave(self)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._turn._leave(self)
