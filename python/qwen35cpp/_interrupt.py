"""Runs a long C call so that Ctrl-C, progress reports and errors reach the caller.

A thread inside a C call cannot run Python's signal handlers. So the call runs on a helper thread
while the caller waits for events; KeyboardInterrupt, or any exception of the caller's progress
function, cancels the call, waits until it has returned and goes on to the caller.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

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
    claimed = threading.Lock()  # by the helper that starts the work or by a caller that gave up
    finished = threading.Event()
    failure: list[BaseException] = []

    def body() -> None:
        if not claimed.acquire(blocking=False):
            return
        try:
            work(lambda done, total: events.put((done, total)))
        except BaseException as error:
            failure.append(error)
        finally:
            finished.set()
            events.put(None)

    try:
        threading.Thread(target=body, name="qwen35-eval", daemon=True).start()
        _deliver(events, progress)
    except BaseException:
        if not claimed.acquire(blocking=False):
            _stop(cancel, finished)
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


def _stop(cancel: Callable[[], None], finished: threading.Event) -> None:
    """Cancels and waits, whatever further signals arrive: the session is in use until then."""
    while not finished.is_set():
        with contextlib.suppress(KeyboardInterrupt):
            cancel()
            finished.wait(_WAIT)
