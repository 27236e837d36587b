"""Tables as files: CSV, TSV, JSON lines and plain lines of text."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from .. import _csv
from ..errors import FileError, InvalidArgument

FORMATS = ("csv", "tsv", "jsonl", "txt")

Row = dict[str, Any]


def format_of(name: str, given: str | None) -> str:
    """The format that a file's name says, unless it is given; text lines where nothing says it."""
    suffix = Path(name).suffix.lower().lstrip(".")
    suffix = {"ndjson": "jsonl", "tab": "tsv"}.get(suffix, suffix)
    return given or (suffix if suffix in FORMATS else "txt")


def read(name: str, kind: str) -> list[Row]:
    """The rows of a file, or of standard input for "-"; a line of text is a row {"text": line}.

    Raises:
        FileError: it cannot be read.
        InvalidArgument: a row is not of this format; the message has its number.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {name}: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name} is not UTF-8: {error}") from error
    if kind in ("csv", "tsv"):
        header, rows = _csv.parse(name, text, "," if kind == "csv" else "\t")
        return [dict(zip(header, row, strict=True)) for row in rows]
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if kind == "jsonl":
        return [_json_row(name, number, line) for number, line in enumerate(lines, 1) if line]
    return [{"text": line} for line in lines if line.strip()]


def _json_row(name: str, number: int, line: str) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"{name}, line {number}: no JSON: {error}") from error
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise InvalidArgument(f"{name}, line {number}: neither an object nor a string")
    return value


def write(file: IO[str], rows: Sequence[Row], kind: str) -> None:
    """Writes rows; a table gets the columns of all of them, in the order of their first use."""
    if kind in ("csv", "tsv"):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        delimiter = "," if kind == "csv" else "\t"
        writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
