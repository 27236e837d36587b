"""Tokens of an answer -> thought, text and tool calls, told apart by token ids.

<think>, </think> and <tool_call> are single tokens. Where the model merely writes about them in
ordinary tokens nothing happens, so no search through the text can go wrong.

Deviations of the models are taken as they are meant: a <think> within a thought or a stray closing
tag is dropped, <tool_call> within a thought ends it, a second thought is a thought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._engine import Engine
from .answer import Kind
from .calls import CallDelta, CallParser, Event
from .values import Schema
from .vocabulary import END_THINK, END_TOOL_CALL, THINK, TOOL_CALL, Vocabulary


@dataclass(frozen=True)
class Part:
    """A piece of an answer."""

    kind: Kind
    text: str = ""  # of the answer or the thought
    call: CallDelta | None = None


class AnswerReader:
    """Takes one token after another and gives the parts that are certain."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        *,
        thinking: bool,
        parameters: Mapping[str, Schema],
        stop: Sequence[bytes] = (),
    ) -> None:
        """`thinking`: the prompt ended within a thought; `stop` ends the text, not the thought."""
        self._think, self._end_think = vocabulary.id(THINK), vocabulary.id(END_THINK)
        self._call, self._end_call = vocabulary.id(TOOL_CALL), vocabulary.id(END_TOOL_CALL)
        self._calls = CallParser(parameters)
        self._blanks = {"text": "", "reasoning": ""}  # held back: nothing may follow them
        self._begun: set[Kind] = set()
        self._words = _Characters(engine, stop)
        self._others = _Characters(engine, ())
        self.thinking = thinking
        self.stopped = -1  # index of the stop string met
        self.reasoning_tokens = 0
        self.n_calls = 0  # that have ended

    @property
    def in_call(self) -> bool:
        """Whether a tool call is open."""
        return self._calls.inside

    @property
    def text_begun(self) -> bool:
        """Whether there is any text of the answer yet."""
        return "text" in self._begun

    def push(self, token: int) -> list[Part]:
        """The next token of the answer."""
        if self._calls.inside:
            return self._feed(self._others.push(token)[0])
        if self.thinking and token not in (self._end_think, self._call):
            self.reasoning_tokens += 1  # also of tags that are dropped: they took up budget
        if token == self._think:
            parts = [] if self.thinking else self._flush_words()
            self.thinking = True
            return parts
        if token == self._end_think:
            return self._end_thought()
        if token == self._call:
            parts = self._end_thought() if self.thinking else self._flush_words()
            self._blanks["text"] = ""
            return parts + self._shaped(self._calls.open())
        if token == self._end_call:
            return []
        if self.thinking:
            return self._show("reasoning", self._others.push(token)[0])
        text, self.stopped = self._words.push(token)
        parts = self._feed(text)
        # A bare call has begun: what is still held back belongs to it.
        return parts + self._flush_words() if self._calls.inside else parts

    def finish(self, *, cut: bool) -> list[Part]:
        """The end of the answer; `cut`: by a limit and not by the model."""
        if self._calls.inside:
            parts = self._feed(self._others.end())
        elif self.stopped >= 0:
            parts = []
        else:
            parts = self._end_thought() if self.thinking else self._flush_words()
        parts += self._shaped(self._calls.finish(cut=cut))
        blanks, self._blanks["text"] = self._blanks["text"], ""
        return [*parts, Part("text", blanks)] if blanks and not self.n_calls else parts

    def _end_thought(self) -> list[Part]:
        if not self.thinking:
            return []
        self.thinking = False
        return self._show("reasoning", self._others.end())

    def _flush_words(self) -> list[Part]:
        return self._feed(self._words.end())

    def _feed(self, text: str) -> list[Part]:
        return self._shaped(self._calls.feed(text)) if text else []

    def _shaped(self, events: Sequence[Event]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            if isinstance(event, str):
                parts += self._show("text", event)
            else:
                self._blanks["text"] = ""  # the blank lines between text and call
                self.n_calls += event.done
                parts.append(Part("tool_call", call=event))
        return parts

    def _show(self, kind: Kind, text: str) -> list[Part]:
        """Text without the line breaks that the format puts around it."""
        text = self._blanks[kind] + text
        if kind not in self._begun:
            text = text.lstrip("\n")
        body = text.rstrip()
        self._blanks[kind] = text[len(body) :]
        if not body:
            return []
        self._begun.add(kind)
        return [Part(kind, body)]


class _Characters:
    """Whole characters of tokens. A part has its own: no character spans two parts."""

    def __init__(self, engine: Engine, stop: Sequence[bytes]) -> None:
        self._engine, self._stop = engine, stop
        # Now, so that bad stop strings fail before a long prompt.
        self._stream = engine.text_stream(stop)

    def push(self, token: int) -> tuple[str, int]:
        return self._engine.push(self._stream, token)

    def end(self) -> str:
        """What was held back; the next token begins anew."""
        rest = self._engine.finish(self._stream)
        self._stream = self._engine.text_stream(self._stop)
        return rest
