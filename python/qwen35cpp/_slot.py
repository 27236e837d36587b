"""One timeline of tokens: what a session holds, how it is made to hold a prompt, how to go on.

A caller uses a slot only while it holds it (Engine.hold), and `_session_lock` for each call: a
second Ctrl-C may free a caller before its helper thread has left the session. `_history` may hold
more than was evaluated (after Ctrl-C or an error); the session's position says how much of it is
true.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import _interrupt
from ._alive import Alive
from ._handles import Outputs, Sampler, Session
from ._lazy_tower import LazyTower
from .errors import Cancelled, SessionClosed
from .types import TokenLogprob

if TYPE_CHECKING:
    from ._handles import Floats
    from .vision import Span, View

Progress = _interrupt.Report


def _part(progress: Progress | None, base: int, total: int) -> Progress | None:
    """Progress of a part of a prompt as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _part: progress(base + done, total)


class Slot:
    """A session with its history. It is opened when it is first used."""

    def __init__(
        self,
        alive: Alive,
        open_session: Callable[[], Session],
        tower: LazyTower,
        *,
        prefix_cache: bool,
    ) -> None:
        self._alive, self._open, self._tower = alive, open_session, tower
        self._prefix_cache = prefix_cache
        self._session: Session | None = None
        self._session_lock = threading.Lock()
        self._history: list[int] = []
        self._logits_kept = False  # those of the last token of _history
        self._cancels = 0  # of _alive, when the request began
        self._used = 0.0  # when a request began last

    @property
    def session(self) -> Session:
        """The session of the C API."""
        if self._session is None:
            with self._alive:
                self._session = self._alive.add(self._open())
        return self._session

    @property
    def opened(self) -> bool:
        """Whether it takes up memory."""
        return self._session is not None

    def worth(self, tokens: Sequence[int]) -> tuple[int, float]:
        """Orders slots by their use for `tokens`: the prefix known, then the longest out of use."""
        known = len(self._history)
        if self._history != list(tokens[:known]):
            known = 0
        return known, -self._used

    def memory(self) -> tuple[int, int]:
        """Bytes reserved and committed for the context."""
        with self._alive, self._session_lock:
            return self.session.memory()

    @property
    def position(self) -> int:
        """Tokens evaluated so far."""
        with self._alive, self._session_lock:
            return self.session.position

    def reset(self) -> None:
        """Forgets every token."""
        self._cancels = self._alive.cancels
        with self._alive, self._session_lock:
            self.session.reset()
            self._history.clear()
            self._logits_kept = False

    def begin(
        self,
        tokens: Sequence[int],
        progress: Progress | None = None,
        spans: Sequence[Span] = (),
    ) -> int:
        """Makes the session stand after exactly `tokens`; returns how many were there already.

        `spans` are the pictures in the tokens, in order, see vision/prompt.py. The recurrent state
        cannot be cut back, so what was evaluated before is of use only when the whole of it is a
        prefix of `tokens`.
        """
        self._used = time.monotonic()
        with self._alive:
            self.session.clear_cancel()
            self._cancels = self._alive.cancels
            known = self._known_prefix(tokens)
            if not known:
                self.reset()
            done = known
            for span in spans:
                if span.end <= known:
                    continue
                report = _part(progress, done - known, len(tokens) - known)
                if done < span.start:
                    self.eval(tokens[done : span.start], progress=report)
                report = _part(progress, span.start - known, len(tokens) - known)
                self.eval_picture(span.picture, tokens[span.start : span.end], report)
                done = span.end
            if done < len(tokens):
                report = _part(progress, done - known, len(tokens) - known)
                self.eval(tokens[done:], progress=report)
            return known

    def eval_picture(
        self,
        picture: View,
        ids: Sequence[int],
        progress: Progress | None = None,
        hidden_sum: Floats | None = None,
    ) -> None:
        """Encodes a picture and evaluates its tokens; see Session.eval_picture."""
        alive = None if progress is None else (lambda _done, _layers: progress(0, 0))
        try:
            rows = self._tower().rows(picture, alive, lambda: self._alive.cancels != self._cancels)
        except Cancelled:
            self._alive.check()  # a closed Llama says so
            raise
        session = self.session

        def evaluate(report: Progress | None) -> None:
            with self._alive, self._session_lock:
                session.eval_picture(rows, picture.grid, report, hidden_sum)

        self._advance(ids, evaluate, progress)
        self._logits_kept = False

    def _known_prefix(self, tokens: Sequence[int]) -> int:
        known = self.position
        if not self._prefix_cache or known > len(tokens):
            return 0
        if known == len(tokens) and not self._logits_kept:
            return 0
        return known if self._history[:known] == list(tokens[:known]) else 0

    def eval(
        self,
        tokens: Sequence[int],
        outputs: Outputs | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Evaluates tokens at the current position.

        A single token is a direct call, over in a fraction of a second; more run where Ctrl-C can
        stop them.
        """
        session = self.session

        def evaluate(report: Progress | None = None) -> None:
            with self._alive, self._session_lock:
                session.eval(tokens, outputs, report)

        self._advance(tokens, evaluate, progress)
        self._logits_kept = outputs is None

    def _advance(
        self,
        tokens: Sequence[int],
        evaluate: Callable[[Progress | None], None],
        progress: Progress | None,
    ) -> None:
        """Runs an evaluation that adds `tokens`, and puts things right when it fails."""
        session = self.session
        with self._alive:
            del self._history[self.position :]
            self._history.extend(tokens)
            self._logits_kept = False
            try:
                if len(tokens) == 1:
                    evaluate(None)
                else:
                    _interrupt.run(evaluate, session.cancel, progress)
            except BaseException as error:
                session.clear_cancel()
                if isinstance(error, Cancelled) and self._alive.closed:
                    raise SessionClosed("this Llama was closed during the call") from None
                raise

    def sample(self, sampler: Sampler) -> tuple[int, TokenLogprob | None]:
        """Draws a token from the logits of the last token evaluated."""
        with self._alive, self._session_lock:
            return self.session.sample(sampler)
