"""The generation loop: prefill, then draw, show and evaluate one token after another.

Decoding is the part that chat shares, see chat/conversation.py.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from ._constraint import Follower
from ._engine import Engine, Progress, Slot
from ._handles import Detokenizer, Drawn, Sampler
from ._turn import Hold
from .errors import Cancelled, Qwen35Error
from .sampling import Sampling
from .types import Chunk, Text, Timings, TokenLogprob, Usage

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._constraint import Constraint
    from .structured.formats import Format
    from .vision import Span


@dataclass(frozen=True)
class Request:
    """What to generate, with every default filled in."""

    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    seed: int
    stop: tuple[bytes, ...]
    stop_tokens: frozenset[int]
    n_logprobs: int | None
    logit_bias: Mapping[int, float]
    special: bool
    progress: Progress | None
    spans: Sequence[Span] = ()  # the pictures in `tokens`
    format: Format | None = None  # of the text, or of a chat's answer behind its thought
    resume: bool = False  # go on from what is known of `tokens` whatever the settings
    at_end: Callable[[Slot], None] | None = None  # called when the answer is complete


class Decoding:
    """The tokens of one answer, drawn one at a time from the slot that is held for it."""

    def __init__(self, engine: Engine, held: Hold[Slot], request: Request) -> None:
        self._held, self._slot, self._request = held, held.slot, request
        self._alive = engine.alive
        self._pending: list[int] = []  # tokens of the answer not evaluated yet
        self._drawn: deque[Drawn] = deque()  # drawn, and not yet asked for
        self._stop_tokens = list(request.stop_tokens)
        self._follower: Follower | None = None  # of the constraint
        self._forced: deque[int] = deque()  # tokens that the constraint leaves no choice about
        self._cached = 0
        self._started = self._prefilled = time.perf_counter()
        self._paused = 0.0  # seconds that the reader of a stream took
        self.tokens: list[int] = []  # without a stop token
        self.logprobs: list[TokenLogprob] = []  # of the tokens drawn
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        with engine.alive:  # so that settings out of range fail before a long prompt
            self._sampler = Sampler(
                engine.model,
                request.sampling,
                seed=request.seed,
                n_logprobs=request.n_logprobs,
                logit_bias=request.logit_bias,
            )
            if request.sampling.repetition_penalty != 1.0:
                self._sampler.accept_prompt([token for token in request.tokens if token >= 0])

    def prefill(self) -> None:
        """Evaluates the prompt."""
        self._started = time.perf_counter()
        self._cached = self._slot.begin(
            self._request.tokens,
            self._request.progress,
            self._request.spans,
            resume=self._request.resume,
        )
        self._started += self._slot.waited
        self._slot.prepare_drafts()
        self._before = self._slot.draft_statistics()
        self._prefilled = time.perf_counter()

    def constrain(self, constraint: Constraint | None) -> None:
        """Limits the tokens that come from now on."""
        self.take_back()
        self._forced.clear()
        # Log-probabilities need the logits of every token: none is forced then.
        forces = self._request.n_logprobs is None
        self._follower = None if constraint is None else Follower(constraint, forces=forces)

    def draw(self) -> int | None:
        """The next token; None when the model ended its answer with a stop token."""
        follower = self._follower
        # Forced tokens are evaluated together, before the next draw.
        if follower is not None and not self._drawn and not self._forced:
            self._forced.extend(follower.forced())
        if self._forced:
            forced = self._forced.popleft()
            self.force([forced])
            token: int | None = forced
        else:
            token = self._draw()
        if follower is not None and not self._drawn and not self._forced and follower.complete:
            self.finish_reason = "stop"
        return token

    def _draw(self) -> int | None:
        if not self._drawn:
            pending, self._pending = self._pending, []
            room = self._request.max_tokens - len(self.tokens)
            drawn = self._slot.decode(
                pending, self._sampler, self._stop_tokens, room, self._follower
            )
            self._drawn.extend(drawn)
            if self._follower is not None:
                self._follower.finish(self._ahead())
        token, logprob = self._drawn.popleft()
        if token in self._request.stop_tokens:
            self.finish_reason, self.stop_reason = "stop", token
            return None
        if logprob is not None:
            self.logprobs.append(logprob)
        self._append([token])
        if not self._drawn:
            self._pending = [token]
        return token

    def force(self, tokens: Sequence[int]) -> list[int]:
        """Puts tokens behind those drawn, as many as there is room for, and returns these."""
        taken = list(tokens[: self._request.max_tokens - len(self.tokens)])
        if taken:
            self.take_back()
            with self._alive:
                self._sampler.accept(taken)
            self._append(taken)
            self._pending += taken
        return taken

    def take_back(self) -> None:
        """Undoes what was drawn ahead: the answer ends here, or goes on otherwise."""
        if self._drawn:
            self._slot.take_back(self._sampler, len(self._drawn))
            if self._follower is not None:
                self._follower.take_back(len(self._ahead()))
            self._drawn.clear()
            self._pending = self.tokens[-1:]

    def _ahead(self) -> list[int]:
        """The tokens drawn and not asked for, which a constraint knows: without a stop token."""
        return [token for token, _ in self._drawn if token not in self._request.stop_tokens]

    def _append(self, tokens: list[int]) -> None:
        self.tokens += tokens
        if len(self.tokens) >= self._request.max_tokens:
            self.finish_reason = "length"

    @contextlib.contextmanager
    def handed_out(self) -> Iterator[None]:
        """Around the `yield` of a chunk: the reader's time is not ours, its thread may be new."""
        since = time.perf_counter()
        try:
            yield
        except GeneratorExit:  # nobody reads on
            with contextlib.suppress(Qwen35Error):
                self.take_back()
            raise
        self._paused += time.perf_counter() - since
        self._held.adopt()

    def describe(self, text: Text) -> None:
        """Ends the request: writes tokens, figures and reasons into the whole text."""
        decoding = time.perf_counter() - self._prefilled - self._paused
        self.take_back()
        prompt, made = len(self._request.tokens), len(self.tokens)
        text.tokens = self.tokens
        text.logprobs = self.logprobs if self._request.n_logprobs is not None else None
        text.finish_reason, text.stop_reason = self.finish_reason or "stop", self.stop_reason
        text.usage = Usage(prompt, made, self._cached)
        before, after = self._before, self._slot.draft_statistics()
        text.timings = Timings(
            self._prefilled - self._started,
            decoding,
            prompt - self._cached,
            made,
            after.drafted - before.drafted,
            after.accepted - before.accepted,
        )
        text.seed = self._request.seed
        text.output_format = self._request.format
        if self._request.at_end is not None:
            self._request.at_end(self._slot)
        self._slot.settle()


def generate(engine: Engine, request: Request) -> Generator[Chunk, None, Text]:
    """Yields the chunks of one answer and returns its whole text. Holds a slot until then."""
    with engine.hold(request.tokens) as held:
        decoding = Decoding(engine, held, request)
        text = engine.text_stream(request.stop, special=request.special)
        if request.format is not None:
            from .structured.matcher import Matcher

            decoding.constrain(Matcher(engine, request.stop_tokens, request.format.grammar))
        decoding.prefill()
        pieces: list[str] = []
        shown = 0  # tokens that earlier chunks stand for
        while decoding.finish_reason is None:
            piece = _next_piece(engine, request, decoding, text)
            if piece or decoding.finish_reason:
                pieces.append(piece)
                fresh = slice(shown, len(decoding.tokens))
                shown = len(decoding.tokens)
                logprobs = None if request.n_logprobs is None else decoding.logprobs[fresh]
                reason = decoding.finish_reason
                chunk = Chunk.create(piece, decoding.tokens[fresh], logprobs, reason)
                with decoding.handed_out():
                    yield chunk
        whole = Text("".join(pieces))
        decoding.describe(whole)
        whole.check()
    return whole


def generate_tokens(engine: Engine, request: Request) -> Generator[int, Sequence[int] | None, None]:
    """Yields the tokens of one answer; tokens sent in go behind the last. Holds a slot until then.

    Unlike `draw` it yields stop tokens too when the request has none.
    """
    with engine.hold(request.tokens) as held:
        decoding = Decoding(engine, held, request)
        decoding.prefill()
        while decoding.finish_reason is None:
            token = decoding.draw()
            if token is None:
                return
            with decoding.handed_out():
                sent = yield token
            if sent:
                decoding.force(sent)


def _next_piece(engine: Engine, request: Request, decoding: Decoding, text: Detokenizer) -> str:
    """Draws one token and returns the text that can be shown now."""
    token = decoding.draw()
    if token is None:
        return engine.finish(text)
    piece, stopped = engine.push(text, token)
    if stopped >= 0:
        decoding.finish_reason = "stop"
        decoding.stop_reason = request.stop[stopped].decode("utf-8", "replace")
    elif decoding.finish_reason is not None:
        piece += engine.finish(text)
    return piece


C = TypeVar("C", bound=Chunk)
T = TypeVar("T", bound=Text)


class Stream(Iterator[C], Generic[C, T]):
    """The chunks of an answer as they are generated.

    The stream holds a slot of its Llama from the first chunk until it is read to its end or closed;
    leaving a `for` loop early closes it when nothing else refers to it, a
    `with` statement in any case. After the end `result` has the whole text with its figures.
    """

    def __init__(self, chunks: Generator[C, None, T]) -> None:
        self._chunks = chunks
        self.result: T | None = None

    def __next__(self) -> C:
        try:
            return next(self._chunks)
        except StopIteration as end:
            if end.value is not None:
                self.result = end.value
            raise StopIteration from None
        except BaseException:  # Ctrl-C may come just outside the generator, which would hold on
            with contextlib.suppress(ValueError):  # another thread is inside
                self._chunks.close()
            raise

    def close(self) -> None:
        """Stops generating and lets the next caller have the Llama."""
        self._chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def drain(self) -> T:
        """The whole text of an answer that nobody streams."""
        with self:
            for _ in self:
                pass
        if self.result is None:
            raise Cancelled("the generation was closed")
        return self.result


class TextStream(Stream[Chunk, Text]):
    """The chunks of a text as they are generated.

    It holds a slot of its Llama until it is read to its end or closed: leave it early with close()
    or a `with` statement. After the end `result` has the whole text with its figures.
    """
