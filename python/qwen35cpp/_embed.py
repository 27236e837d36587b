"""Vectors of texts from the states after the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._engine import Engine, Progress
from ._handles import Outputs
from .errors import InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray


def embed(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    pooling: str,
    normalize: bool,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """One row for each prompt: float32 [len(prompts), n_embd]."""
    if pooling not in ("mean", "last"):
        raise InvalidArgument(f"pooling must be 'mean' or 'last', not {pooling!r}")
    vectors = np.zeros((len(prompts), engine.info.n_embd), np.float32)
    with engine.hold() as held:
        slot = held.slot
        for done, tokens in enumerate(prompts):
            slot.reset()
            slot.eval(tokens, _outputs(tokens, vectors[done], pooling))
            if pooling == "mean":
                vectors[done] /= len(tokens)
            if progress is not None:
                progress(done + 1, len(prompts))
        slot.reset()
    if normalize and len(vectors):
        # float64: the square of a large float32 does not fit into float32.
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.maximum(norms, np.finfo(np.float64).tiny)).astype(np.float32)
    return vectors


def _outputs(tokens: Sequence[int], row: NDArray[np.float32], pooling: str) -> Outputs:
    """mean: the sum over all tokens into row; last: the state of the last token into row."""
    if pooling == "mean":
        return Outputs(want=b"\1" * len(tokens), hidden_sum=row)
    return Outputs(hidden=row)
