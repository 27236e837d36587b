"""Who is inside the engine: nothing is freed while a call is under way."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from ._handles import Model, Session
from .errors import ForkedProcess, SessionClosed

if TYPE_CHECKING:
    from .vision import Tower


class Alive:
    """Counts the calls under way; the last one to leave frees what close() asked to free."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._sessions: list[Session] = []
        self.tower: Tower | None = None
        self._lock = threading.RLock()  # reentrant: garbage collection may close in its middle
        self._pid = os.getpid()
        self._users = 0
        self.closed = False
        self.cancels = 0  # how often cancel() or close() was called

    def check(self) -> None:
        """Raises when no call can be made any more."""
        if os.getpid() != self._pid:
            raise ForkedProcess("this Llama was opened before the process forked")
        if self.closed:
            raise SessionClosed("this Llama was closed")

    def __enter__(self) -> None:
        self.check()
        with self._lock:
            self.check()
            self._users += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._users -= 1
            self._free_if_unused()

    def add(self, session: Session) -> Session:
        """Has a session freed in the end. The caller is inside."""
        with self._lock:
            self._sessions.append(session)
            if self.closed:
                session.cancel()
        return session

    def remove(self, session: Session) -> None:
        """Frees a session that nobody uses any more. The caller is inside."""
        with self._lock:
            self._sessions.remove(session)
        session.close()

    def cancel(self) -> None:
        """Stops what the sessions and the tower are doing."""
        with self._lock:
            self.cancels += 1
            for session in self._sessions:
                session.cancel()
            if self.tower is not None:
                self.tower.cancel()

    def close(self) -> None:
        """Stops everything and frees it when the last call has left."""
        if os.getpid() != self._pid:
            return  # the threads to join live in the parent process
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self.cancel()
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self.closed and not self._users:
            for session in self._sessions:
                session.close()
            if self.tower is not None:
                self.tower.close()
            self._model.close()
