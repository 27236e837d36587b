"""Streams tensors to a GGUF file: row blocks are loaded and encoded in parallel, kept in order.

A block has about a million values, and only as many blocks as there are workers are under way, so
memory does not depend on the size of the model.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import metadata as md
from ._engine import encode
from ._errors import ConversionError
from .ggml_types import TensorType
from .writer import GgufWriter, TensorSpec

# 1 Mi values: 4 MB as float32 and about 16 MB with the copies of one conversion.
BLOCK_VALUES = 1 << 20
# 16 workers hold 18 blocks: below 300 MB.
MAX_WORKERS = 16
_F16_MAX = 65504.0

Progress = Callable[[int, int, str], None]  # bytes written, bytes in all, tensor
LoadRows = Callable[[int, int], NDArray[np.float32]]
CopyRows = Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True)
class Job:
    """A tensor to write: `load(start, stop)` gives rows as float32, to be encoded as `spec.type`.

    With `copy` instead, rows come as bytes that already have that type.
    """

    spec: TensorSpec
    load: LoadRows | None = None
    copy: CopyRows | None = None
    importance: NDArray[np.float32] | None = None  # [cols]

    def encode(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The stored bytes of rows [start, stop)."""
        if self.copy is not None:
            return self.copy(start, stop)
        assert self.load is not None
        values = self.load(start, stop)
        self._check(values, start)
        return encode(self.spec.type, values, self.importance)

    def _check(self, values: NDArray[np.float32], start: int) -> None:
        limit = np.float32(np.inf)
        if self.spec.type is TensorType.F16:
            limit = np.float32(_F16_MAX)
        peak = np.abs(values).max(initial=0)
        if np.isfinite(peak) and peak <= limit:
            return
        bad = ~(np.isfinite(values) & (np.abs(values) <= limit))
        row, col = np.argwhere(bad)[0]
        raise ConversionError(
            f"{self.spec.name}: value {values[row, col]} at row {start + row}, column {col}"
            f" does not fit {self.spec.type.name}",
            hint="the checkpoint is damaged" if limit == np.inf else "convert to bf16 instead",
        )


def worker_count() -> int:
    """CPUs that this process may use, within MAX_WORKERS."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, MAX_WORKERS))


def write_file(
    path: Path, metadata: md.Metadata, jobs: Sequence[Job], progress: Progress | None = None
) -> int:
    """Writes all jobs to `path`, atomically; returns the size of the file."""
    specs = [job.spec for job in jobs]
    data_bytes = sum(spec.bytes for spec in specs)
    done = 0
    workers = worker_count()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    try:
        with GgufWriter(path, metadata, specs) as writer:
            for name, data in _in_order(pool, jobs, workers + 2):
                writer.write(data)
                done += data.nbytes
                if progress is not None:
                    progress(done, data_bytes, name)
        return writer.total_bytes
    finally:
        pool.shutdown(cancel_futures=True)


def _blocks(jobs: Sequence[Job]) -> Iterator[tuple[Job, int, int]]:
    for job in jobs:
        rows = job.spec.rows
        step = max(1, BLOCK_VALUES // job.spec.ne[0])
        for start in range(0, rows, step):
            yield job, start, min(rows, start + step)


def _in_order(
    pool: ThreadPoolExecutor, jobs: Sequence[Job], window: int
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Encoded blocks in file order, at most `window` of them under way."""
    pending: deque[tuple[str, Future[NDArray[np.uint8]]]] = deque()
    for job, start, stop in _blocks(jobs):
        pending.append((job.spec.name, pool.submit(job.encode, start, stop)))
        if len(pending) >= window:
            name, future = pending.popleft()
            yield name, future.result()
    while pending:
        name, future = pending.popleft()
        yield name, future.result()
