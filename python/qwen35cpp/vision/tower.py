"""The vision tower of a model: found, opened when the first picture comes, results kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _interrupt
from .._handles import Model, Vision
from ..errors import Cancelled, ModelNotFound
from .prompt import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CACHE_BYTES = 256 << 20


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


class Tower:
    """A vision tower and the rows of the pictures seen last.

    Rows are kept under a digest of the pixels, up to `cache_bytes`, least recently used first out.
    The caller makes sure that the model stays open during a call.
    """

    def __init__(self, model: Model, path: Path, cache_bytes: int = CACHE_BYTES) -> None:
        self._handle = Vision(model, bytes(path))
        self.info = self._handle.info
        self._kept: OrderedDict[bytes, Floats] = OrderedDict()
        self._kept_bytes, self._cache_bytes = 0, cache_bytes
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
        """
        with self._lock:
            found = self._kept.get(picture.digest)
            if found is not None:
                self._kept.move_to_end(picture.digest)
                return found
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

    def _keep(self, digest: bytes, rows: Floats) -> None:
        self._kept[digest] = rows
        self._kept_bytes += rows.nbytes
        while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
