"""Tables with a header, read strictly: what does not fit is an error with its place."""

from __future__ import annotations

import csv
import io

from .errors import InvalidArgument

_LONGEST_CELL = 1 << 28  # characters; the csv module's own limit is 131,072


def parse(name: str, text: str, delimiter: str = ",") -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table, all of the header's length; empty lines are left out.

    Args:
        name: what errors call the table.
        text: the whole of it.
        delimiter: between two cells.

    Raises:
        InvalidArgument: there is no header, a row is longer or shorter than it, or a quote is
            wrong; the message has the line.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if rows and row and len(row) != len(rows[0]):
                raise InvalidArgument(
                    f"{name}, line {reader.line_num}: the row has {len(row)} cells, the header "
                    f"{len(rows[0])}"
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise InvalidArgument(f"{name}, line {reader.line_num}: {error}") from error
    if not rows:
        raise InvalidArgument(f"{name} is empty: expected a header")
    return rows[0], rows[1:]
