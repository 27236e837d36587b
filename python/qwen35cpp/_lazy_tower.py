"""The vision tower of a model, opened when the first picture comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ._alive import Alive
from ._handles import Model
from .errors import ModelNotFound, ModelUnsupported, VisionMissing

if TYPE_CHECKING:
    from .vision import Tower


def find_tower(model_path: Path, mmproj: Path | None) -> Path:
    """The file of the tower: the one named, else one beside the model, else the model's own.

    Beside the model: `mmproj-NAME.gguf` for `NAME.gguf`, or the only file there whose name holds
    `mmproj`.
    """
    if mmproj is not None:
        if not mmproj.is_file():
            raise ModelNotFound(f"no vision file at {mmproj}")
        return mmproj
    own = model_path.with_name(f"mmproj-{model_path.name}")
    if own.is_file():
        return own
    beside = sorted(p for p in model_path.parent.glob("*mmproj*.gguf") if p.is_file())
    return beside[0] if len(beside) == 1 else model_path


class LazyTower:
    """Call it for the tower; VisionMissing when there is none.

    `kept` and `most_scratch` bound its memory, see vision.Tower.
    """

    def __init__(
        self,
        model: Model,
        alive: Alive,
        find: Callable[[], Path] | None,
        kept: int,
        most_scratch: int | None,
    ) -> None:
        self._model, self._alive, self._find = model, alive, find
        self._bounds = (kept, most_scratch)
        self._lock = threading.Lock()

    def __call__(self) -> Tower:
        from .vision import Tower

        with self._alive, self._lock:
            if self._alive.tower is None:
                if self._find is None:
                    raise VisionMissing("this Llama was opened without a vision tower")
                try:
                    self._alive.tower = Tower(self._model, self._find(), *self._bounds)
                except ModelUnsupported as error:
                    raise VisionMissing(str(error)) from error
            return self._alive.tower
