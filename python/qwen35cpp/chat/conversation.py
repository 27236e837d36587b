"""One answer of a chat: render, draw tokens, tell its parts apart, end thoughts that do not end."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._constraint import Constraint, Without
from .._engine import Engine, Slot
from .._generate import Decoding, Request, Stream
from .._request import draw_seed
from .._turn import Hold
from ..types import TokenLogprob
from .answer import CallCollector, ChatChunk, ChatText
from .reader import AnswerReader, Part
from .thought import ThoughtGuard, budget_within
from .values import Schema
from .vocabulary import END_THINK, IM_END, TOOL_CALL, Vocabulary


@dataclass(frozen=True)
class ChatRequest:
    """What to answer, and how."""

    request: Request
    messages: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Schema]  # of the tools
    thinking: bool
    thinking_budget: int | None = None
    # None: the model decides whether to call a tool; "" makes it call one, a name that one.
    forced_call: str | None = None
    one_call: bool = False  # end the answer behind its first call
    grammar: str | None = None  # of the answer behind the thought

    def with_seed(self, seed: int | None) -> ChatRequest:
        """The same for another answer."""
        return replace(self, request=replace(self.request, seed=draw_seed(seed)))


class ChatStream(Stream[ChatChunk, ChatText]):
    """The chunks of a chat's answer as they are generated.

    It holds a slot of its Llama until it is read to its end or closed: leave it early with close()
    or a `with` statement. After the end `result` has the whole answer with its figures.
    """


def answer(
    engine: Engine, vocabulary: Vocabulary, chat: ChatRequest
) -> Generator[ChatChunk, None, ChatText]:
    """Yields the chunks of one answer and returns the whole. Holds a slot until then."""
    with engine.hold(chat.request.tokens) as held:
        writer = _Writer(engine, held, vocabulary, chat)
        writer.decoding.prefill()
        writer.begin()
        while True:
            chunks = writer.step()
            for chunk in chunks:
                with writer.decoding.handed_out():
                    yield chunk
            if writer.ended:
                return writer.result()


class _Writer:
    """The state of an answer in the making."""

    def __init__(
        self, engine: Engine, held: Hold[Slot], vocabulary: Vocabulary, chat: ChatRequest
    ) -> None:
        self._chat, self._vocabulary = chat, vocabulary
        self._end_think, self._im_end = vocabulary.id(END_THINK), vocabulary.id(IM_END)
        request = chat.request
        self._reader = AnswerReader(
            engine,
            vocabulary,
            thinking=chat.thinking,
            parameters=chat.parameters,
            stop=request.stop,
        )
        closing = len([*vocabulary.encode("\n"), self._end_think, *vocabulary.encode("\n\n")])
        budget = budget_within(request.max_tokens, chat.thinking_budget, closing)
        self._guard = ThoughtGuard(budget)
        self._token_bytes, self._n_vocab = engine.token_bytes, engine.info.n_vocab
        self._constraint = self._matcher(engine)
        self._reasoning_end: str | None = None
        self._call_due = chat.forced_call is not None
        self._fresh: list[int] = []  # tokens that no chunk stands for yet
        self._fresh_logprobs: list[TokenLogprob] = []
        self._logprobs: list[TokenLogprob] = []
        self._collector = CallCollector()
        self._text: list[str] = []
        self._thought: list[str] = []
        self.ended = False
        self.decoding = Decoding(engine, held, request)

    def begin(self) -> None:
        """Puts what the caller demands before the first token drawn."""
        self._pending = [] if self._reader.thinking else self._begin_answer()
        if self._constraint is not None and self._reader.thinking:
            # A call within the thought would end it before its limits apply.
            free = Without(self._n_vocab, [self._vocabulary.id(TOOL_CALL)])
            self.decoding.constrain(free)

    def _matcher(self, engine: Engine) -> Constraint | None:
        if self._chat.grammar is None:
            return None
        from ..structured.matcher import Matcher

        return Matcher(engine, self._chat.request.stop_tokens, self._chat.grammar)

    def _begin_answer(self) -> list[Part]:
        """What stands behind the thought: free, limited by a grammar, or a call."""
        if self._constraint is not None:
            self.decoding.constrain(self._constraint)
        return self._force_call()

    def step(self) -> list[ChatChunk]:
        """Draws one token and gives the chunks that are certain now."""
        parts, self._pending = self._pending, []
        reader = self._reader
        thinking, in_call = reader.thinking, reader.in_call
        token = self.decoding.draw() if self.decoding.finish_reason is None else None
        if thinking and self.decoding.stop_reason == self._im_end:
            # The model ended its turn within the thought: it still owes the answer.
            self.decoding.finish_reason = self.decoding.stop_reason = None
            parts += self._end_thought("model")
        elif token is not None:
            parts += reader.push(token)
            self._fresh.append(token)
            if thinking or reader.thinking:
                parts += self._watch(token)
            elif not (in_call or reader.in_call):
                self._note_logprob(token)
        self._check_stops()
        if self.decoding.finish_reason is not None:
            parts += self._finish()
        return self._chunks(parts)

    def _note_logprob(self, token: int) -> None:
        """Keeps the log-probability of a token of the answer's text, line breaks before it not."""
        if self._chat.request.n_logprobs is None:
            return
        if self._reader.text_begun or self._token_bytes(token)[0].strip(b"\n"):
            self._fresh_logprobs.append(self.decoding.logprobs[-1])

    def _watch(self, token: int) -> list[Part]:
        """A token of a thought: notes the model's own end, or makes one."""
        if not self._reader.thinking:
            self._reasoning_end = "model"
            demanded = self._call_due or self._constraint is not None
            if token != self._end_think or not demanded:
                self._call_due = False  # ended by a call
                return []
            return self._force(self._vocabulary.encode("\n\n")) + self._begin_answer()
        why = self._guard.check(token, self._reader.reasoning_tokens)
        if why is None:
            return []
        return self._end_thought(why)

    def _end_thought(self, why: str) -> list[Part]:
        """Closes the thought in the model's place."""
        self._reasoning_end = why
        tokens = self.decoding.tokens
        whole_line = tokens and self._token_bytes(tokens[-1])[0].endswith(b"\n")
        # The line break belongs to the format and not to the thought: the reader does not see it.
        self._fresh += self.decoding.force([] if whole_line else self._vocabulary.encode("\n"))
        end = [self._end_think, *self._vocabulary.encode("\n\n")]
        return self._force(end) + self._begin_answer()

    def _force_call(self) -> list[Part]:
        """The beginning of the call that the caller demands."""
        if not self._call_due:
            return []
        self._call_due = False
        name = self._chat.forced_call
        head = f"\n<function={name}>\n" if name else "\n<function"
        return self._force([self._vocabulary.id(TOOL_CALL), *self._vocabulary.encode(head)])

    def _force(self, tokens: Sequence[int]) -> list[Part]:
        parts: list[Part] = []
        for token in self.decoding.force(tokens):
            self._fresh.append(token)
            parts += self._reader.push(token)
        return parts

    def _check_stops(self) -> None:
        stopped = self._reader.stopped
        if stopped >= 0:
            self.decoding.finish_reason = "stop"
            stop = self._chat.request.stop[stopped]
            self.decoding.stop_reason = stop.decode("utf-8", "replace")
        elif self._chat.one_call and self._reader.n_calls:
            self.decoding.finish_reason = "stop"

    def _finish(self) -> list[Part]:
        self.ended = True
        return self._reader.finish(cut=self.decoding.finish_reason == "length")

    def _chunks(self, parts: Sequence[Part]) -> list[ChatChunk]:
        """Chunks of parts; the first carries the tokens since the chunk before."""
        chunks = []
        for part in parts:
            fresh, self._fresh = self._fresh, []
            logprobs: list[TokenLogprob] | None = None
            if part.call is not None:
                self._collector.add(part.call)
                chunk = ChatChunk.of("tool_call", tool_call=part.call, tokens=fresh)
            elif part.kind == "reasoning":
                self._thought.append(part.text)
                chunk = ChatChunk.of("reasoning", reasoning=part.text, tokens=fresh)
            else:
                if self._chat.request.n_logprobs is not None:
                    logprobs, self._fresh_logprobs = self._fresh_logprobs, []
                    self._logprobs += logprobs
                self._text.append(part.text)
                chunk = ChatChunk.of("text", part.text, tokens=fresh, logprobs=logprobs)
            chunks.append(chunk)
        if self.ended:
            last = chunks[-1] if chunks else ChatChunk.of("text", tokens=self._fresh)
            last.finish_reason = self._finish_reason()
            return chunks or [last]
        return chunks

    def _finish_reason(self) -> str:
        reason = self.decoding.finish_reason or "stop"
        return "tool_calls" if reason == "stop" and self._collector.calls() else reason

    def result(self) -> ChatText:
        """The whole answer."""
        text = ChatText("".join(self._text))
        self.decoding.describe(text)
        text.finish_reason = self._finish_reason()
        text.logprobs = self._logprobs if self._chat.request.n_logprobs is not None else None
        text.reasoning = "".join(self._thought)
        text.reasoning_tokens = self._reader.reasoning_tokens
        text.reasoning_end = self._reasoning_end
        text.tool_calls = self._collector.calls()
        text.messages = [*map(dict, self._chat.messages), text.message]
        text.check()
        return text
