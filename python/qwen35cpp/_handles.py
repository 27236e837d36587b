"""One small class for each object of the C API: it owns the handle and converts the arguments.

Nothing here decides anything; see _engine.py for how the objects are used together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ._native import check, ffi, lib, text, type_name
from .errors import InvalidArgument, Qwen35Error
from .sampling import Sampling
from .types import DraftStatistics, HeadStatistics, ModelInfo, TokenLogprob, VisionInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Buffer = bytes | bytearray | memoryview  # holding whole bytes, contiguous

MAX_BRANCH = 8  # tokens, see qwen35_session_branch()
KV_TYPES = {
    "auto": lib.QWEN35_KV_AUTO,
    "f32": lib.QWEN35_KV_F32,
    "f16": lib.QWEN35_KV_F16,
    "q8_0": lib.QWEN35_KV_Q8_0,
    "iq4_nl": lib.QWEN35_KV_IQ4_NL,
}


# Sources of drafts; "auto" takes what the file has, see Llama.
DRAFTS = {
    "off": 0,
    "mtp": lib.QWEN35_DRAFT_MTP,
    "lookup": lib.QWEN35_DRAFT_LOOKUP,
    "both": lib.QWEN35_DRAFT_MTP | lib.QWEN35_DRAFT_LOOKUP,
}

Drawn = tuple[int, "TokenLogprob | None"]


def _params(kind: str, defaults: Any, values: Mapping[str, Any]) -> Any:
    """A parameter struct with its defaults and every value that is not None."""
    params = ffi.new(f"{kind} *")
    params.struct_size = ffi.sizeof(kind)
    defaults(params)
    for name, value in values.items():
        if value is not None:
            try:
                setattr(params, name, value)
            except (OverflowError, TypeError) as error:
                raise InvalidArgument(f"{name}: {error}") from error
    return params


def _token_array(tokens: Iterable[int]) -> Any:
    try:
        return ffi.new("int32_t[]", tokens if isinstance(tokens, list) else list(tokens))
    except (OverflowError, TypeError) as error:
        raise InvalidArgument(f"tokens must be integers of the vocabulary: {error}") from error


def _progress(report: Callable[[int, int], None] | None) -> Any:
    """A C callback for a progress function; it lives as long as its arguments are referred to."""
    if report is None:
        return ffi.NULL

    def note(_user: Any, done: int, total: int) -> int:
        report(done, total)
        return 0

    return ffi.callback("qwen35_progress", note)


class SessionNeeds(NamedTuple):
    """Bytes of memory that a session takes."""

    token_bytes: int  # keys and values of a token
    kv: int  # of the whole context
    state: int
    scratch: int  # shared by all sessions of a model


class Model:
    """An opened model: immutable, used by any number of threads until closed."""

    def __init__(self, path: bytes, **params: float | None) -> None:
        filled = _params("qwen35_model_params", lib.qwen35_model_defaults, params)
        out = ffi.new("qwen35_model **")
        check(lib.qwen35_model_open(path, filled, out))
        self.pointer = out[0]
        self.n_threads: int = lib.qwen35_model_threads(self.pointer)
        self.info = self._info()

    def _info(self) -> ModelInfo:
        raw = ffi.new("qwen35_model_info *")
        check(lib.qwen35_model_get_info(self.pointer, raw))
        values = {name: getattr(raw, name) for name in ModelInfo.__dataclass_fields__}
        values["tied_embeddings"] = bool(raw.tied_embeddings)
        values["matrix_type"] = type_name(raw.matrix_type)
        return ModelInfo(**values)

    def estimate(self, n_threads: int | None = None, **params: int | None) -> SessionNeeds:
        """What a session with these parameters will take of memory."""
        filled = _params("qwen35_session_params", lib.qwen35_session_defaults, params)
        out = ffi.new("qwen35_session_needs *")
        check(lib.qwen35_session_estimate(self.pointer, n_threads or 0, filled, out))
        return SessionNeeds(out.token_bytes, out.kv, out.state, out.scratch)

    def close(self) -> None:
        """Frees the model; its sessions must be closed."""
        lib.qwen35_model_close(self.pointer)

    def string(self, key: str) -> str | None:
        """A string of the file's metadata, None when absent."""
        pointer = lib.qwen35_model_string(self.pointer, key.encode())
        return text(pointer) if pointer else None

    def tokenize(self, data: bytes, special: bool) -> list[int]:
        """Token ids of UTF-8 text."""
        flags = lib.QWEN35_TOKENIZE_SPECIAL if special else 0
        needed = ffi.new("size_t *")
        capacity = len(data) + 16  # rarely exceeded: a token stands for at least one byte
        while True:
            tokens = ffi.new("int32_t[]", capacity)
            call = (self.pointer, data, len(data), flags, tokens, capacity, needed)
            check(lib.qwen35_tokenize(*call))
            if needed[0] <= capacity:
                return list(ffi.unpack(tokens, needed[0]))
            capacity = needed[0]

    def token_bytes(self, token: int) -> tuple[bytes, bool]:
        """The bytes that a token stands for and whether it is a control token."""
        out, length, kind = ffi.new("char **"), ffi.new("size_t *"), ffi.new("int32_t *")
        try:
            check(lib.qwen35_token_bytes(self.pointer, token, out, length, kind))
        except (OverflowError, TypeError) as error:
            raise InvalidArgument(f"not a token: {token!r}") from error
        data = bytes(ffi.buffer(out[0], length[0])) if length[0] else b""
        return data, kind[0] == lib.QWEN35_TOKEN_CONTROL

    def head_statistics(self) -> HeadStatistics:
        """How the output head was read since the model was opened."""
        raw = ffi.new("qwen35_head_stats *")
        lib.qwen35_model_head_statistics(self.pointer, raw)
        return HeadStatistics(
            **{name: getattr(raw, name) for name in HeadStatistics.__dataclass_fields__}
        )

    def vocabulary(self) -> tuple[list[bytes], list[int]]:
        """The bytes of every token, and the ids of those that are not ordinary text."""
        out, length, kind = ffi.new("char **"), ffi.new("size_t *"), ffi.new("int32_t *")
        words, others = [], []
        for token in range(self.info.n_vocab):
            check(lib.qwen35_token_bytes(self.pointer, token, out, length, kind))
            words.append(ffi.unpack(out[0], length[0]) if length[0] else b"")
            if kind[0] != lib.QWEN35_TOKEN_NORMAL:
                others.append(token)
        return words, others


class Session:
    """One timeline of tokens: key-value cache and recurrent state. One thread at a time."""

    def __init__(self, model: Model, **params: int | None) -> None:
        filled = _params("qwen35_session_params", lib.qwen35_session_defaults, params)
        out = ffi.new("qwen35_session **")
        check(lib.qwen35_session_create(model.pointer, filled, out))
        self.pointer = out[0]
        self.n_ctx: int = lib.qwen35_session_context(self.pointer)

    def close(self) -> None:
        """Frees the session."""
        lib.qwen35_session_close(self.pointer)

    @property
    def position(self) -> int:
        """Tokens evaluated so far."""
        return int(lib.qwen35_session_position(self.pointer))

    def reset(self) -> None:
        """Forgets every token."""
        lib.qwen35_session_reset(self.pointer)

    def cancel(self) -> None:
        """Stops the running eval, or the next one; from any thread."""
        lib.qwen35_session_cancel(self.pointer)

    def clear_cancel(self) -> None:
        """Drops a cancel request that came too late."""
        lib.qwen35_session_clear_cancel(self.pointer)

    def memory(self) -> tuple[int, int]:
        """Bytes reserved for the context and bytes committed so far."""
        reserved, committed = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.qwen35_session_memory(self.pointer, reserved, committed)
        return reserved[0], committed[0]

    def eval(
        self,
        tokens: Sequence[int],
        outputs: Outputs | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        """Evaluates tokens at the current position; `report` gets (done, total) between chunks."""
        array = _token_array(tokens)
        struct = ffi.NULL if outputs is None else outputs.struct
        call = (self.pointer, array, len(array), struct, _progress(report), ffi.NULL)
        check(lib.qwen35_session_eval(*call))

    def branch(self, branches: Sequence[Sequence[int]], want: bytes, logits: Floats) -> None:
        """Evaluates continuations of 1 to MAX_BRANCH tokens that leave no trace, in one pass.

        `want` says for each of their tokens whether it gives a row of `logits`, float32 [rows,
        n_vocab].
        """
        lengths, tokens = _branch_arrays(branches)
        rows = ffi.from_buffer("float[]", logits, require_writable=True)
        wanted = ffi.from_buffer("uint8_t[]", want)
        call = (self.pointer, tokens, lengths, len(branches), wanted, rows)
        check(lib.qwen35_session_branch(*call))

    def eval_picture(
        self,
        rows: Floats,
        grid: tuple[int, int],
        report: Callable[[int, int], None] | None = None,
        hidden_sum: Floats | None = None,
    ) -> None:
        """Evaluates the rows of a picture, float32 [grid[0] * grid[1], hidden size].

        The states of its tokens after the last layer are added to `hidden_sum`, [hidden size].
        """
        values = ffi.from_buffer("float[]", rows)
        total = ffi.NULL if hidden_sum is None else ffi.from_buffer("float[]", hidden_sum)
        call = (self.pointer, values, *grid, total, _progress(report), ffi.NULL)
        check(lib.qwen35_session_eval_picture(*call))

    def logits(self, n_vocab: int) -> Floats:
        """A copy of the logits that the last eval kept, float32 [n_vocab]."""
        import numpy as np

        pointer = lib.qwen35_session_logits(self.pointer)
        if not pointer:
            raise InvalidArgument("the last evaluation kept no logits")
        values = np.frombuffer(ffi.buffer(pointer, 4 * n_vocab), np.float32)
        copy: Floats = values.copy()
        return copy

    def snapshot(self) -> bytearray:
        """What cannot be cut back: recurrent state, position, kept logits; not the caches."""
        out = bytearray(lib.qwen35_session_snapshot_bytes(self.pointer))
        check(lib.qwen35_session_snapshot(self.pointer, ffi.from_buffer(out), len(out)))
        return out

    def restore(self, snapshot: Buffer) -> None:
        """Goes to where a snapshot was taken; the caches must hold the tokens before it."""
        data = ffi.from_buffer(snapshot)
        check(lib.qwen35_session_restore(self.pointer, data, len(data)))

    @property
    def state_bytes(self) -> int:
        """Bytes of a snapshot without logits."""
        return int(lib.qwen35_session_state_bytes(self.pointer))

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's entries in all caches."""
        return int(lib.qwen35_session_token_bytes(self.pointer))

    def export_entries(self, first: int, n: int) -> bytearray:
        """The cache entries of n tokens from `first` on, [n, token_bytes]."""
        out = bytearray(n * self.token_bytes)
        check(lib.qwen35_session_export(self.pointer, first, n, ffi.from_buffer(out), len(out)))
        return out

    def import_entries(self, first: int, entries: Buffer) -> None:
        """Writes entries that an export gave from token `first` on."""
        data = ffi.from_buffer(entries)
        n = len(data) // self.token_bytes
        check(lib.qwen35_session_import(self.pointer, first, n, data, len(data)))

    def decode(
        self,
        tokens: Sequence[int],
        sampler: Sampler,
        stop_tokens: Sequence[int],
        most: int,
        limits: Limits | None = None,
    ) -> list[Drawn]:
        """Evaluates tokens and draws 1 to `most` that follow, see qwen35_session_decode.

        What `limits` raise comes out of it; where it hit behind tokens that were drawn, an error of
        this package is left for the next call to find.
        """
        array, stops, n = _token_array(tokens), _token_array(stop_tokens), ffi.new("size_t *")
        asked = None if limits is None else _Asked(limits)
        struct = ffi.NULL if asked is None else asked.struct
        call = (self.pointer, array, len(array), sampler.pointer, stops, len(stops), struct)
        status = lib.qwen35_session_decode(*call, sampler.drawn, min(most, len(sampler.drawn)), n)
        for error in () if asked is None else asked.errors:
            if status != lib.QWEN35_OK or not isinstance(error, Qwen35Error):
                raise error
        check(status)
        return sampler.results(n[0])

    def take_back(self, sampler: Sampler, n: int) -> None:
        """Undoes the last n tokens that the last decode drew."""
        check(lib.qwen35_session_take_back(self.pointer, sampler.pointer, n))

    def draft_context(self, tokens: Sequence[int]) -> None:
        """The text that lookups search."""
        array = _token_array(tokens)
        check(lib.qwen35_session_draft_context(self.pointer, array, len(array)))

    def draft_statistics(self) -> DraftStatistics:
        """What was drafted since the session was opened."""
        raw = ffi.new("qwen35_draft_stats *")
        lib.qwen35_session_draft_statistics(self.pointer, raw)
        values = {name: getattr(raw, name) for name in DraftStatistics.__dataclass_fields__}
        values["rows"], values["row_seconds"] = tuple(raw.rows), tuple(raw.row_seconds)
        return DraftStatistics(**values)

    def impose_acceptance(self, chances: Sequence[float]) -> None:
        """For benchmarks: has drafts taken for right by chance, see qwen35.h."""
        array = ffi.new("float[]", list(chances))
        check(lib.qwen35_session_impose_acceptance(self.pointer, array, len(array)))


class Vision:
    """A vision tower. One thread at a time encodes; its model must stay open."""

    def __init__(self, model: Model, path: bytes) -> None:
        out = ffi.new("qwen35_vision **")
        check(lib.qwen35_vision_open(model.pointer, path, out))
        self.pointer = out[0]
        raw = ffi.new("qwen35_vision_info *")
        check(lib.qwen35_vision_get_info(self.pointer, raw))
        values = {name: getattr(raw, name) for name in VisionInfo.__dataclass_fields__}
        values["matrix_type"] = type_name(raw.matrix_type)
        self.info = VisionInfo(**values)

    def close(self) -> None:
        """Frees the tower."""
        lib.qwen35_vision_close(self.pointer)

    def cancel(self) -> None:
        """Stops the running encode, or the next one; from any thread."""
        lib.qwen35_vision_cancel(self.pointer)

    def clear_cancel(self) -> None:
        """Drops a cancel request that came too late."""
        lib.qwen35_vision_clear_cancel(self.pointer)

    def encode(
        self,
        first: NDArray[np.uint8],
        second: NDArray[np.uint8] | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Floats:
        """Rows of a picture or frame pair [height, width, 3], float32 [tokens, hidden size]."""
        import numpy as np

        height, width = first.shape[:2]
        cell = self.info.patch_size * self.info.merge_size
        rows = np.empty((height // cell * (width // cell), self.info.n_out), np.float32)
        pair = [
            ffi.NULL if frame is None else ffi.from_buffer("uint8_t[]", np.ascontiguousarray(frame))
            for frame in (first, second)
        ]
        out = ffi.from_buffer("float[]", rows)
        call = (self.pointer, *pair, height, width, out, _progress(report), ffi.NULL)
        check(lib.qwen35_vision_encode(*call))
        return rows

    def scratch(self, height: int, width: int) -> int:
        """Bytes of scratch memory that encoding a picture of this size takes."""
        return int(lib.qwen35_vision_scratch(self.pointer, height, width))


class Tensor(NamedTuple):
    """A tensor in a file; `ne` are its dimensions, fastest first, 1 where unused."""

    name: str
    type: int
    ne: tuple[int, int, int, int]
    bytes: int


class Gguf:
    """A GGUF file, or all shards of one, with its header read and nothing else."""

    def __init__(self, path: bytes) -> None:
        out = ffi.new("qwen35_gguf **")
        check(lib.qwen35_gguf_open(path, out))
        self.pointer = out[0]

    def close(self) -> None:
        """Closes the file."""
        lib.qwen35_gguf_close(self.pointer)

    def tensors(self) -> list[Tensor]:
        """The tensors in the file's order."""
        raw = ffi.new("qwen35_gguf_tensor *")
        found = []
        for index in range(lib.qwen35_gguf_tensor_count(self.pointer)):
            check(lib.qwen35_gguf_get_tensor(self.pointer, index, raw))
            name = bytes(ffi.buffer(raw.name, raw.name_length)).decode("utf-8", "replace")
            found.append(Tensor(name, raw.type, tuple(raw.ne), raw.bytes))
        return found

    def values(self) -> Iterator[tuple[bytes, int, Buffer]]:
        """Key, type and bytes of each value of the metadata, valid until the next one."""
        raw = ffi.new("qwen35_gguf_value *")
        for index in range(lib.qwen35_gguf_value_count(self.pointer)):
            check(lib.qwen35_gguf_get_value(self.pointer, index, raw))
            key = bytes(ffi.buffer(raw.key, raw.key_length))
            yield key, raw.type, memoryview(ffi.buffer(raw.data, raw.bytes))

    def read(self, tensor: int, offset: int, n: int) -> bytes:
        """A part of a tensor's data."""
        out = bytearray(n)
        check(lib.qwen35_gguf_read(self.pointer, tensor, offset, ffi.from_buffer(out), n))
        return bytes(out)


class Outputs:
    """Where an eval writes its results; the arrays must have the shapes of qwen35_outputs.

    `snapshots`: after how many tokens of the eval one is taken, and memory for it. `branches`:
    continuations whose tokens count behind those of the eval.
    """

    def __init__(
        self,
        *,
        want: bytes | None = None,
        logits: Floats | None = None,
        hidden: Floats | None = None,
        hidden_sum: Floats | None = None,
        snapshots: Mapping[int, bytearray] | None = None,
        branches: Sequence[Sequence[int]] = (),
    ) -> None:
        self.struct = ffi.new("qwen35_outputs *")
        self.struct.struct_size = ffi.sizeof("qwen35_outputs")
        self._alive: list[Any] = []
        if want is not None:
            self._alive.append(ffi.from_buffer("uint8_t[]", want))
            self.struct.want = self._alive[-1]
        if snapshots:
            places = sorted(snapshots)
            memory = [ffi.from_buffer(snapshots[at], require_writable=True) for at in places]
            at, to = ffi.new("uint32_t[]", places), ffi.new("void *[]", memory)
            self._alive += [at, to, *memory]
            self.struct.n_snapshots = len(places)
            self.struct.snapshot_at, self.struct.snapshots = at, to
        if branches:
            lengths, tokens = _branch_arrays(branches)
            self._alive += [lengths, tokens]
            self.struct.n_branches = len(branches)
            self.struct.branch_lengths, self.struct.branch_tokens = lengths, tokens
        for name, array in (("logits", logits), ("hidden", hidden), ("hidden_sum", hidden_sum)):
            if array is not None:
                self._alive.append(ffi.from_buffer("float[]", array, require_writable=True))
                setattr(self.struct, name, self._alive[-1])


def _branch_arrays(branches: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Lengths of branches, and their tokens."""
    lengths = ffi.new("uint32_t[]", [len(branch) for branch in branches])
    return lengths, _token_array([token for branch in branches for token in branch])


@dataclass(frozen=True)
class Branches:
    """Continuations of a prompt, which are evaluated with the end of it."""

    paths: Sequence[Sequence[int]]  # of 1 to MAX_BRANCH tokens
    want: bytes  # whether a token of them gives a row
    logits: Floats  # float32 [1 + rows, n_vocab]: behind the prompt, then behind these tokens

    def outputs(self, n: int, snapshots: Mapping[int, bytearray] | None = None) -> Outputs:
        """Of an eval of the last n tokens of the prompt."""
        want = bytes(n - 1) + b"\1" + self.want
        return Outputs(want=want, logits=self.logits, snapshots=snapshots, branches=self.paths)


class Sampler:
    """Draws tokens and remembers them for the penalties."""

    def __init__(
        self, model: Model, sampling: Sampling, *, seed: int, n_logprobs: int | None,
        logit_bias: Mapping[int, float],
    ) -> None:  # fmt: skip
        self._model = model
        self._logprobs = n_logprobs is not None
        bias_tokens = _token_array(logit_bias.keys())
        bias_values = ffi.new("float[]", list(logit_bias.values()))
        values = {
            **asdict(sampling),
            "seed": seed,
            "n_logprobs": -1 if n_logprobs is None else n_logprobs,
        }
        params = _params("qwen35_sampling_params", lib.qwen35_sampling_defaults, values)
        if logit_bias:
            params.bias_tokens, params.bias_values = bias_tokens, bias_values
            params.n_bias = len(logit_bias)
        out = ffi.new("qwen35_sampler **")
        check(lib.qwen35_sampler_create(model.pointer, params, out))
        self.pointer = ffi.gc(out[0], lib.qwen35_sampler_close)
        self.drawn = ffi.new("qwen35_sample[8]")  # as many as a decode draws at most

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Tells the sampler about the prompt, which only the repetition penalty looks at."""
        array = _token_array(tokens)
        check(lib.qwen35_sampler_accept(self.pointer, array, len(array), 1))

    def accept(self, tokens: Sequence[int]) -> None:
        """Tells the sampler about tokens of the answer that it did not draw."""
        array = _token_array(tokens)
        check(lib.qwen35_sampler_accept(self.pointer, array, len(array), 0))

    def allow(self, mask: bytes | None) -> None:
        """Limits the draws that follow to tokens whose bit is set; None lifts the limit."""
        words = ffi.NULL if mask is None else ffi.from_buffer("uint32_t[]", mask)
        check(lib.qwen35_sampler_allow(self.pointer, words, 0 if mask is None else len(words)))

    def results(self, n: int) -> list[Drawn]:
        """The n tokens drawn last, with their log-probabilities when they were asked for."""
        return [self._result(self.drawn[i]) for i in range(n)]

    def _result(self, drawn: Any) -> Drawn:
        token = int(drawn.token)
        if not self._logprobs:
            return token, None
        best = (drawn.top[i] for i in range(drawn.n_top))
        top = tuple(self._logprob(entry.token, entry.logprob) for entry in best)
        return token, self._logprob(token, drawn.logprob, top)

    def _logprob(
        self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        return TokenLogprob(token, self._model.token_bytes(token)[0], logprob, top)


class Limits(Protocol):
    """What may come next, see qwen35_limits; asked on the thread of a decode."""

    def follow(self, drafts: list[int]) -> int:
        """How many of the drafts may be evaluated."""

    def allow(self, drawn: list[int]) -> bytes:
        """The tokens allowed behind those that the decode has drawn, as Sampler.allow wants it."""


class _Asked:
    """Limits as C functions for one call."""

    def __init__(self, limits: Limits) -> None:
        self.errors: list[BaseException] = []
        words: list[Any] = []  # the functions do not refer to this object: that would be a cycle

        def follow(_user: Any, drafts: Any, n: int) -> int:
            return limits.follow(ffi.unpack(drafts, n))

        def allow(_user: Any, drawn: Any, n: int) -> Any:
            words[:] = [
                ffi.from_buffer("uint32_t[]", limits.allow(ffi.unpack(drawn, n) if n else []))
            ]
            return words[0]

        errors = self.errors

        def note(_kind: Any, error: BaseException, _trace: Any) -> None:
            errors.append(error)

        self._functions = (
            ffi.callback("size_t(void *, int32_t const *, size_t)", follow, 0, note),
            ffi.callback(
                "uint32_t const *(void *, int32_t const *, size_t)", allow, ffi.NULL, note
            ),
        )
        self.struct = ffi.new("qwen35_limits *")
        self.struct.struct_size = ffi.sizeof("qwen35_limits")
        self.struct.follow, self.struct.allow = self._functions


class Detokenizer:
    """Tokens to whole characters of text, with stop strings."""

    def __init__(self, model: Model, stop: Sequence[bytes], special: bool) -> None:
        strings = [ffi.from_buffer("char[]", item) for item in stop]
        lengths = ffi.new("size_t[]", [len(item) for item in stop])
        out = ffi.new("qwen35_stream **")
        call = (ffi.new("char *[]", strings), lengths, len(stop), int(special), out)
        check(lib.qwen35_stream_create(model.pointer, *call))
        self.pointer = ffi.gc(out[0], lib.qwen35_stream_close)
        self._text, self._length = ffi.new("char **"), ffi.new("size_t *")
        self._stopped = ffi.new("int32_t *")

    def push(self, token: int) -> tuple[str, int]:
        """The text that can be shown now and the index of the stop string met, else -1."""
        out = (self._text, self._length, self._stopped)
        check(lib.qwen35_stream_push(self.pointer, token, *out))
        return self._take(), self._stopped[0]

    def finish(self) -> str:
        """The text held back."""
        check(lib.qwen35_stream_finish(self.pointer, self._text, self._length))
        return self._take()

    def _take(self) -> str:
        if not self._length[0]:
            return ""
        return bytes(ffi.buffer(self._text[0], self._length[0])).decode("utf-8", "replace")
