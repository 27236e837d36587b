"""Who may use which slot: callers from any thread are served in the order of their arrival."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import SessionBusy

if TYPE_CHECKING:
    from typing_extensions import Self

# A waiter looks this often, in seconds, whether a holder vanished or the engine was closed.
_LOOK = 0.5

S = TypeVar("S")


class Turn(Generic[S]):
    """A queue for slots, first in, first out: `with turn.hold() as held: held.slot ...`.

    A thread that asks while no slot is free and it holds one itself gets SessionBusy instead of a
    deadlock. Any thread may release: a stream can be closed by the garbage collector of another
    one. For the same reason every step allows a release in its middle, on the same thread: hence
    the RLock, and a waiter is queued first and served second. The holders are referred to weakly,
    so that a slot comes back even when Ctrl-C hits the very step into __exit__: as soon as the
    KeyboardInterrupt, whose traceback refers to the holder, has been handled.
    """

    def __init__(self, check: Callable[[], None], slots: Sequence[S]) -> None:
        """`check` raises when there is nothing to wait for any more."""
        self.check = check
        self._mutex = threading.RLock()
        self._slots = list(slots)
        self._holders: list[weakref.ref[Hold[S]] | None] = [None] * len(self._slots)
        self._waiting: list[Hold[S]] = []

    def hold(
        self, choose: Callable[[Sequence[S]], S] | None = None, *, only: S | None = None
    ) -> Hold[S]:
        """A context manager: inside it a slot belongs to the caller.

        `choose` picks one of those that are free, the first by default; it must not fail. `only`
        waits for that one.
        """
        return Hold(self, choose, only)

    def _holder(self, index: int) -> Hold[S] | None:
        holder = self._holders[index]
        return None if holder is None else holder()

    def _candidates(self, hold: Hold[S]) -> list[int]:
        return [i for i, slot in enumerate(self._slots) if hold.only in (None, slot)]

    def _join(self, hold: Hold[S]) -> None:
        with self._mutex:
            holders = [self._holder(i) for i in self._candidates(hold)]
            mine = [other for other in holders if other and other.thread == hold.thread]
            if mine and None not in holders:
                raise SessionBusy("this thread still reads a stream of the same Llama")
            self._waiting.append(hold)
            self._serve()

    def _serve(self) -> None:
        """Gives free slots to those who wait, the first in the queue first."""
        with self._mutex:
            for hold in list(self._waiting):
                free = [i for i in self._candidates(hold) if self._holder(i) is None]
                if free:
                    self._waiting.remove(hold)
                    self._give(hold, free)

    def _give(self, hold: Hold[S], free: Sequence[int]) -> None:
        slots = [self._slots[i] for i in free]
        index = free[0 if hold.choose is None else slots.index(hold.choose(slots))]
        self._holders[index] = weakref.ref(hold)
        hold.index, hold.slot = index, self._slots[index]
        hold.gate.release()

    def _look(self) -> None:
        self.check()
        self._serve()

    def _leave(self, hold: Hold[S]) -> None:
        """Releases the slot if `hold` has one, else leaves the queue."""
        with self._mutex:
            with contextlib.suppress(ValueError):
                self._waiting.remove(hold)
            if hold.index is not None and self._holder(hold.index) is hold:
                self._holders[hold.index] = None
            self._serve()


class Hold(Generic[S]):
    """One caller's place in the queue and then its slot."""

    slot: S  # once it is held

    def __init__(
        self, turn: Turn[S], choose: Callable[[Sequence[S]], S] | None, only: S | None
    ) -> None:
        self._turn = turn
        self.choose, self.only = choose, only
        self.index: int | None = None
        self.thread = threading.get_ident()
        self.gate = threading.Lock()  # released when the turn comes
        self.gate.acquire()

    def adopt(self) -> None:
        """Makes the calling thread the holder: a stream may move from thread to thread."""
        self.thread = threading.get_ident()

    def __enter__(self) -> Self:
        self.thread = threading.get_ident()
        self._turn.check()  # first: in a forked child the locks may be held by nobody
        try:
            self._turn._join(self)
            while not self.gate.acquire(timeout=_LOOK):
                self._turn._look()
        except BaseException:  # Ctrl-C while waiting
            self._turn._leave(self)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._turn._leave(self)
        except BaseException:  # Ctrl-C while leaving
            self._turn._leave(self)
            raise
