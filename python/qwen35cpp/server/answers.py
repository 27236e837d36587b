"""What the protocols share: fields of requests, answers of the model, figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec

from ..chat.answer import ChatChunk, ChatText
from ..chat.conversation import ChatRequest, ChatStream
from ..chat.openai import chat_requests
from ..errors import ContextTooLong
from ..llama import Llama
from ..types import Text
from .errors import bad
from .jobs import Event, Job
from .media import check_media
from .metrics import Metrics
from .settings import Settings

Objects = list[dict[str, Any]]
Limit = Annotated[int, msgspec.Meta(ge=-1)]  # of tokens; 0 and -1: until the context is full
Stops = str | list[str] | None

_LONG, _PIECE = 1 << 20, 1 << 18  # characters
_CUT = 64  # tokens that a piece may have more because it was cut
_MOST_STOPS, _LONGEST_STOP, _MOST_TOOLS = 16, 256, 128
_PROGRESS_PAUSE = 0.2  # seconds between two reports


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The JSON of a request. A field that no protocol knows is an error that names it."""

    model: str | None = None  # any name: there is one model
    stream: bool | None = None
    return_progress: bool | None = None  # llama.cpp's: tells how much of the prompt was read


def given(body: Body, *names: str) -> dict[str, Any]:
    """The fields that a request sets."""
    values = ((name, getattr(body, name)) for name in names)
    return {name: value for name, value in values if value is not None}


def report_progress(
    job: Job, body: Body, options: dict[str, Any], shape: Callable[[dict[str, int]], Event]
) -> None:
    """Lets a stream tell of its prompt while it is read, when the request asks for it.

    Args:
        job: the request at work.
        body: the request.
        options: of its answer; gets a `progress`.
        shape: makes an event of {"processed": tokens, "total": tokens, "time_ms": ...}.
    """
    if not (body.stream and body.return_progress):
        return
    begun = sent = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal sent
        now = time.monotonic()
        if not total or (now - sent < _PROGRESS_PAUSE and done < total):
            return
        sent = now
        milliseconds = round(1e3 * (now - begun))
        job.emit(shape({"processed": done, "total": total, "time_ms": milliseconds}))

    options["progress"] = report


def check_options(options: Mapping[str, Any]) -> None:
    """Limits of what is common to the protocols, under the names of chat completions."""
    stop = options.get("stop") or ()
    stops = [stop] if isinstance(stop, str) else stop
    if len(stops) > _MOST_STOPS or any(len(s.encode("utf-8", "replace")) > _LONGEST_STOP
                                       for s in stops):  # fmt: skip
        raise bad(f"stop: at most {_MOST_STOPS} texts of {_LONGEST_STOP} bytes", "stop")
    if len(options.get("tools") or ()) > _MOST_TOOLS:
        raise bad(f"tools: at most {_MOST_TOOLS}", "tools")
    for key in options.get("logit_bias") or ():
        if not key.isascii() or not key.isdigit():
            raise bad(f"logit_bias: {key[:40]!r} is not a token id", "logit_bias")


class SamplingBody(Body, kw_only=True):
    """What chat completions and completions share."""

    max_tokens: Limit | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: Stops = None
    logit_bias: dict[str, float] | None = None
    stream_options: dict[str, Any] | None = None
    # Without a meaning here.
    cache_prompt: Any = None
    user: Any = None


# Its fields that are passed on as they are; each call has a seed of its own.
SAMPLING = (
    "max_tokens", "temperature", "top_p", "min_p", "top_k", "frequency_penalty",
    "presence_penalty", "repeat_penalty", "stop", "logit_bias",
)  # fmt: skip


class Writer(Protocol):
    """An answer in the shape of a protocol while it grows, and the events that tell of it."""

    whole: dict[str, Any]

    def push(self, chunk: ChatChunk) -> list[Event]:
        """The events of a chunk."""

    def finish(self, text: ChatText) -> list[Event]:
        """The last events."""


@dataclass(frozen=True)
class Context:
    """What endpoints work with."""

    llama: Llama
    name: str
    settings: Settings
    metrics: Metrics

    def chat_request(
        self, job: Job | None, messages: Objects, options: Mapping[str, Any]
    ) -> ChatRequest:
        """A checked request for one answer; `job` None: it is only looked at."""
        (request,) = self.chat_requests(job, messages, options)
        return request

    def chat_requests(
        self, job: Job | None, messages: Objects, options: Mapping[str, Any]
    ) -> list[ChatRequest]:
        """Checked requests, one for each answer."""
        self.check(messages, options, cut=job is not None)
        watched = dict(options) if job is None else self.watched(job, options)
        return chat_requests(self.llama, messages, watched)

    def watched(self, job: Job, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of an answer that can be stopped, with the server's policy for long chats."""
        return job.stop.watched({**options, "overflow": self.settings.overflow})

    def check(self, messages: Objects, options: Mapping[str, Any], *, cut: bool = False) -> None:
        """Limits of a chat. `cut`: turns of it may be dropped, so that its length is free."""
        check_options(options)
        check_media(messages, self.settings.max_images)
        if not cut or self.settings.overflow == "error":
            self.check_length(messages)

    def check_length(self, prompt: Any) -> None:
        """Refuses a prompt that is far too long, before it takes memory as tokens."""
        texts = list(_texts(prompt))
        if sum(map(len, texts)) < _LONG:
            return
        count, most = 0, self.llama.n_ctx()
        for text in texts:
            for start in range(0, len(text), _PIECE):
                piece = self.llama.tokenize(text[start : start + _PIECE])
                count += max(len(piece) - _CUT, 0)
                if count > most:
                    raise ContextTooLong(f"the prompt is longer than the context of {most} tokens")

    def answer(self, request: ChatRequest) -> ChatStream:
        """The answer to a request."""
        return self.llama._chat().answer(request)

    def count(self, text: Text) -> None:
        """Adds an answer to the metrics."""
        self.metrics.answered(
            prompt_tokens=text.usage.prompt_tokens,
            cached_tokens=text.usage.cached_tokens,
            completion_tokens=text.usage.completion_tokens,
            prefill_seconds=text.timings.prefill_seconds,
            decode_seconds=text.timings.decode_seconds,
        )

    def count_last(self, last: Any) -> None:
        """Adds the answer that the last chunk of a completion sums up."""
        usage, timings = last.usage, last.timings
        self.metrics.answered(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.prompt_tokens_details.cached_tokens,
            completion_tokens=usage.completion_tokens,
            prefill_seconds=timings.prompt_ms / 1e3,
            decode_seconds=timings.predicted_ms / 1e3,
        )

    def write(
        self, job: Job, request: ChatRequest, writer: Writer, events: list[Event], body: Body
    ) -> Iterator[Event]:
        """Answers: events as they come, beginning with `events`, or the whole in the end."""
        stream = bool(body.stream)
        if stream and body.return_progress:
            yield from events  # what tells of the prompt comes behind
            events = []
        with self.answer(request) as chunks:
            for chunk in chunks:
                events += writer.push(chunk)
                if stream and events:
                    yield from events
                    events = []
                else:
                    job.stop.check()
            events += writer.finish(self.finished(chunks))
        if stream:
            yield from events
        else:
            yield writer.whole

    def finished(self, stream: ChatStream) -> ChatText:
        """The whole of a stream that was read to its end, counted."""
        text = stream.drain()
        self.count(text)
        return text


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, wherever they stand; pictures are none."""
    if isinstance(value, str):
        if value[:5].lower() != "data:":
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def text_of(parts: Any, where: str) -> str:
    """A text given as a string or as parts of text."""
    if isinstance(parts, str):
        return parts
    refusal = bad(f"{where} must be a text or a list of text parts", where)
    if not isinstance(parts, Sequence):
        raise refusal
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise refusal
    return "".join(map(str, texts))
