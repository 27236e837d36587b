"""Files that a command writes: whole, or what was there stays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import FileError


@contextlib.contextmanager
def replacing(path: Path, *, text: bool = True) -> Iterator[IO[Any]]:
    """A file to write; it takes the place of `path` when nothing went wrong until the end.

    Raises:
        FileError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    form: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "newline": ""}
    try:
        with partial.open("w" if text else "wb", **(form if text else {})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
