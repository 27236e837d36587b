"""The vision tower of a model and the rows of the pictures seen last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _interrupt
from .._handles import Model, Vision
from .._lazy_tower import find_tower
from ..errors import Cancelled, NotEnoughMemory
from .prompt import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["Tower", "find_tower"]


class Tower:
    """A vision tower and the rows of the pictures seen last.

    Rows are kept under a digest of the pixels, up to `cache_bytes`, least recently used first out.
    Pictures that need more than `most_scratch` bytes to be encoded are refused. The caller makes
    sure that the model stays open during a call.
    """

    def __init__(
        self, model: Model, path: Path, cache_bytes: int, most_scratch: int | None = None
    ) -> None:
        self._handle = Vision(model, bytes(path))
        self.info = self._handle.info
        self._kept: OrderedDict[bytes, Floats] = OrderedDict()
        self._kept_bytes, self._cache_bytes = 0, cache_bytes
        self._most_scratch = most_scratch
        self._lock = threading.Lock()
        self._encoding = False
        self.encoded = 0  # pictures that were not in the cache

    def close(self) -> None:
        """Frees the tower."""
        self._handle.close()

    def cancel(self) -> None:
        """Stops the encode that runs now, from any thread."""
        if self._encoding:
            self._handle.cancel()

    def rows(
        self,
        picture: View,
        progress: _interrupt.Report | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Floats:
        """Rows of a picture, float32 [tokens, hidden size]; `progress` gets layers.

        `stopped` says whether the caller was cancelled while it waited for the tower; then, and
        when cancel() is called, Cancelled is raised.

        Raises:
            NotEnoughMemory: the picture is larger than the memory limit allows.
        """
        with self._lock:
            found = self._kept.get(picture.digest)
            if found is not None:
                self._kept.move_to_end(picture.digest)
                return found
            self._check_scratch(picture)
            frames = picture.frames()
            rows: list[Any] = []

            def encode(report: _interrupt.Report) -> None:
                rows.append(self._handle.encode(*frames, report))

            self._handle.clear_cancel()
            self._encoding = True
            try:
                if stopped():  # asked after cancel() has begun to reach the tower
                    raise Cancelled("cancelled before the picture was encoded")
                _interrupt.run(encode, self._handle.cancel, progress)
            finally:
                self._encoding = False
                self._handle.clear_cancel()
            self.encoded += 1
            self._keep(picture.digest, rows[0])
            out: Floats = rows[0]
            return out

    def _check_scratch(self, picture: View) -> None:
        most = self._most_scratch
        side = self.info.patch_size * self.info.merge_size
        height, width = (side * n for n in picture.grid)
        need = self._handle.scratch(height, width)
        if most is None or need <= most:
            return
        pixels = height * width
        while (
            pixels >= 1 << 17 and self._handle.scratch(side, pixels // side // side * side) > most
        ):
            pixels -= 1 << 16
        raise NotEnoughMemory(
            f"a picture of {width} x {height} pixels takes {need / 1e6:.0f} MB to be encoded, the "
            f"memory limit leaves {most / 1e6:.0f} MB",
            hint=f"what fits: budget=vision.Budget(max_pixels={pixels})"
            if pixels >= 1 << 17
            else "give a larger memory_limit",
        )

    def _keep(self, digest: bytes, rows: Floats) -> None:
        self._kept[digest] = rows
        self._kept_bytes += rows.nbytes
        while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
