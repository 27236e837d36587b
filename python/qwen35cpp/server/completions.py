"""POST /v1/completions and /v1/embeddings: OpenAI's."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from .. import _completion
from .._generate import TextStream
from ..types import CompletionTimings, Record, Text
from .answers import (
    SAMPLING,
    Body,
    Context,
    SamplingBody,
    check_options,
    given,
    report_progress,
)
from .errors import bad
from .jobs import Event, Job

_MOST_ANSWERS, _MOST_INPUTS = 8, 2048
Tokens = list[Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]]


class CompletionBody(SamplingBody, kw_only=True):
    """The fields of a completion."""

    prompt: str | list[Any]  # a text, token ids, or a list of either
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=_MOST_ANSWERS)] | None = None
    response_format: dict[str, Any] | None = None  # not OpenAI's: as in chat completions
    best_of: int | None = None
    suffix: str | None = None


_PASSED = (*SAMPLING, "logprobs", "echo", "suffix", "response_format")


def completion_work(context: Context, data: bytes) -> tuple[Callable[[Job], Iterator[Event]], bool]:
    """The work of a completion, and whether it streams."""
    body = msgspec.json.decode(data, type=CompletionBody)
    prompts = _prompts(body.prompt, "prompt", _MOST_ANSWERS)
    n = body.n or 1
    if len(prompts) * n > _MOST_ANSWERS:
        raise bad(f"at most {_MOST_ANSWERS} answers: prompts times n", "n")
    if body.best_of not in (None, n):
        raise bad("best_of is not supported; ask for n answers and choose", "best_of")
    options = given(body, *_PASSED)
    check_options(options)
    options["model"] = context.name
    seed = context.llama.seed if body.seed is None else body.seed
    # One call for each answer, with its index and seed.
    calls = [
        (prompt, {**options, "seed": None if seed is None else seed + i})
        for prompt in prompts
        for i in range(n)
    ]
    if not body.stream:
        return lambda job: _whole(context, job, calls), False
    include_usage = bool((body.stream_options or {}).get("include_usage"))
    return lambda job: _stream(context, job, body, calls, include_usage), True


def _whole(context: Context, job: Job, calls: list[tuple[Any, dict[str, Any]]]) -> Iterator[Event]:
    def drain(stream: TextStream) -> Text:
        text = job.stop.drain(stream)
        context.count(text)
        return text

    parts: list[Any] = []
    for index, (prompt, options) in enumerate(calls):
        context.check_length(prompt)
        part: Any = _completion.create(
            context.llama, prompt, False, job.stop.watched(options), drain
        )
        part.choices[0]["index"] = index
        parts.append(part)
    whole = parts[0]
    whole["choices"] = [part.choices[0] for part in parts]
    yield Record(whole, **_together(parts))


def _stream(
    context: Context,
    job: Job,
    body: CompletionBody,
    calls: list[tuple[Any, dict[str, Any]]],
    include_usage: bool,
) -> Iterator[Event]:
    ends: list[Any] = []  # what each answer says last
    shared: dict[str, Any] = {}
    for index, (prompt, options) in enumerate(calls):
        context.check_length(prompt)
        report_progress(
            job, body, options, lambda progress: _progress_chunk(context.name, progress)
        )
        chosen = {**job.stop.watched(options), "stream_options": {"include_usage": True}}
        chunks: Any = _completion.create(context.llama, prompt, True, chosen)
        for chunk in chunks:
            shared = shared or {name: chunk[name] for name in ("id", "created")}
            chunk.update(shared)
            if chunk.choices:
                chunk.choices[0]["index"] = index
                yield chunk
                continue
            context.count_last(chunk)
            ends.append(chunk)
    if include_usage:
        yield Record(ends[-1], **_together(ends))
    yield "[DONE]"


def _progress_chunk(model: str, progress: dict[str, int]) -> Event:
    """How much of a prompt was read, as a chunk without a choice."""
    return Record(
        id="cmpl-progress",
        object="text_completion",
        created=int(time.time()),
        model=model,
        choices=[],
        prompt_progress=progress,
    )


def _together(parts: list[Any]) -> dict[str, Any]:
    """Usage and timings of several answers as one."""
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage = Record({name: sum(part.usage[name] for part in parts) for name in counts})
    cached = sum(part.usage.prompt_tokens_details.cached_tokens for part in parts)
    usage["prompt_tokens_details"] = Record(cached_tokens=cached)
    timings = CompletionTimings.together([part.timings for part in parts])
    return {"usage": usage, "timings": timings}


class EmbeddingBody(Body, kw_only=True):
    """The fields of an embedding request."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: Any = None  # without a meaning here


def embedding_work(context: Context, data: bytes) -> Callable[[Job], Iterator[Event]]:
    """The work of an embedding request."""
    body = msgspec.json.decode(data, type=EmbeddingBody)
    texts = _prompts(body.input, "input", _MOST_INPUTS)
    width = context.llama.n_embd()
    if body.dimensions is not None and body.dimensions > width:
        raise bad(f"dimensions: the vectors have {width}", "dimensions")

    def work(job: Job) -> Iterator[Event]:
        llama = context.llama
        for text in texts:
            context.check_length(text)
        vectors = llama.embed(texts, **job.stop.watched({}))
        if body.dimensions is not None and body.dimensions < width:
            vectors = vectors[:, : body.dimensions]
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        n = sum(len(llama.tokenize(t)) if isinstance(t, str) else len(t) for t in texts)
        as_text = body.encoding_format == "base64"
        context.metrics.answered(prompt_tokens=n)
        yield {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _base64(vector) if as_text else vector.tolist(),
                }
                for index, vector in enumerate(vectors)
            ],
            "model": context.name,
            "usage": {"prompt_tokens": n, "total_tokens": n},
        }

    return work


def _base64(vector: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def _prompts(value: str | list[Any], where: str, most: int) -> list[str | list[int]]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str):
        return [value]
    if not value:
        raise bad(f"{where} is empty", where)
    if all(isinstance(item, int) for item in value):
        value = [value]
    if len(value) > most:
        raise bad(f"{where}: at most {most}", where)
    try:
        return msgspec.convert(value, list[str | Tokens])
    except msgspec.ValidationError:
        raise bad(f"{where} must be a text, token ids or a list of these", where) from None
