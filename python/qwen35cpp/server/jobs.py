"""Requests at work: a bounded number of threads, a bounded queue before them.

The model works in threads, the event loop never waits for it. A request waits for its thread on the
event loop, so one whose client leaves is out of the queue at once; one at work stops within a
token, see _stoppable.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._stoppable import Stop
from ..errors import Cancelled
from .errors import HttpError

Event = Any  # a JSON value, or a pair (name, JSON value) for a named event
Work = Callable[["Job"], Iterator[Event]]


class Job:
    """One request at work. `events` end with an exception: StopAsyncIteration after the last."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: asyncio.Queue[tuple[Event, BaseException | None]] = asyncio.Queue()
        self.stop = Stop()
        self.expired = False

    # ---- the worker's side ----------------------------------------------------------------------

    def emit(self, event: Event, error: BaseException | None = None) -> None:
        """Hands out an event."""
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and with it the reader
            self._loop.call_soon_threadsafe(self._events.put_nowait, (event, error))

    def run(self, work: Work) -> None:
        """Does the work, to its end or until it is told to stop."""
        try:
            self.stop.check()
            events = work(self)
            try:
                for event in events:
                    self.stop.check()
                    self.emit(event)
            finally:
                if (close := getattr(events, "close", None)) is not None:
                    close()
        except BaseException as error:
            self.emit(None, error)
        else:
            self.emit(None, StopAsyncIteration())

    # ---- the event loop's side ------------------------------------------------------------------

    async def next(self) -> Event:
        """The next event. Raises what the work raised, StopAsyncIteration at its end."""
        event, error = await self._events.get()
        if isinstance(error, Cancelled) and self.expired:
            raise HttpError(504, "the request took longer than the server allows", code="timeout")
        if error is not None:
            raise error
        return event

    @property
    def waiting(self) -> bool:
        """Whether an event is there already."""
        return not self._events.empty()

    def expire(self) -> None:
        """Stops the work because its time is over."""
        self.expired = True
        self.stop.ask()


class Jobs:
    """Runs up to `parallel` jobs at once and lets up to `queue` wait."""

    def __init__(self, parallel: int, queue: int, timeout: float) -> None:
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="qwen35cpp-serve")
        self._places = asyncio.Semaphore(parallel)
        self._queue, self._timeout = queue, timeout
        self._at_work: set[Job] = set()
        self.waiting = 0

    @property
    def running(self) -> int:
        """Jobs at work."""
        return len(self._at_work)

    @contextlib.asynccontextmanager
    async def run(self, work: Work) -> AsyncIterator[Job]:
        """A job at work; leaving the context stops it. Raises HttpError when too many wait."""
        await self._enter()
        loop = asyncio.get_running_loop()
        job = Job(loop)
        self._at_work.add(job)
        done = loop.run_in_executor(self._pool, job.run, work)
        done.add_done_callback(lambda _: self._leave(job))
        timer = loop.call_later(self._timeout, job.expire) if self._timeout else None
        try:
            yield job
        finally:
            job.stop.ask()
            if timer is not None:
                timer.cancel()

    async def _enter(self) -> None:
        if self._places.locked() and self.waiting >= self._queue:
            raise HttpError(
                503, "too many requests are waiting; try again later", code="busy", retry_after=5
            )
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1

    def _leave(self, job: Job) -> None:
        self._at_work.discard(job)
        self._places.release()

    async def close(self) -> None:
        """Stops every job and waits until its thread has let go of the model."""
        for job in self._at_work:
            job.stop.ask()
        await asyncio.to_thread(self._pool.shutdown)
