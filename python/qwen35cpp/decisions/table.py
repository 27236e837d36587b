"""Every row of a CSV file decided, into another CSV file; a run that is broken off goes on."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _csv
from ..errors import FileError, InvalidArgument

if TYPE_CHECKING:
    from .decide import Decider, Decision


def decide_table(
    decider: Decider,
    source: Path,
    column: str,
    target: Path,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes the rows of `source` to `target` with a column NAME and NAME_p for each field.

    NAME_p is the probability of the likeliest value. Until all rows are done they are in
    `target`.part: a run that finds this file goes on behind its rows, after checking that they are
    the first ones of `source`.

    Returns:
        How many rows an earlier run had decided.

    Raises:
        InvalidArgument: the column is missing, or a field would replace one.
        FileError: a file cannot be read or written, or `target`.part belongs to something else.
    """
    with _said(source):
        header, rows = _csv.parse(str(source), source.read_bytes().decode("utf-8-sig"))
    if column not in header:
        raise InvalidArgument(
            f"{source} has no column {column!r}", hint=f"its columns are {', '.join(header)}"
        )
    added = [name for field in decider.names for name in (field, f"{field}_p")]
    for name in added:
        if name in header:
            raise InvalidArgument(
                f"{source} has a column {name!r} already: name the field otherwise"
            )
    part = target.with_name(target.name + ".part")
    with _said(part):
        known = _resumed(part, [*header, *added], rows, decider)
        with part.open("w" if not known else "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not known:
                writer.writerow([*header, *added])
            for done, row in enumerate(rows[known:], known + 1):
                decision = decider(row[header.index(column)])
                writer.writerow([*row, *_cells(decision, decider.names)])
                file.flush()
                if progress is not None:
                    progress(done, len(rows))
            os.fsync(file.fileno())
        part.replace(target)
    return known


def _resumed(part: Path, header: list[str], rows: Sequence[list[str]], decider: Decider) -> int:
    """How many rows of the file `part` can be kept; a last one that was cut off is dropped."""
    if not part.exists():
        return 0
    whole = 0  # bytes of the rows kept
    count = -1  # the header is no row
    for record, end in _records(part.read_bytes()):
        expected = header if count < 0 else rows[count] if count < len(rows) else None
        decided = record[len(expected or ()) :]
        fits = expected is not None and record[: len(expected)] == expected
        if not fits or (len(decided) == 2 * len(decider.names) and not decider.gave(decided[::2])):
            raise FileError(
                f"{part}: row {count + 1} does not belong to these rows and fields",
                hint="delete it to begin anew, or name another file",
            )
        if len(record) < len(header):
            break
        whole, count = end, count + 1
    os.truncate(part, whole)
    return max(count, 0) if whole else 0


def _records(data: bytes) -> Iterator[tuple[list[str], int]]:
    """The whole rows of a CSV file that ends anywhere, each with the byte behind it."""
    start = 0
    quoted = False
    for at, byte in enumerate(data):
        quoted ^= byte == ord('"')
        if byte == ord("\n") and not quoted:
            text = data[start:at].decode("utf-8", "replace")
            yield next(csv.reader([text])) if text else [], at + 1
            start = at + 1


def _cells(decision: Decision, names: Sequence[str]) -> list[Any]:
    cells: list[Any] = []
    for name in names:
        value = decision[name]
        shown = f"{value:.4f}" if isinstance(value, float) else value
        cells += [shown, f"{decision.confidence[name]:.4f}"]
    return cells


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Errors of the operating system in our words."""
    try:
        yield
    except FileError:
        raise
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise FileError(f"cannot use {path}: {error.strerror or error}") from error
