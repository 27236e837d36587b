"""The vision tower of a model, opened when the first picture comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ._alive import Alive
from ._handles import Model
from .errors import ModelUnsupported, VisionMissing

if TYPE_CHECKING:
    from .vision import Tower


class LazyTower:
    """Call it for the tower; VisionMissing when there is none."""

    def __init__(self, model: Model, alive: Alive, find: Callable[[], Path] | None) -> None:
        self._model, self._alive, self._find = model, alive, find
        self._lock = threading.Lock()

    def __call__(self) -> Tower:
        from .vision import Tower

        with self._alive, self._lock:
            if self._alive.tower is None:
                if self._find is None:
                    raise VisionMissing("this Llama was opened without a vision tower")
                try:
                    self._alive.tower = Tower(self._model, self._find())
                except ModelUnsupported as error:
                    raise VisionMissing(str(error)) from error
            return self._alive.tower
