"""The options of a generation, and how they become a Request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ._engine import Engine
from ._generate import Request
from .errors import ContextTooLong, InvalidArgument
from .sampling import Sampling

if TYPE_CHECKING:
    from .structured.formats import Format
    from .vision import Budget, Limits, PicturePrompt, Preset, Source, View

Prompt = str | bytes | Sequence[int]
Stop = str | bytes | Sequence[str | bytes] | None
Progress = Callable[[int, int], None]


class _Options(TypedDict, total=False):
    max_tokens: int | None
    sampling: Sampling | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: Stop
    stop_token_ids: Iterable[int]
    ignore_eos: bool
    logprobs: int | None
    logit_bias: Mapping[int, float] | None
    budget: Budget | Preset
    limits: Limits | None
    progress: Progress | None
    schema: Any  # a JSON schema or a class
    regex: str | None
    choice: Sequence[str] | None


class ChatOptions(_Options, total=False):
    """The options that `Llama.chat` shares with `Llama.generate`, where they are explained.

    Some differ in a chat: sampling starts from what the model's card recommends for thinking or
    not, `stop` ends the text of the answer but no thought or call, `logprobs` are the text's, and
    `schema`, `regex` and `choice` hold for the answer behind the thought. Beside tools the answer
    may then be a call instead. Two are of chats alone: `overflow="drop"` lets a conversation that
    is too long for the context lose its oldest turns, but not its system prompt nor its last
    question; by default it is an error. `chat_template` renders this one, see Llama.
    """

    overflow: Literal["error", "drop"]
    chat_template: str | os.PathLike[str] | None


class GenerateOptions(_Options, total=False):
    """The optional arguments of `Llama.generate`."""

    special: bool
    images: Sequence[Source | View] | None


def prepare(
    engine: Engine,
    tokens: list[int] | PicturePrompt,
    card: Sampling,
    end_tokens: frozenset[int],
    seed: int | None,
    *,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    temperature: float | None = None,
    stop: Stop = None,
    stop_token_ids: Iterable[int] = (),
    ignore_eos: bool = False,
    logprobs: int | None = None,
    logit_bias: Mapping[int, float] | None = None,
    special: bool = False,
    progress: Progress | None = None,
    schema: Any = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    **settings: float | None,
) -> Request:
    """A request for an answer to `tokens`, or to tokens with pictures among them.

    `card` are the settings that the model's card recommends and `end_tokens` those that end its
    text; `settings` are the other fields of Sampling. The rest is explained at `Llama.generate`.
    """
    # The cards' penalties belong to sampling: greedy text is the plain argmax unless asked.
    start = sampling or (Sampling() if temperature == 0 else card)
    ends = frozenset(stop_token_ids)
    wanted = _format(schema, regex, choice)
    if wanted is not None and (stop or ends or ignore_eos):
        raise InvalidArgument(
            "a text with a schema, regex or choice ends where its form does: leave out stop, "
            "stop_token_ids and ignore_eos"
        )
    ids, spans = (tokens, ()) if isinstance(tokens, list) else (tokens.ids, tokens.spans)
    return Request(
        tokens=ids,
        max_tokens=_room(engine, len(ids), max_tokens),
        sampling=start.updated(temperature=temperature, **settings),
        seed=draw_seed(seed),
        stop=_stop_strings(stop),
        stop_tokens=ends if ignore_eos else ends | end_tokens,
        n_logprobs=logprobs,
        logit_bias=logit_bias or {},
        special=special,
        progress=progress,
        spans=spans,
        format=wanted,
    )


def _format(schema: Any, regex: str | None, choice: Sequence[str] | None) -> Format | None:
    if schema is None and regex is None and choice is None:
        return None
    from .structured.formats import format_of

    return format_of(schema, regex, choice)


def utf8(text: str | bytes) -> bytes:
    """UTF-8 for the tokenizer, which replaces what is ill-formed: a lone surrogate is passed on."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _room(engine: Engine, n_prompt: int, max_tokens: int | None) -> int:
    """How many tokens to generate at most; checks the prompt's length on the way."""
    if n_prompt == 0:
        raise InvalidArgument("the prompt is empty")
    if max_tokens is not None and max_tokens < 1:
        raise InvalidArgument(f"max_tokens must be at least 1, not {max_tokens}")
    engine.need_weights()
    n_ctx = engine.n_ctx
    room = n_ctx - n_prompt
    if room < 1:
        raise ContextTooLong(
            f"the prompt has {n_prompt} tokens and the answer needs room for one, "
            f"the context holds {n_ctx}"
        )
    return room if max_tokens is None else min(room, max_tokens)


def draw_seed(chosen: int | None) -> int:
    """The seed as the engine takes it; None draws one."""
    if chosen is None:
        return int.from_bytes(os.urandom(4), "little")
    return chosen & (2**64 - 1)  # -1 and the like are as good as any other


def _stop_strings(stop: Stop) -> tuple[bytes, ...]:
    items = [stop] if isinstance(stop, (str, bytes)) else list(stop or ())
    if not all(items):
        raise InvalidArgument("a stop string is empty")
    return tuple(utf8(item) for item in items)
