"""Settings of a Llama that depend on each other: rotary scaling, context, cache types, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import _memory
from ._handles import DRAFTS, KV_TYPES, Model, SessionNeeds
from ._header import Header, TowerShape
from .errors import InvalidArgument, NotEnoughMemory
from .types import ModelInfo

RopeScaling = str | Mapping[str, Any] | None

_BATCH = 512  # tokens evaluated at once where nothing else is said
_PICTURES = 256 << 20  # bytes of kept rows of pictures where nothing else is said
_PATCHES, _MOST_PATCHES = 4096, 65_536  # of a picture of a megapixel, and of the largest
_THREADS = 2 << 20  # bytes of scratch that threads have for pictures
_MOST_DRAFTS, _TRAIL = 7, 32  # see csrc/model/state.h


def rope_factor(scaling: RopeScaling) -> float:
    """The factor of YaRN, 0 for positions as the file says.

    Mappings are those of the configurations of `transformers`.
    """
    if scaling is None:
        return 0.0
    fields: Mapping[str, Any] = {"rope_type": scaling} if isinstance(scaling, str) else scaling
    kind = fields.get("rope_type", fields.get("type"))
    other = set(fields) - {"rope_type", "type", "factor", "original_max_position_embeddings"}
    if kind != "yarn" or other:
        raise InvalidArgument(
            f"rope_scaling must be 'yarn' or a mapping with rope_type 'yarn' and factor, not "
            f"{scaling!r}"
        )
    factor = fields.get("factor", 4.0)
    if not isinstance(factor, (int, float)) or not 1 <= factor <= 1024:
        raise InvalidArgument(f"rope_scaling: factor must be from 1 to 1024, not {factor!r}")
    return float(factor)


def draft_sources(draft: str, info: ModelInfo) -> str:
    """What "auto" means for a model: every source of drafts that its file allows."""
    if draft != "auto":
        return draft
    return "both" if info.n_mtp_layer else "lookup"


@dataclass(frozen=True)
class Wanted:
    """What a Llama is asked to be, as far as its memory depends on it; see there."""

    n_ctx: int | None = None
    kv_type: str = "auto"
    n_batch: int | None = None
    n_parallel: int = 1
    draft: str = "auto"
    n_threads: int | None = None
    prefix_cache_bytes: int | None = None
    picture_cache_bytes: int | None = None
    memory_limit: int | None = None
    mapped: bool = False  # weights stay on the disk until they are used
    tower_named: bool = False  # the caller named the file of the vision tower


class Estimate:
    """What a model takes, calculated from the header of its file; weights need not be loaded.

    `header` and `tower` come from the headers of the files, `model` from one of them. `process`:
    bytes of interpreter and vocabulary; None: what this process has now.
    """

    def __init__(
        self,
        model: Model,
        header: Header,
        tower: TowerShape | None,
        wanted: Wanted,
        process: int | None = None,
    ) -> None:
        self._header, self._tower, self._wanted = header, tower, wanted
        self._model, self._info = model, model.info
        self._drafts = DRAFTS[draft_sources(wanted.draft, model.info)]
        self._token_bytes: dict[str, int] = {}
        self._sizes: SessionNeeds | None = None
        self._own = 0  # scratch of each context
        if tower is not None:
            from . import vision  # noqa: F401 - the libraries for pictures belong to the process
        self.process = _memory.resident() if process is None else process
        if process is None and model.info.weight_bytes and not wanted.mapped:
            self.process = max(self.process - model.info.weight_bytes, 0)

    def needs(self, kind: str, n_ctx: int, *, contexts: int | None = None) -> _memory.Needs:
        """The memory with full contexts of `n_ctx` tokens, `n_parallel` of them if not said."""
        wanted, tower = self._wanted, self._tower
        count = wanted.n_parallel if contexts is None else contexts
        sizes = self._measured(kind, n_ctx)
        limit = wanted.memory_limit
        cache = wanted.prefix_cache_bytes
        if cache is None:
            cache = _memory.default_cache(n_ctx, sizes.state)
            cache = cache if limit is None else min(cache, limit // 8)
        heads = self._header.draft_head if self._drafts & DRAFTS["mtp"] else 0
        return _memory.Needs(
            n_ctx=n_ctx,
            kv_type=kind,
            weights=self._header.weights,
            kv=self._token_bytes[kind] * n_ctx * count,
            state=sizes.state * count,
            scratch=sizes.scratch + (count - 1) * self._own + count * heads,
            contexts=count,
            vision=tower.bytes if tower else 0,
            encoding=_encoding(tower, limit) if tower else 0,
            pictures=kept_pictures(wanted) if tower else 0,
            cache=cache,
            process=self.process,
        )

    def _measured(self, kind: str, n_ctx: int) -> SessionNeeds:
        """Sizes that do not depend on the kind; making them takes a while."""
        wanted, ask = self._wanted, self._model.estimate
        if self._sizes is None:
            n_batch = min(wanted.n_batch or _BATCH, n_ctx)
            options = {"n_ctx": n_ctx, "draft": self._drafts, "kv_type": KV_TYPES[kind]}
            self._sizes = ask(wanted.n_threads, n_batch=wanted.n_batch, **options)
            self._token_bytes[kind] = self._sizes.token_bytes
            self._own = _own_scratch(self._info, self._sizes, n_batch, self._drafts)
        if kind not in self._token_bytes:
            small = {"n_ctx": _memory.SMALLEST, "n_batch": 8, "draft": self._drafts}
            self._token_bytes[kind] = ask(1, kv_type=KV_TYPES[kind], **small).token_bytes
        return self._sizes


def _own_scratch(info: ModelInfo, sizes: SessionNeeds, n_batch: int, draft: int) -> int:
    """Scratch of a session itself: a copy of its state, kept logits, what drafts need.

    See estimate_session in csrc/runtime/session.cpp, which counts it once.
    """
    floats = info.n_vocab
    if draft:
        k, v = info.n_lin_k_head * info.lin_head_dim, info.n_lin_v_head * info.lin_head_dim
        layers = sizes.state // 4 // (4 * (2 * k + v) + v * info.lin_head_dim)
        floats += _MOST_DRAFTS * (info.n_vocab + layers * (3 * k + 2 * v + info.n_lin_v_head))
    if draft & DRAFTS["mtp"]:
        floats += info.n_embd * (n_batch + _TRAIL)
    return sizes.state + 4 * floats


def kept_pictures(wanted: Wanted) -> int:
    """Bytes of the rows of pictures that are kept."""
    if wanted.picture_cache_bytes is not None:
        return wanted.picture_cache_bytes
    limit = wanted.memory_limit
    return _PICTURES if limit is None else min(_PICTURES, limit // 16)


def _encoding(tower: TowerShape, limit: int | None) -> int:
    """Scratch for the largest picture: of a megapixel, and with a large limit of more."""
    usual = tower.scratch(_PATCHES) + _THREADS
    return usual if limit is None else max(usual, min(limit // 8, tower.scratch(_MOST_PATCHES)))


def tower_shape(find: Callable[[], Path]) -> TowerShape | None:
    """The tower in the file that `find` gives; None when it has none."""
    return Header.read(bytes(find())).tower


def plan(
    path: bytes, factor: float, wanted: Wanted, tower: TowerShape | None
) -> tuple[Header, _memory.Needs | None]:
    """The header of a file, and what to use, decided before weights are read.

    None in place of the sizes: everything fits for certain, so that opening the file twice is
    spared, and `decided` calculates them when it is open.

    Raises:
        NotEnoughMemory: see `fitting`.
    """
    header = Header.read(path)
    if _fits_for_certain(header, factor, wanted, tower):
        return header, None
    model = Model(path, vocab_only=1, rope_factor=factor)
    try:
        return header, fitting(model, header, tower, wanted)
    finally:
        model.close()


def decided(
    model: Model,
    planned: tuple[Header, _memory.Needs | None] | None,
    tower: TowerShape | None,
    wanted: Wanted,
) -> _memory.Needs:
    """What to use, when the model is open; `planned` None: it was opened without weights."""
    if planned is None:
        n_ctx = wanted.n_ctx or model.info.n_ctx_train
        return _memory.Needs(n_ctx, wanted.kv_type, weights=0, kv=0, state=0, scratch=0)
    header, sizes = planned
    return fitting(model, header, tower, wanted) if sizes is None else sizes


def _fits_for_certain(
    header: Header, factor: float, wanted: Wanted, tower: TowerShape | None
) -> bool:
    """Whether even a generous guess fits."""
    limit = wanted.memory_limit
    have = _memory.memory()[1] if limit is None else limit - _memory.resident()
    if limit is None and not have:
        return True  # nobody knows
    count = 1 if limit is None else wanted.n_parallel
    n_ctx = wanted.n_ctx or round(header.n_ctx_train * max(factor, 1.0))
    width = 4 if header.float32 or wanted.kv_type == "f32" else 2
    guess = header.weights + count * n_ctx * width * header.cache_values
    guess += (256 + (wanted.n_batch or _BATCH) + 128 * count) << 20
    if limit is not None:
        cache = wanted.prefix_cache_bytes
        guess += min(_PICTURES << 1, limit // 8) if cache is None else cache
        if tower is not None:
            guess += tower.bytes + _encoding(tower, limit) + kept_pictures(wanted)
    return n_ctx > 0 and guess <= have


def fitting(
    model: Model, header: Header, tower: TowerShape | None, wanted: Wanted
) -> _memory.Needs:
    """The context, the type of its cache, and how memory is divided.

    `model` may be opened without weights; otherwise they are there, and count as such.

    Raises:
        NotEnoughMemory: it does not fit into the limit. Without one: weights and scratch do not
            fit into what the machine has left, or a context that was asked for is larger than the
            machine. Contexts are committed as they fill, so that one which was not asked for is
            made as long as there is memory now.
    """
    estimate = Estimate(model, header, tower, wanted)
    native = model.info.n_ctx_train
    exact = "f32" if header.float32 else "f16"
    kinds = (exact, *_memory.KV_CHOICES[1:]) if wanted.kv_type == "auto" else (wanted.kv_type,)
    if wanted.memory_limit is not None:
        asked = (wanted.memory_limit, wanted.n_ctx, native, kinds)
        try:
            return _memory.choose(*asked, estimate.needs)
        except NotEnoughMemory:
            if tower is None or wanted.tower_named:
                raise
            return _memory.choose(*asked, Estimate(model, header, None, wanted).needs)
    chosen = estimate.needs(kinds[0], wanted.n_ctx or native)
    total, available = _memory.memory()
    if not available or model.info.weight_bytes:
        return chosen
    swap_total, swap_free = _memory.swap()

    def one(kind: str) -> _memory.Needs:
        found = estimate.needs(kind, wanted.n_ctx or native, contexts=1)
        weights = 0 if wanted.mapped else found.weights
        return replace(found, weights=weights, process=0, cache=0, vision=0, encoding=0, pictures=0)

    alone, have = one(kinds[0]), available + swap_free
    shortest = alone.with_context(min(alone.n_ctx, _memory.SMALLEST))
    if shortest.total > have:
        raise _memory.refuse(
            shortest,
            have,
            lambda kind: one(kind).with_context(shortest.n_ctx),
            "take a file of fewer bits, or use_mmap=True, which leaves weights on the disk",
        )
    if wanted.n_ctx is not None and alone.total > total + swap_total:
        raise _memory.refuse(alone, have, one)
    if wanted.prefix_cache_bytes is None:
        chosen = replace(chosen, cache=min(chosen.cache, available // 8))
    if wanted.n_ctx is not None:
        return chosen
    alone = replace(alone, cache=min(chosen.cache, available // 8))
    longest = max(_memory.largest_context(alone, available), shortest.n_ctx)
    return chosen if longest >= native else chosen.with_context(longest)
