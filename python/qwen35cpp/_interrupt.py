"""Runs a long C call so that Ctrl-C, progress reports and errors reach the caller.

A thread inside a C call cannot run Python's signal handlers. So the call runs on a helper thread
while the caller waits for events; KeyboardInterrupt, or any exception of the caller's progress
function, cancels the call, waits until it has returned and goes on to the caller.

An interrupt may hit between any two steps of Python code, also within threading.Event or
Thread.start(), which then leave locks in a wrong state. So only primitives written in C are used.
"""

from __future__ import annotations

import _thread
import contextlib
import queue
from collections.abc import Callable, Sequence

Report = Callable[[int, int], None]  # tokens done, tokens in total

# Waits have a time-out because on some systems a signal does not end a wait without one.
_WAIT = 0.1


def run(
    work: Callable[[Report], None], cancel: Callable[[], None], progress: Report | None
) -> None:
    """Runs work(report) and raises what it raised; `progress` is called on the caller's thread.

    `cancel` must make `work` return soon; it may be called from any thread and more than once.
    """
    events: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
    claimed = _thread.allocate_lock()  # by the helper that starts or by a caller that gave up
    running = _thread.allocate_lock()  # held until the work has returned
    running.acquire()
    finished: list[bool] = []
    failure: list[BaseException] = []

    def body() -> None:
        if not claimed.acquire(blocking=False):
            return
        try:
            work(lambda done, total: events.put((done, total)))
        except BaseException as error:
            failure.append(error)
        finally:
            finished.append(True)
            running.release()
            events.put(None)

    try:
        _thread.start_new_thread(body, ())
        _deliver(events, progress)
    except BaseException:
        if not claimed.acquire(blocking=False):
            _stop(cancel, running, finished)
        raise
    if failure:
        raise failure[0]


def _deliver(events: queue.SimpleQueue[tuple[int, int] | None], progress: Report | None) -> None:
    while True:
        try:
            event = events.get(timeout=_WAIT)
        except queue.Empty:
            continue
        if event is None:
            return
        if progress is not None:
            progress(*event)


def _stop(cancel: Callable[[], None], running: _thread.LockType, finished: Sequence[bool]) -> None:
    """Cancels and waits for the end, whatever further signals arrive."""
    while not finished:
        with contextlib.suppress(KeyboardInterrupt):
            cancel()
            running.acquire(timeout=_WAIT)
