"""A model with its session, shared by threads: whose turn it is, what is evaluated, when to free.

Three rules keep it safe. Every C call on the model or session runs inside `alive`, which frees
nothing while a call is under way and refuses to work after close() or in a forked child. Whoever
uses the session holds `turn` for the whole request, and `_session_lock` for each call: a second
Ctrl-C may free a caller before its helper thread has left the session. `_history` may hold more
than was evaluated (after Ctrl-C or an error); the session's position says how much of it is true.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _interrupt
from ._handles import Detokenizer, Model, Outputs, Sampler, Session
from ._turn import Turn
from .errors import Cancelled, ForkedProcess, ModelUnsupported, SessionClosed, VisionMissing
from .types import TokenLogprob

if TYPE_CHECKING:
    from .vision import Picture, Span, Tower

Progress = _interrupt.Report


def _part(progress: Progress | None, base: int, total: int) -> Progress | None:
    """Progress of a part of a prompt as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _part: progress(base + done, total)


class _Alive:
    """Counts the calls under way; the last one to leave frees what close() asked to free."""

    def __init__(self, model: Model, session: Session | None) -> None:
        self._model, self._session = model, session
        self.tower: Tower | None = None
        self._lock = threading.RLock()  # reentrant: garbage collection may close in its middle
        self._pid = os.getpid()
        self._users = 0
        self.closed = False

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

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # the threads to join live in the parent process
        with self._lock:
            if self.closed:
                return
            self.closed = True
            if self._session is not None:
                self._session.cancel()
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self.closed and not self._users:
            if self._session is not None:
                self._session.close()
            if self.tower is not None:
                self.tower.close()
            self._model.close()


class Engine:
    """Everything that happens to one model and its session."""

    def __init__(
        self,
        model: Model,
        session: Session | None,
        *,
        prefix_cache: bool,
        find_tower: Callable[[], Path] | None = None,
    ) -> None:
        self.model = model
        self._find_tower = find_tower
        self._tower_lock = threading.Lock()
        self.table: Any = None  # of the tokens for grammars, see structured/table.py
        self.table_lock = threading.Lock()
        self.info = model.info
        self.n_ctx = session.n_ctx if session is not None else 0
        self.alive = _Alive(model, session)
        self.turn = Turn(self.alive.check)
        self._session = session
        self._prefix_cache = prefix_cache
        self._session_lock = threading.Lock()
        self._history: list[int] = []
        self._logits_kept = False  # those of the last token of _history
        finalizer = weakref.finalize(self, self.alive.close)
        finalizer.atexit = False  # at exit other threads may still be inside; the system frees it

    def close(self) -> None:
        """Cancels what runs and frees model and session as soon as no call uses them."""
        self.alive.close()

    @property
    def session(self) -> Session:
        """The session; an error when only the vocabulary was read."""
        if self._session is None:
            raise SessionClosed(
                "this Llama has no weights", hint="open the model without vocab_only=True"
            )
        return self._session

    # ---- the model: any thread, no turn needed ------------------------------------------------

    def tokenize(self, data: bytes, special: bool) -> list[int]:
        """Token ids of UTF-8 text."""
        with self.alive:
            return self.model.tokenize(data, special)

    def token_bytes(self, token: int) -> tuple[bytes, bool]:
        """The bytes of a token and whether it is a control token."""
        with self.alive:
            return self.model.token_bytes(token)

    def vocabulary(self) -> tuple[list[bytes], list[int]]:
        """The bytes of every token, and the ids of those that are not ordinary text."""
        with self.alive:
            return self.model.vocabulary()

    def metadata(self, key: str) -> str | None:
        """A string of the file's metadata."""
        with self.alive:
            return self.model.string(key)

    def memory(self) -> tuple[int, int]:
        """Bytes reserved and committed for the context."""
        with self.alive, self._session_lock:
            return self.session.memory()

    def cancel(self) -> None:
        """Stops the request that runs now, from any thread."""
        with self.alive:
            self.session.cancel()

    def tower(self) -> Tower:
        """The vision tower, opened when first asked for."""
        from .vision import Tower

        with self.alive, self._tower_lock:
            if self.alive.tower is None:
                if self._find_tower is None:
                    raise VisionMissing("this Llama was opened without a vision tower")
                try:
                    self.alive.tower = Tower(self.model, self._find_tower())
                except ModelUnsupported as error:
                    raise VisionMissing(str(error)) from error
            return self.alive.tower

    # ---- the session: only while holding the turn ---------------------------------------------

    @property
    def position(self) -> int:
        """Tokens evaluated so far."""
        with self.alive, self._session_lock:
            return self.session.position

    def reset(self) -> None:
        """Forgets every token."""
        with self.alive, self._session_lock:
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
        with self.alive:
            self.session.clear_cancel()
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
                self._eval_picture(span.picture, tokens[span.start : span.end], report)
                done = span.end
            if done < len(tokens):
                report = _part(progress, done - known, len(tokens) - known)
                self.eval(tokens[done:], progress=report)
            return known

    def _eval_picture(
        self, picture: Picture, ids: Sequence[int], progress: Progress | None
    ) -> None:
        alive = None if progress is None else (lambda _done, _layers: progress(0, 0))
        rows = self.tower().rows(picture, alive)
        session = self.session

        def evaluate(report: Progress | None) -> None:
            with self.alive, self._session_lock:
                session.eval_picture(rows, picture.grid, report)

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
            with self.alive, self._session_lock:
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
        with self.alive:
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
                if isinstance(error, Cancelled) and self.alive.closed:
                    raise SessionClosed("this Llama was closed during the call") from None
                raise

    def sample(self, sampler: Sampler) -> tuple[int, TokenLogprob | None]:
        """Draws a token from the logits of the last token evaluated."""
        with self.alive, self._session_lock:
            return self.session.sample(sampler)

    def text_stream(self, stop: Sequence[bytes] = (), *, special: bool = False) -> Detokenizer:
        """A stream of tokens to text, for push and finish."""
        with self.alive:
            return Detokenizer(self.model, stop, special)

    def push(self, text: Detokenizer, token: int) -> tuple[str, int]:
        """Feeds a token to a text stream, see Detokenizer."""
        with self.alive:
            return text.push(token)

    def finish(self, text: Detokenizer) -> str:
        """Ends a text stream, see Detokenizer."""
        with self.alive:
            return text.finish()
