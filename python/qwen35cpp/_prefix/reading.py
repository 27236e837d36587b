"""Prompts that are read at this moment, so that what they have in common is read once.

A prompt that has much in common with one that another slot is reading waits until that one has left
a state for it: at a boundary, or where the two part, which the reader is asked for if it has not
come there yet. Then, or when the reader has ended in whatever way, it looks again at what is known;
of several that do, the first reads on and the others wait for it. Who waits reads nothing, so
nobody waits in a circle.
"""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from .boundaries import Plan
from .tree import common_length

if TYPE_CHECKING:
    from typing_extensions import Self

WORTH = 256  # tokens; fewer are read rather than waited for
_LOOK = 0.1  # seconds between two looks of who waits
_STALLED = 1.0  # seconds that a reader's progress function may take before nobody waits for it


class Reading:
    """A prompt while a slot reads it; a context manager around that.

    Attributes:
        passed: tokens read; the states due before them are in the tree.
        places: where states are left on the way.
    """

    def __init__(
        self,
        lock: threading.RLock,
        tokens: Sequence[int],
        plan: Plan,
        known: int,
        places: set[int],
    ) -> None:
        self._lock = lock
        self._tokens, self._plan = tokens, plan
        self.passed, self.places = known, places
        self._end = known  # of the part that is evaluated now
        self._thread = threading.get_ident()
        self._told: float | None = None  # since when the progress function is at work
        self._gates: list[tuple[int, _thread.LockType]] = []  # of those who wait for a place
        self.over = False

    # ---- the reader's side -----------------------------------------------------------------------

    def begin_part(self, end: int) -> list[int]:
        """To be called before the part that ends at `end`; where states are due within it."""
        with self._lock:
            self._end = end
            return sorted(place for place in self.places if self.passed < place <= end)

    def end_part(self) -> None:
        """To be called when the part was read and its states are in the tree."""
        with self._lock:
            self.passed = self._end
            self._open(self.passed)

    def watched(
        self, progress: Callable[[int, int], None] | None
    ) -> Callable[[int, int], None] | None:
        """A progress function during which others see that the caller is busy with something else.

        It may, for all we know, wait for one of those who wait for this prompt.
        """
        if progress is None:
            return None

        def report(done: int, total: int) -> None:
            self._told = time.monotonic()
            progress(done, total)
            self._told = None

        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self.over = True
            self._open(len(self._tokens))

    def _open(self, end: int) -> None:
        """Wakes those who wait for a place up to `end`."""
        due = [gate for place, gate in self._gates if place <= end]
        self._gates = [each for each in self._gates if each[0] > end]
        for gate in due:
            gate.release()

    # ---- the side of the others ------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether it cannot be relied upon to go on."""
        told = self._told
        own = self._thread == threading.get_ident()  # asked from its own progress function
        return self.over or own or (told is not None and time.monotonic() - told > _STALLED)

    def common(self, tokens: Sequence[int]) -> int:
        """How many tokens the prompt has in common with others."""
        return common_length(list(self._tokens), list(tokens))

    def offer(self, tokens: Sequence[int], plan: Plan) -> int:
        """The last place that can have a state for a prompt to go on from; 0 when there is none."""
        common = self.common(tokens)
        places = {place for place in self.places if self.passed < place <= common}
        parting = min(self._plan.on_grid(common), plan.on_grid(common))
        # States within the part that is evaluated now cannot be asked for any more.
        if parting <= common and parting > self.passed and parting >= self._end:
            places.add(parting)
        return max((p for p in places if p < len(tokens) and plan.fits(p)), default=0)

    def gate(self, place: int) -> _thread.LockType:
        """Asks for a state; the lock is released when it is there or nobody is left to read it."""
        gate = _thread.allocate_lock()
        gate.acquire()
        self.places.add(place)
        self._gates.append((place, gate))
        return gate

    def leave(self, gate: _thread.LockType) -> None:
        """Nobody waits at this gate any more."""
        with self._lock:
            self._gates = [each for each in self._gates if each[1] is not gate]


class Wait:
    """A wait for a reading to pass a place.

    The reading is referred to weakly: the wait ends even when Ctrl-C hits the very code that ends
    the reading.
    """

    def __init__(self, reading: Reading, place: int) -> None:
        self._reading, self.place = weakref.ref(reading), place
        self._gate = reading.gate(place)

    def _passed(self) -> bool | None:
        """Whether the place was passed; None: not yet."""
        reading = self._reading()
        if reading is not None and reading.passed >= self.place:
            return True
        return False if reading is None or reading.stalled else None

    def run(self, look: Callable[[], None]) -> bool:
        """Waits; False when the state will not come. What `look` raises ends the waiting."""
        try:
            while self._passed() is None:
                look()
                self._gate.acquire(timeout=_LOOK)
            return bool(self._passed())
        finally:
            if (reading := self._reading()) is not None:
                reading.leave(self._gate)


class Readings:
    """The prompts that the slots of a model read now. Callers hold the lock, that of the tree."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._readings: list[weakref.ref[Reading]] = []

    def __iter__(self) -> Iterator[Reading]:
        for ref in list(self._readings):
            reading = ref()
            if reading is not None and not reading.over:
                yield reading

    def start(self, tokens: Sequence[int], plan: Plan, known: int, places: set[int]) -> Reading:
        """The caller reads these tokens from `known` on and leaves states at `places`."""
        reading = Reading(self._lock, tokens, plan, known, places)
        self._readings = [*(weakref.ref(each) for each in self), weakref.ref(reading)]
        return reading

    def common(self, tokens: Sequence[int]) -> int:
        """How many tokens a prompt has in common with one of them."""
        return max((reading.common(tokens) for reading in self), default=0)

    def find(self, tokens: Sequence[int], plan: Plan, known: int) -> Wait | None:
        """The wait that brings a prompt furthest beyond `known`; None: none is worth it."""
        offers = [
            (reading.offer(tokens, plan), reading.passed, reading)
            for reading in self
            # One that is far behind would take longer than reading alone.
            if not reading.stalled and known < reading.passed + WORTH
        ]
        place, _, reading = max(offers, key=lambda offer: offer[:2], default=(0, 0, None))
        if reading is None or place - known < WORTH:
            return None
        return Wait(reading, place)
