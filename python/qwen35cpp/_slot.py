"""One timeline of tokens: what a session holds, how it is made to hold a prompt, how to go on.

A caller uses a slot only while it holds it (Engine.hold), and `slot.lock` for each call: a second
Ctrl-C may free a caller before its helper thread has left the session. The lock is always taken by
a `with` of its own: a context manager written in Python may be interrupted when it has just taken
the lock, and the lock then stays taken for as long as the KeyboardInterrupt is being handled.

What the session knows, how it comes back to what it knew, and what it waits for because another
slot is just reading it, is the business of _prefix/.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from . import _interrupt
from ._alive import Alive
from ._handles import Branches, Drawn, Limits, Model, Outputs, Sampler, Session
from ._lazy_tower import LazyTower
from ._prefix import Mark, Markers, Plan, Reading, Readings, Timeline, Tree
from ._prefix.tree import common_length
from .errors import Cancelled, SessionClosed
from .sampling import Sampling
from .types import DraftStatistics

if TYPE_CHECKING:
    from ._handles import Floats
    from ._prefix.disk import DiskCache
    from .vision import Span, View

Progress = _interrupt.Report


def _part(progress: Progress | None, base: int, total: int) -> Progress | None:
    """Progress of a part of a prompt as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _part: progress(base + done, total)


def _halves(progress: Progress | None, n: int) -> tuple[Progress | None, Progress | None]:
    """Progress of a picture's n tokens: by layers of the tower, and by the tokens evaluated."""
    if progress is None:
        return None, None
    return (
        lambda layer, layers: progress(n * layer // (2 * layers), n),
        lambda done, _total: progress((n + done) // 2, n),
    )


@dataclass(frozen=True)
class PrefixCache:
    """What the slots of a model know together."""

    tree: Tree
    readings: Readings
    markers: Markers
    batch: int  # tokens evaluated at once
    enabled: bool  # for every request; otherwise only for those that ask
    disk: DiskCache | None = None


class Slot:
    """A session with its history. It is opened when it is first used.

    From outside: `with slot.alive, slot.lock:` and then `slot.timeline`.
    """

    def __init__(
        self,
        alive: Alive,
        open_session: Callable[[], Session],
        tower: LazyTower,
        cache: PrefixCache,
    ) -> None:
        self.alive, self._open, self._tower = alive, open_session, tower
        self._cache = cache
        self._session: Session | None = None
        self._made: Timeline | None = None
        self.lock = threading.Lock()
        self._cancels = 0  # of _alive, when the request began
        self._used = 0.0  # when a request began last
        self.waited = 0.0  # seconds that the last begin() waited for another slot

    @property
    def session(self) -> Session:
        """The session of the C API."""
        if self._session is None:
            with self.alive:
                self._session = self.alive.add(self._open())
        return self._session

    @property
    def opened(self) -> bool:
        """Whether it takes up memory."""
        return self._session is not None

    def worth(self, tokens: Sequence[int]) -> tuple[int, float]:
        """Orders slots by their use for `tokens`: the prefix held, then the longest out of use."""
        held = self._made.held if self._made is not None else []
        return common_length(held, list(tokens)), -self._used

    def memory(self) -> tuple[int, int]:
        """Bytes reserved and committed for the context."""
        with self.alive, self.lock:
            return self.session.memory()

    @property
    def position(self) -> int:
        """Tokens evaluated so far."""
        with self.alive, self.lock:
            return self.session.position

    @property
    def timeline(self) -> Timeline:
        """What the session holds and knows; to be used inside `lock`."""
        session = self.session
        if self._made is None:
            cache = self._cache
            self._made = Timeline(session, cache.tree, cache.markers, cache.disk)
        return self._made

    def reset(self, *, forget: bool = False) -> None:
        """Goes back to where there are no tokens; `forget` empties the prefix cache as well."""
        self._cancels = self.alive.cancels
        with self.alive, self.lock:
            if forget:
                self.timeline.forget()
            else:
                self.timeline.reset()

    def begin(
        self,
        tokens: Sequence[int],
        progress: Progress | None = None,
        spans: Sequence[Span] = (),
        *,
        resume: bool = False,
        branches: Branches | None = None,
    ) -> int:
        """Makes the session stand after exactly `tokens`; returns how many were known already.

        `spans` are the pictures in the tokens, in order, see vision/prompt.py. `resume` uses what
        is known of them even where the prefix cache is off. What another slot is just reading is
        waited for; `progress` hears of 0 tokens meanwhile. `branches` are evaluated with the end.
        """
        self._used, self.waited = time.monotonic(), 0.0
        with self.alive:
            self.session.clear_cancel()
            self._cancels = self.alive.cancels
            plan = Plan(len(tokens), spans, self._cache.batch)
            if self._cache.enabled or resume:
                reading = self._join(tokens, plan, progress)
            else:
                with self.alive, self.lock:
                    self.timeline.reset()
                reading = Reading(self._cache.tree.lock, tokens, plan, 0, set())
            with reading:
                known = reading.passed
                self._read_on(reading, tokens, plan, spans, reading.watched(progress), branches)
            if branches is not None and known == len(tokens):
                branches.logits[0] = self.logits(branches.logits.shape[1])
                if branches.paths:
                    self.branch(branches.paths, branches.want, branches.logits[1:])
            return known

    def _read_on(
        self,
        reading: Reading,
        tokens: Sequence[int],
        plan: Plan,
        spans: Sequence[Span],
        progress: Progress | None,
        branches: Branches | None,
    ) -> None:
        """Reads what is not known, part by part, and leaves states on the way."""
        pictures = {span.start: span.picture for span in spans}
        known = reading.passed
        for start, end in plan.parts(known):
            keep = reading.begin_part(end)
            report = _part(progress, start - known, len(tokens) - known)
            if start in pictures:
                self.eval_picture(pictures[start], tokens[start:end], report)
            else:
                at_end = branches if end == len(tokens) else None
                self._read(tokens, start, end, keep, report, at_end)
            if end in reading.places:  # behind a picture, or asked for since the part began
                with self.alive, self.lock:
                    self.timeline.keep()
            reading.end_part()

    def _join(self, tokens: Sequence[int], plan: Plan, progress: Progress | None) -> Reading:
        """Goes as far as is known, or will be when another slot has read what both have to."""
        cache = self._cache
        boundaries = list(cache.markers.places(tokens))
        promised = 0
        while True:
            with self.alive, self.lock, cache.tree.lock:
                timeline = self.timeline
                known = timeline.ahead(tokens, plan.fits)
                # A state that was waited for may be gone, for want of memory. Once is enough then.
                wait = cache.readings.find(tokens, plan, known) if known >= promised else None
                if wait is None:
                    known, common = timeline.begin(tokens, plan.fits)
                    common = max(common, cache.readings.common(tokens))
                    places = plan.snapshots(known, boundaries, common)
                    return cache.readings.start(tokens, plan, known, places)
            since = time.monotonic()
            try:
                if wait.run(partial(self._look, progress, len(tokens) - known)):
                    promised = wait.place
            finally:
                self.waited += time.monotonic() - since

    def _look(self, progress: Progress | None, left: int) -> None:
        """Raises when a request that waits is to end; `left`: tokens that it may have to read."""
        self.alive.check()
        if self.alive.cancels != self._cancels:
            raise Cancelled(f"cancelled after 0 of {left} tokens")
        if progress is not None:
            progress(0, left)

    def _read(
        self,
        tokens: Sequence[int],
        start: int,
        end: int,
        keep: Sequence[int],
        progress: Progress | None,
        branches: Branches | None,
    ) -> None:
        """Evaluates a part of a prompt, and takes the snapshots that are due on the way."""
        session, places = self.session, sorted(keep)
        marks = {at - start: bytearray(session.state_bytes) for at in places}
        logits = end == len(tokens)
        if branches is not None:
            outputs = branches.outputs(end - start, marks)
        else:
            outputs = Outputs(want=None if logits else bytes(end - start), snapshots=marks)

        def evaluate(report: Progress | None) -> None:
            with self.alive, self.lock:
                session.eval(tokens[start:end], outputs, report)

        try:
            self._advance(tokens[start:end], evaluate, progress, drawn=False)
        finally:
            with self.lock:
                for at in places:
                    if not self.alive.closed and at <= session.position:
                        self.timeline.keep_snapshot(at, marks[at - start])
        self.timeline.logits_kept = logits

    def eval_picture(
        self,
        picture: View,
        ids: Sequence[int],
        progress: Progress | None = None,
        hidden_sum: Floats | None = None,
    ) -> None:
        """Encodes a picture and evaluates its tokens; see Session.eval_picture.

        `progress` gets the picture's tokens: half of them are done when the tower is through.
        """
        encoding, evaluating = _halves(progress, len(ids))
        try:
            rows = self._tower().rows(
                picture, encoding, lambda: self.alive.cancels != self._cancels
            )
        except Cancelled:
            self.alive.check()  # a closed Llama says so
            raise
        session = self.session

        def evaluate(report: Progress | None) -> None:
            with self.alive, self.lock:
                session.eval_picture(rows, picture.grid, report, hidden_sum)

        self._advance(ids, evaluate, evaluating, drawn=False)

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
            with self.alive, self.lock:
                session.eval(tokens, outputs, report)

        self._advance(tokens, evaluate, progress, drawn=True)
        self.timeline.logits_kept = outputs is None

    def branch(self, branches: Sequence[Sequence[int]], want: bytes, logits: Floats) -> None:
        """Evaluates continuations that leave no trace; see Session.branch."""
        session = self.session
        with self.alive, self.lock:
            self.timeline.overwriting()

        def evaluate(_report: Progress | None) -> None:
            with self.alive, self.lock:
                session.branch(branches, want, logits)

        with self._stopped_well():
            _interrupt.run(evaluate, session.cancel, None)

    @contextlib.contextmanager
    def _stopped_well(self) -> Iterator[None]:
        """Keeps the model open, and the session usable when what runs here is interrupted."""
        with self.alive:
            try:
                yield
            except BaseException as error:
                self.session.clear_cancel()
                if isinstance(error, Cancelled) and self.alive.closed:
                    raise SessionClosed("this Llama was closed during the call") from None
                raise

    def _advance(
        self,
        tokens: Sequence[int],
        evaluate: Callable[[Progress | None], None],
        progress: Progress | None,
        *,
        drawn: bool,
    ) -> None:
        """Runs an evaluation that adds `tokens`, and puts things right when it fails."""
        session, timeline = self.session, self.timeline
        with self._stopped_well():
            with self.lock:
                timeline.advancing()
            try:
                if len(tokens) == 1:
                    evaluate(None)
                else:
                    _interrupt.run(evaluate, session.cancel, progress)
            finally:
                with self.lock:
                    timeline.advanced(tokens, drawn=drawn)

    def settle(self) -> None:
        """After a request: writes what is worth it to the disk cache, if there is one."""
        if self._cache.disk is not None:
            with self.alive, self.lock:
                self.timeline.save_all()

    def decode(
        self,
        tokens: Sequence[int],
        sampler: Sampler,
        stop_tokens: Sequence[int],
        most: int,
        limits: Limits | None = None,
    ) -> list[Drawn]:
        """Evaluates tokens (none: goes on from the last one) and draws at least one that follows.

        More come where drafts were right. All but the last are evaluated then, and a token of
        `stop_tokens` is the last. `limits` say which tokens may come.
        """
        session = self.session
        drawn: list[Drawn] = []

        def evaluate(_report: Progress | None = None) -> None:
            with self.alive, self.lock:
                drawn.extend(session.decode(tokens, sampler, stop_tokens, most, limits))

        if not tokens:
            evaluate()
            return drawn
        self._advance(tokens, evaluate, None, drawn=True)
        with self.alive, self.lock:
            timeline = self.timeline
            timeline.advanced([token for token, _logprob in drawn[:-1]], drawn=True)
            timeline.logits_kept = True
        return drawn

    def take_back(self, sampler: Sampler, n: int) -> None:
        """Undoes the last n tokens that the last decode drew."""
        with self.alive, self.lock:
            self.session.take_back(sampler, n)
            del self.timeline.held[self.session.position :]

    def prepare_drafts(self) -> None:
        """Lets drafts be looked up in what was evaluated."""
        with self.alive, self.lock:
            # The ids of pictures are wider than those of words.
            self.session.draft_context([max(token, -1) for token in self.timeline.tokens])

    def draft_statistics(self) -> DraftStatistics:
        """What was drafted since the session was opened."""
        with self.alive, self.lock:
            return self.session.draft_statistics()

    def logits(self, n_vocab: int) -> Floats:
        """The logits that predict the next token, float32 [n_vocab]."""
        with self.alive, self.lock:
            return self.session.logits(n_vocab)

    def mark(self) -> Mark:
        """The place where the session stands, to come back to within the same request."""
        with self.alive, self.lock:
            return self.timeline.mark()

    def return_to(self, mark: Mark) -> None:
        """Goes back to a mark."""
        with self.alive, self.lock:
            self.timeline.return_to(mark)

    def sample_once(self, model: Model, sampling: Sampling, seed: int) -> int:
        """A token drawn from the logits of the last token evaluated, with settings of its own."""
        with self.alive, self.lock:
            tokens = self.timeline.tokens
            # Each position has numbers of its own, else equal logits would give equal tokens.
            seed = (seed + len(tokens)) & (2**64 - 1)
            sampler = Sampler(model, sampling, seed=seed, n_logprobs=None, logit_bias={})
            sampler.accept([token for token in tokens if token >= 0])
            return self.session.decode((), sampler, (), 1)[0][0]
