"""What calls return: text with its figures, stream pieces, and OpenAI-shaped dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import AnswerInvalid

if TYPE_CHECKING:
    from .structured.formats import Format


@dataclass(frozen=True)
class VisionInfo:
    """Shape of a vision tower, see qwen35_vision_info in qwen35.h."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_out: int
    patch_size: int
    merge_size: int
    matrix_type: str
    n_params: int
    weight_bytes: int


@dataclass(frozen=True)
class ModelInfo:
    """Shape and size of an opened model; the names follow the Qwen 3.5 configuration."""

    n_layer: int  # trunk layers, without multi-token-prediction layers
    n_mtp_layer: int
    n_embd: int  # hidden size
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_rot: int
    n_lin_k_head: int
    n_lin_v_head: int
    lin_head_dim: int
    conv_kernel: int
    full_attention_interval: int
    n_vocab: int
    n_ctx_train: int
    tied_embeddings: bool
    eos_token: int  # -1 when absent, as pad_token
    pad_token: int
    n_params: int
    weight_bytes: int  # of all text tensors as stored
    step_bytes: int  # weight bytes read to decode one token
    step_macs: int  # multiply-accumulates of the matrices per decoded token
    file_type: int  # general.file_type, -1 when absent
    matrix_type: str  # the tensor type of most matrix bytes, e.g. "Q4_K"


@dataclass(frozen=True)
class DraftStatistics:
    """Drafts of a session since it was opened, see qwen35_draft_stats in qwen35.h."""

    drawn: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    passes: int = 0
    step_seconds: float = 0.0
    pass_seconds: float = 0.0
    rows: tuple[int, ...] = (0,) * 8
    row_seconds: tuple[float, ...] = (0.0,) * 8


@dataclass(frozen=True)
class HeadStatistics:
    """How the output head of a model was read, see qwen35_head_stats in qwen35.h."""

    looks: int
    groups: int
    read: int
    vain: int
    repairs: int
    bytes_saved: int


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt, evaluated by an earlier request

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Seconds of one request, waiting for other requests not included."""

    prefill_seconds: float
    decode_seconds: float
    prefill_tokens: int  # evaluated now, without cached ones
    decode_tokens: int
    drafted_tokens: int = 0  # checked beside the tokens that were certain
    accepted_tokens: int = 0  # of these, right: each saved a pass over the weights

    @property
    def prefill_per_second(self) -> float:
        """Prompt tokens per second, 0.0 when none were evaluated."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_per_second(self) -> float:
        """Generated tokens per second, 0.0 when none were."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token with the natural logarithm of its probability before temperature and truncation."""

    token: int
    piece: bytes  # what the token stands for, possibly part of a character
    logprob: float
    top: tuple[TokenLogprob, ...] = ()  # the most likely tokens of this position, best first


class Chunk(str):
    """A piece of streamed text with the tokens that it came from.

    A stop string or half a character may keep text back: a chunk can stand for several tokens, and
    the last one can be empty. Joined, the chunks are exactly the text of the same call without
    `stream`.
    """

    __slots__ = ("finish_reason", "logprobs", "tokens")
    tokens: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str | None  # "stop" or "length" on the last chunk

    @classmethod
    def create(
        cls,
        text: str,
        tokens: list[int],
        logprobs: list[TokenLogprob] | None,
        finish_reason: str | None,
    ) -> Chunk:
        """A chunk with its attributes."""
        chunk = cls(text)
        chunk.tokens, chunk.logprobs, chunk.finish_reason = tokens, logprobs, finish_reason
        return chunk


class Text(str):
    """Generated text: a str that also carries how it came about."""

    __slots__ = (
        "finish_reason", "logprobs", "output_format", "seed", "stop_reason", "timings", "tokens",
        "usage",
    )  # fmt: skip
    tokens: list[int]  # generated ids, without a stop token
    logprobs: list[TokenLogprob] | None  # one for each of tokens when asked for
    finish_reason: str  # "stop" or "length"
    stop_reason: str | int | None  # the stop string or stop token met
    usage: Usage
    timings: Timings
    seed: int  # gives the same text again
    output_format: Format | None  # what was asked for by schema, regex or choice

    def check(self) -> None:
        """Raises AnswerInvalid when the text ended by itself and is not of the format."""
        if self.output_format is not None and self.finish_reason == "stop":
            self.output_format.check(self)

    @property
    def parsed(self) -> Any:
        """What the text stands for when a schema, regex or choice was asked for, else None.

        An instance of the class that was the schema, the JSON value for a schema without a class,
        else the text. Made anew at every access.

        Raises:
            AnswerInvalid: the text was cut off, or the class refuses what its schema allows.
        """
        if self.output_format is None or self.finish_reason == "tool_calls":
            return None
        if self.finish_reason == "length":
            raise AnswerInvalid(
                f"the answer was cut off after {len(self.tokens)} tokens and is not whole",
                hint="raise max_tokens, or open the model with a larger n_ctx",
            )
        return self.output_format.parse(str(self))


class Record(dict[str, Any]):
    """A dictionary whose keys can also be read as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class CompletionLogprobs(Record):
    """Log-probabilities in the shape of OpenAI's completions."""

    tokens: list[str]
    text_offset: list[int]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]


class CompletionChoice(Record):
    """One answer of a completion."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class CompletionUsage(Record):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Record  # cached_tokens; not of embeddings


class CompletionTimings(Record):
    """How long the answers took, in milliseconds; the names are those of llama.cpp's server."""

    prompt_n: int  # evaluated now, without cached ones
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float

    @classmethod
    def of(cls, texts: Sequence[Text]) -> CompletionTimings:
        """The times of all texts together."""
        parts = [text.timings for text in texts]
        return cls._sum(
            sum(part.prefill_tokens for part in parts),
            1e3 * sum(part.prefill_seconds for part in parts),
            sum(part.decode_tokens for part in parts),
            1e3 * sum(part.decode_seconds for part in parts),
        )

    @classmethod
    def together(cls, parts: Sequence[CompletionTimings]) -> CompletionTimings:
        """The times of several completions as one."""
        names = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms")
        return cls._sum(*(sum(part[name] for part in parts) for name in names))

    @classmethod
    def _sum(
        cls, prompt_n: int, prompt_ms: float, predicted_n: int, predicted_ms: float
    ) -> CompletionTimings:
        return cls(
            prompt_n=prompt_n,
            prompt_ms=prompt_ms,
            prompt_per_second=1e3 * prompt_n / prompt_ms if prompt_ms else 0.0,
            predicted_n=predicted_n,
            predicted_ms=predicted_ms,
            predicted_per_second=1e3 * predicted_n / predicted_ms if predicted_ms else 0.0,
        )


class Completion(Record):
    """OpenAI's completion object with the time it took; with `stream=True` each of its chunks.

    Of the chunks the last has `usage` and `timings`, when `stream_options` ask for them.
    """

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    timings: CompletionTimings


class Embedding(Record):
    """One vector of an embedding response."""

    object: str
    embedding: list[float]
    index: int


class EmbeddingResponse(Record):
    """OpenAI's embedding list."""

    object: str
    data: list[Embedding]
    model: str
    usage: CompletionUsage
