"""The generation loop: prefill, then draw, show and evaluate one token after another."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from ._engine import Engine, Progress
from ._handles import Detokenizer, Sampler
from .errors import Cancelled
from .sampling import Sampling
from .types import Chunk, Text, Timings, TokenLogprob, Usage

if TYPE_CHECKING:
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


@dataclass
class _Answer:
    """What was generated so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    shown: int = 0  # tokens that earlier chunks stand for
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    paused: float = 0.0  # seconds that the reader of a stream took

    def chunk(self, text: str, with_logprobs: bool) -> Chunk:
        """The next chunk: `text` and the tokens not yet handed out."""
        fresh = slice(self.shown, len(self.tokens))
        self.shown = len(self.tokens)
        self.pieces.append(text)
        logprobs = self.logprobs[fresh] if with_logprobs else None
        return Chunk.create(text, self.tokens[fresh], logprobs, self.finish_reason)


def generate(engine: Engine, request: Request) -> Generator[Chunk, None, Text]:
    """Yields the chunks of one answer and returns its whole text. Holds the turn until then."""
    with engine.turn.hold():
        with engine.alive:  # first, so that settings out of range fail before a long prompt
            sampler, text = _tools(engine, request)
        started = time.perf_counter()
        cached = engine.begin(request.tokens, request.progress, request.spans)
        prefilled = time.perf_counter()
        answer = _Answer()
        with_logprobs = request.n_logprobs is not None
        while answer.finish_reason is None:
            piece = _draw(engine, request, sampler, text, answer)
            if piece or answer.finish_reason:
                chunk = answer.chunk(piece, with_logprobs)
                handed_out = time.perf_counter()
                yield chunk
                answer.paused += time.perf_counter() - handed_out
                engine.turn.adopt()
            if answer.finish_reason is None:
                engine.eval(answer.tokens[-1:])
        decoding = time.perf_counter() - prefilled - answer.paused

    whole = Text("".join(answer.pieces))
    whole.tokens = answer.tokens
    whole.logprobs = answer.logprobs if with_logprobs else None
    whole.finish_reason, whole.stop_reason = answer.finish_reason, answer.stop_reason
    prompt, made = len(request.tokens), len(answer.tokens)
    whole.usage = Usage(prompt, made, cached)
    whole.timings = Timings(prefilled - started, decoding, prompt - cached, made)
    whole.seed = request.seed
    return whole


def _tools(engine: Engine, request: Request) -> tuple[Sampler, Detokenizer]:
    sampler = Sampler(
        engine.model,
        request.sampling,
        seed=request.seed,
        n_logprobs=request.n_logprobs,
        logit_bias=request.logit_bias,
    )
    if request.sampling.repetition_penalty != 1.0:
        sampler.accept_prompt([token for token in request.tokens if token >= 0])
    return sampler, Detokenizer(engine.model, request.stop, request.special)


def _draw(
    engine: Engine, request: Request, sampler: Sampler, text: Detokenizer, answer: _Answer
) -> str:
    """Draws one token into `answer` and returns the text that can be shown now."""
    token, logprob = engine.sample(sampler)
    if token in request.stop_tokens:
        answer.finish_reason, answer.stop_reason = "stop", token
        return engine.finish(text)
    answer.tokens.append(token)
    if logprob is not None:
        answer.logprobs.append(logprob)
    piece, stopped = engine.push(text, token)
    if stopped >= 0:
        answer.finish_reason = "stop"
        answer.stop_reason = request.stop[stopped].decode("utf-8", "replace")
    elif len(answer.tokens) >= request.max_tokens:
        answer.finish_reason = "length"
        piece += engine.finish(text)
    return piece


class TextStream(Iterator[Chunk]):
    """The chunks of an answer as they are generated.

    The stream holds its Llama from the first chunk until it is read to its end or closed, and other
    threads wait for it; leaving a `for` loop early closes it when nothing else refers to it, a
    `with` statement in any case. After the end `result` has the whole text with its figures.
    """

    def __init__(self, chunks: Generator[Chunk, None, Text]) -> None:
        self._chunks = chunks
        self.result: Text | None = None

    def __next__(self) -> Chunk:
        try:
            return next(self._chunks)
        except StopIteration as end:
            if end.value is not None:
                self.result = end.value
            raise StopIteration from None

    def close(self) -> None:
        """Stops generating and lets the next caller have the Llama."""
        self._chunks.close()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def drain(chunks: Generator[Chunk, None, Text]) -> Text:
    """The whole text of an answer that nobody streams."""
    stream = TextStream(chunks)
    for _ in stream:
        pass
    if stream.result is None:
        raise Cancelled("the generation was closed")
    return stream.result
