"""Vectors of texts and pictures from the states after the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._engine import Engine, Progress
from ._handles import Outputs
from ._slot import Slot
from .errors import ContextTooLong, InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .vision import PicturePrompt

    Floats = NDArray[np.float32]


def embed(
    engine: Engine,
    prompts: Sequence[Sequence[int] | PicturePrompt],
    pooling: str,
    normalize: bool,
    progress: Progress | None,
) -> Floats:
    """One row for each prompt: float32 [len(prompts), n_embd]."""
    if pooling not in ("mean", "last"):
        raise InvalidArgument(f"pooling must be 'mean' or 'last', not {pooling!r}")
    for index, tokens in enumerate(map(_ids, prompts)):
        if len(tokens) > engine.n_ctx:
            raise ContextTooLong(
                f"prompt {index} has {len(tokens)} tokens, the context holds {engine.n_ctx}"
            )
    vectors = np.zeros((len(prompts), engine.info.n_embd), np.float32)
    with engine.hold() as held:
        slot = held.slot
        for done, prompt in enumerate(prompts):
            slot.reset()
            _add(slot, prompt, vectors[done], pooling, progress, done, len(prompts))
            if pooling == "mean":
                vectors[done] /= len(_ids(prompt))
            if progress is not None:
                progress(done + 1, len(prompts))
        slot.reset()
    if normalize and len(vectors):
        # float64: the square of a large float32 does not fit into float32.
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.maximum(norms, np.finfo(np.float64).tiny)).astype(np.float32)
    return vectors


def _ids(prompt: Sequence[int] | PicturePrompt) -> Sequence[int]:
    return prompt if isinstance(prompt, Sequence) else prompt.ids


def _add(
    slot: Slot,
    prompt: Sequence[int] | PicturePrompt,
    row: Floats,
    pooling: str,
    progress: Progress | None,
    done: int,
    total: int,
) -> None:
    """mean: adds the states of all tokens to row; last: puts that of the last token into it.

    There is text before, between and behind pictures: their markers.
    """
    if isinstance(prompt, Sequence):
        slot.eval(prompt, _outputs(prompt, row, pooling))
        return
    alive = None if progress is None else (lambda _done, _total: progress(done, total))
    at, ids = 0, prompt.ids
    for span in prompt.spans:
        slot.eval(ids[at : span.start], _outputs(ids[at : span.start], row, pooling))
        summed = row if pooling == "mean" else None
        slot.eval_picture(span.picture, ids[span.start : span.end], alive, summed)
        at = span.end
    slot.eval(ids[at:], _outputs(ids[at:], row, pooling))


def _outputs(tokens: Sequence[int], row: Floats, pooling: str) -> Outputs:
    if pooling == "mean":
        return Outputs(want=b"\1" * len(tokens), hidden_sum=row)
    return Outputs(hidden=row)
