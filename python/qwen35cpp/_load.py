"""Settings of a Llama that depend on each other: rotary scaling, context, cache types, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import _memory
from ._handles import KV_TYPES, Model
from .errors import InvalidArgument
from .types import ModelInfo

RopeScaling = str | Mapping[str, Any] | None


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


def fitting(
    model: Model,
    n_ctx: int | None,
    kv_type: str,
    n_batch: int | None,
    n_parallel: int,
    cache: int | None,
    limit: int | None,
    draft: int,
) -> _memory.Needs:
    """The context, cache type and bytes of the prefix cache to use.

    Raises:
        NotEnoughMemory: the context does not fit into the limit, or a context that was asked for
            does not fit into the memory of the machine.
    """
    native = model.info.n_ctx_train
    exact = "f32" if model.info.matrix_type == "F32" else "f16"
    # Before the estimates, which make the scratch that they count.
    process = _memory.resident() - model.info.weight_bytes if limit is not None else 0

    def needs(kind: str, tokens: int) -> _memory.Needs:
        sizes = model.estimate(
            model.n_threads, n_ctx=tokens, n_batch=n_batch, kv_type=KV_TYPES[kind], draft=draft
        )
        kept = _memory.default_cache(tokens, sizes.state) if cache is None else cache
        if cache is None and limit is not None:
            kept = min(kept, limit // 8)
        return _memory.Needs(
            n_ctx=tokens,
            kv_type=kind,
            weights=model.info.weight_bytes,
            kv=sizes.kv * n_parallel,
            state=sizes.state * n_parallel,
            scratch=sizes.scratch,
            cache=kept,
            process=process,
        )

    kinds = (exact, *_memory.KV_CHOICES[1:]) if kv_type == "auto" else (kv_type,)
    if limit is not None:
        return _memory.choose(limit, n_ctx, native, kinds, needs)
    chosen = needs(kinds[0], n_ctx or native)
    if n_ctx is not None:
        _check(chosen, n_parallel, lambda kind: needs(kind, n_ctx))
    return chosen


def _check(needs: _memory.Needs, n_parallel: int, of: Any) -> None:
    """Refuses a context of which not even one fits into what the machine has left."""
    available = _memory.memory()[1]
    one = _alone(needs, n_parallel)
    if available and one.total > available:
        raise _memory.refuse(one, available, lambda kind: _alone(of(kind), n_parallel))


def _alone(needs: _memory.Needs, n_parallel: int) -> _memory.Needs:
    """The memory still to be taken by one context: the weights are there already."""
    return replace(
        needs, kv=needs.kv // n_parallel, state=needs.state // n_parallel, weights=0, cache=0
    )
