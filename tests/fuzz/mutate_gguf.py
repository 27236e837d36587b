"""Structure-aware mutations of GGUF files.

The header is cut into typed fields. Of the mutants 55 % set one or two fields to boundary values
(chosen by group: architecture numbers, tensor records, tokenizer, general), 15 % flip bits in the
header, 20 % overwrite tensor data, which leaves a model that runs, and 10 % cut the file short. A
seed and an index give the same mutant every time.

As a program: writes `count` mutants of a file into a folder.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q",
           11: "<q", 12: "<d"}  # fmt: skip
STRING, ARRAY = 8, 9
GROUPS = {"architecture": 40, "tensor": 30, "tokenizer": 15, "general": 15}


@dataclass(frozen=True)
class Field:
    """A run of header bytes with one meaning."""

    name: str  # e.g. "qwen35.block_count", "qwen35.block_count:type", "blk.0.ssm_a:offset"
    group: str
    offset: int
    size: int
    format: str  # of struct; "" for text


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.fields: list[Field] = []

    def number(self, name: str, group: str, form: str) -> int:
        size = struct.calcsize(form)
        self.fields.append(Field(name, group, self.at, size, form))
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return int(value) if form[-1] not in "fd" else 0

    def text(self, name: str, group: str) -> str:
        size = self.number(f"{name}:length", group, "<Q")
        value = self.data[self.at : self.at + size]
        if size:
            self.fields.append(Field(f"{name}:text", group, self.at, size, ""))
        self.at += size
        return value.decode("latin-1")


def parse(data: bytes) -> list[Field]:
    """The fields of a well-formed file's header, in file order."""
    r = _Reader(data)
    r.number("magic", "general", "<I")
    r.number("version", "general", "<I")
    n_tensors = r.number("tensor count", "general", "<Q")
    n_values = r.number("key count", "general", "<Q")
    for _ in range(n_values):
        _parse_value(r)
    for _ in range(n_tensors):
        name = r.text("tensor name", "tensor")
        for i in range(r.number(f"{name}:dimensions", "tensor", "<I")):
            r.number(f"{name}:shape{i}", "tensor", "<Q")
        r.number(f"{name}:type", "tensor", "<I")
        r.number(f"{name}:offset", "tensor", "<Q")
    return r.fields


def _parse_value(r: _Reader) -> None:
    start = len(r.fields)
    key = r.text("key", "general")
    group = {"general": "general", "tokenizer": "tokenizer"}.get(
        key.partition(".")[0], "architecture"
    )
    r.fields[start:] = [Field(f"{key}:{f.name}", group, f.offset, f.size, f.format)
                        for f in r.fields[start:]]  # fmt: skip
    kind = r.number(f"{key}:type", group, "<I")
    count = 1
    if kind == ARRAY:
        kind = r.number(f"{key}:element type", group, "<I")
        count = r.number(f"{key}:count", group, "<Q")
    for i in range(count):
        name = key if count == 1 else f"{key}:{i}"
        if kind == STRING:
            r.text(name, group)
        else:
            r.number(name, group, FORMATS[kind])


def boundary_values(field: Field, data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Replacements of the field's bytes, in random order, each different from what is there."""
    old = data[field.offset : field.offset + field.size]
    choices: list[bytes] = []
    if field.format == "":
        choices = [bytes(field.size), b"\xff" * field.size, b"a" * field.size, old[::-1]]
        choices.append(bytes(b ^ (1 << rng.randrange(8)) if rng.random() < 0.2 else b for b in old))
    elif field.format[-1] in "fd":
        for number in (0.0, -1.0, 1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")):
            choices.append(struct.pack(field.format, number))
    else:
        bits = 8 * field.size
        value = int.from_bytes(old, "little")
        numbers = [0, 1, 2, 3, 7, 12, 13, 29, 255, value + 1, value - 1, value * 2, value // 2]
        numbers += [1 << 12, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 62, 1 << 63]
        numbers += [
            -1,
            -2,
            -32,
            value + 32,
            value - 32,
            value + 256,
            value ^ (1 << rng.randrange(bits)),
        ]
        choices = [(n % (1 << bits)).to_bytes(field.size, "little") for n in numbers]
    choices = [choice for choice in choices if choice != old]
    rng.shuffle(choices)
    yield from choices


class Mutator:
    """Makes mutants of one well-formed file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fields = parse(data)
        self.groups = {
            name: [field for field in self.fields if field.group == name] for name in GROUPS
        }
        self.header = self.fields[-1].offset + self.fields[-1].size

    def mutant(self, seed: int, index: int) -> tuple[bytes, str]:
        """The mutant with this index, and what was changed."""
        rng = random.Random(f"{seed}/{index}")
        draw = rng.random()
        if draw < 0.55:
            return self._change_fields(rng)
        if draw < 0.7:
            return self._flip_bits(rng)
        if draw < 0.9:
            return self._spoil_data(rng)
        size = rng.randrange(self.header if rng.random() < 0.7 else len(self.data))
        return self.data[:size], f"cut to {size} bytes"

    def _change_fields(self, rng: random.Random) -> tuple[bytes, str]:
        out = bytearray(self.data)
        changes = []
        for _ in range(rng.choice((1, 1, 2))):
            field = rng.choice(self.groups[rng.choices(list(GROUPS), list(GROUPS.values()))[0]])
            value = next(boundary_values(field, self.data, rng), None)
            if value is not None:
                out[field.offset : field.offset + field.size] = value
                changes.append(f"{field.name} = {value[:16].hex()}")
        return bytes(out), "; ".join(changes)

    def _flip_bits(self, rng: random.Random) -> tuple[bytes, str]:
        out = bytearray(self.data)
        places = [rng.randrange(self.header) for _ in range(rng.choice((1, 2, 4, 16)))]
        for place in places:
            out[place] ^= 1 << rng.randrange(8)
        return bytes(out), f"bits flipped at {places}"

    def _spoil_data(self, rng: random.Random) -> tuple[bytes, str]:
        """Runs of bytes that make zeros, NaN, infinities, huge and arbitrary numbers and scales."""
        out = bytearray(self.data)
        places = [rng.randrange(self.header, len(out)) for _ in range(rng.choice((1, 4, 64)))]
        for place in places:
            size = min(rng.choice((1, 2, 4, 64, 512)), len(out) - place)
            byte = rng.choice((0x00, 0x7C, 0x7F, 0x80, 0xFC, 0xFF, -1))
            out[place : place + size] = rng.randbytes(size) if byte < 0 else bytes([byte] * size)
        return bytes(out), f"data overwritten at {places[:4]}"


def main(source: str, folder: str, count: str, seed: str = "0") -> None:
    """Writes mutants 0 to count - 1 of `source` into `folder`."""
    mutator = Mutator(Path(source).read_bytes())
    for index in range(int(count)):
        data, _ = mutator.mutant(int(seed), index)
        (Path(folder) / f"{index:06d}.gguf").write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
