"""Completions and embeddings in the shapes of OpenAI's API and llama-cpp-python."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ._compat import warn_ignored
from .types import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionTimings,
    CompletionUsage,
    Embedding,
    EmbeddingResponse,
    Record,
    Text,
    TokenLogprob,
)

if TYPE_CHECKING:
    from ._generate import TextStream
    from ._request import Progress, Prompt, Stop
    from .llama import Llama

_DEFAULT_MAX_TOKENS = 16  # OpenAI's, and llama-cpp-python's


class CompletionOptions(TypedDict, total=False):
    """Arguments of `Llama.create_completion`; all but `echo` are those of `Llama.generate`."""

    max_tokens: int | None  # 16; None or 0 and less: until the context is full
    temperature: float | None
    top_p: float | None
    min_p: float | None
    top_k: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repeat_penalty: float | None
    seed: int | None
    stop: Stop
    logprobs: int | None
    logit_bias: Mapping[int, float] | None
    echo: bool  # begin the text with the prompt
    model: str | None  # the name to report
    suffix: str | None
    typical_p: float
    tfs_z: float
    mirostat_mode: int
    mirostat_tau: float
    mirostat_eta: float
    user: str
    stream_options: Mapping[str, Any] | None  # {"include_usage": True}
    response_format: Any  # as in `Llama.create_chat_completion`
    progress: Progress | None  # as in `Llama.generate`


# Ours, where the name differs.
_NAMES = {"repeat_penalty": "repetition_penalty"}
_PASSED = frozenset({
    "temperature", "top_p", "min_p", "top_k", "frequency_penalty", "presence_penalty",
    "repeat_penalty", "seed", "stop", "logprobs", "progress",
})  # fmt: skip


def create(
    llama: Llama,
    prompt: Prompt,
    stream: bool,
    options: Mapping[str, Any],
    drain: Callable[[TextStream], Text] | None = None,
) -> Completion | Iterator[Completion]:
    """A completion, or an iterator of its chunks; `drain` reads a text to its end."""
    rest = dict(options)
    passed = {_NAMES.get(name, name): rest.pop(name) for name in _PASSED if name in rest}
    limit = rest.pop("max_tokens", _DEFAULT_MAX_TOKENS)
    passed["max_tokens"] = limit if limit is not None and limit > 0 else None
    bias = rest.pop("logit_bias", None) or {}
    passed["logit_bias"] = {int(token): value for token, value in bias.items()}
    if (wanted := rest.pop("response_format", None)) is not None:
        from .chat.openai import schema_wanted

        passed["schema"] = schema_wanted(wanted)
    echo = bool(rest.pop("echo", False))
    include_usage = bool((rest.pop("stream_options", None) or {}).get("include_usage"))
    frame = _Frame(llama, rest.pop("model", None))
    warn_ignored("create_completion", rest)

    start = _as_text(llama, prompt) if echo else ""
    chunks = llama.generate(prompt, stream=True, **passed)
    if stream:
        return _stream(frame, start, chunks, include_usage)
    text = drain(chunks) if drain else chunks.drain()
    offset = len(start)
    choice = frame.choice(start + text, text.logprobs, text.finish_reason, offset)
    return frame.completion(choice, **_figures(text))


def create_embedding(
    llama: Llama, texts: str | Sequence[Prompt], model: str | None
) -> EmbeddingResponse:
    """Embeddings in OpenAI's shape."""
    items: list[Prompt] = [texts] if isinstance(texts, str) else list(texts)
    data = [
        Embedding(object="embedding", embedding=vector.tolist(), index=index)
        for index, vector in enumerate(llama.embed(items))
    ]
    n = sum(len(llama.tokenize(i)) if isinstance(i, (str, bytes)) else len(i) for i in items)
    usage = CompletionUsage(prompt_tokens=n, completion_tokens=0, total_tokens=n)
    name = model or Path(llama.model_path).name
    return EmbeddingResponse(object="list", data=data, model=name, usage=usage)


class _Frame:
    """What all chunks of one completion share."""

    def __init__(self, llama: Llama, model: str | None) -> None:
        self._id = f"cmpl-{os.urandom(12).hex()}"
        self._created = int(time.time())
        self._model = model or Path(llama.model_path).name

    def completion(self, *choices: CompletionChoice, **more: Any) -> Completion:
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=list(choices),
            **more,
        )

    def choice(
        self,
        text: str,
        logprobs: Sequence[TokenLogprob] | None,
        finish_reason: str | None,
        offset: int,
    ) -> CompletionChoice:
        shaped = None if logprobs is None else _shape_logprobs(logprobs, offset)
        return CompletionChoice(text=text, index=0, logprobs=shaped, finish_reason=finish_reason)


def _stream(
    frame: _Frame, start: str, chunks: TextStream, include_usage: bool
) -> Generator[Completion, None, None]:
    """One completion for each chunk; the last has the finish reason and no text."""
    offset = len(start)
    if start:
        yield frame.completion(frame.choice(start, None, None, 0))
    reason = None
    with chunks:
        for chunk in chunks:
            reason = chunk.finish_reason
            if chunk or chunk.tokens:
                yield frame.completion(frame.choice(str(chunk), chunk.logprobs, None, offset))
                offset += len(chunk)
    yield frame.completion(frame.choice("", None, reason, offset))
    if include_usage and chunks.result is not None:
        yield frame.completion(**_figures(chunks.result))


def _shape_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs:
    offsets = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(_piece(entry))
    return CompletionLogprobs(
        tokens=[_piece(entry) for entry in logprobs],
        text_offset=offsets,
        token_logprobs=[entry.logprob for entry in logprobs],
        top_logprobs=[{_piece(best): best.logprob for best in entry.top} for entry in logprobs],
    )


def _piece(entry: TokenLogprob) -> str:
    return entry.piece.decode("utf-8", "replace")


def _figures(text: Text) -> dict[str, Any]:
    usage = CompletionUsage(
        prompt_tokens=text.usage.prompt_tokens,
        completion_tokens=text.usage.completion_tokens,
        total_tokens=text.usage.total_tokens,
        prompt_tokens_details=Record(cached_tokens=text.usage.cached_tokens),
    )
    return {"usage": usage, "timings": CompletionTimings.of([text])}


def _as_text(llama: Llama, prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return prompt.decode("utf-8", "replace") if isinstance(prompt, bytes) else llama.decode(prompt)
