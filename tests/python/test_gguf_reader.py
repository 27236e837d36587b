"""The GGUF reader of the C API against the gguf package, sharded models, and odd paths."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as Kind

import tiny_gguf
from qwen35cpp._native import ffi, lib, text

SHAPE = {
    "n_embd": 32, "n_ff": 64, "n_head": 2, "n_head_kv": 1, "head_dim": 32, "lin_k_heads": 1,
    "lin_v_heads": 2, "lin_head_dim": 32, "n_ctx": 64, "mtp": True, "tied": False,
}  # fmt: skip
MANY_VALUES = {
    f"test.{kind.name}": (value, kind)
    for kind, value in {
        Kind.UINT8: 200, Kind.INT8: -100, Kind.UINT16: 60000, Kind.INT16: -30000,
        Kind.UINT32: 2**32 - 1, Kind.INT32: -(2**31), Kind.FLOAT32: 0.5, Kind.BOOL: True,
        Kind.STRING: "häß\x00lich", Kind.UINT64: 2**64 - 1, Kind.INT64: -(2**63),
        Kind.FLOAT64: 1e300,
    }.items()
} | {"test.empty": ("", Kind.STRING)}  # fmt: skip


class Reader:
    """An opened file and the calls under test."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def values(self) -> dict[str, Any]:
        out = ffi.new("qwen35_gguf_value *")
        found = {}
        for i in range(lib.qwen35_gguf_value_count(self.handle)):
            assert lib.qwen35_gguf_get_value(self.handle, i, out) == lib.QWEN35_OK
            key = ffi.unpack(out.key, out.key_length).decode()
            found[key] = (
                out.type,
                out.element_type,
                out.count,
                bytes(ffi.buffer(out.data, out.bytes)),
            )
        return found

    def tensors(self) -> dict[str, tuple[int, Any]]:
        found = {}
        for i in range(lib.qwen35_gguf_tensor_count(self.handle)):
            out = ffi.new("qwen35_gguf_tensor *")
            assert lib.qwen35_gguf_get_tensor(self.handle, i, out) == lib.QWEN35_OK
            found[ffi.unpack(out.name, out.name_length).decode()] = (i, out)
        return found

    def read(self, index: int, offset: int, n: int) -> bytes:
        data = ffi.new("uint8_t[]", n)
        status = lib.qwen35_gguf_read(self.handle, index, offset, data, n)
        assert status == lib.QWEN35_OK, text(lib.qwen35_last_error())
        return bytes(ffi.buffer(data))

    def data(self) -> dict[str, bytes]:
        return {name: self.read(i, 0, t.bytes) for name, (i, t) in self.tensors().items()}


@contextmanager
def opened(path: str | Path) -> Iterator[Reader]:
    out = ffi.new("qwen35_gguf **")
    status = lib.qwen35_gguf_open(os.fsencode(path), out)
    assert status == lib.QWEN35_OK, text(lib.qwen35_last_error())
    try:
        yield Reader(out[0])
    finally:
        lib.qwen35_gguf_close(out[0])


def refusal(path: str | Path) -> tuple[int, str]:
    out = ffi.new("qwen35_gguf **")
    status = lib.qwen35_gguf_open(os.fsencode(path), out)
    assert status != lib.QWEN35_OK
    assert out[0] == ffi.NULL
    return status, text(lib.qwen35_last_error())


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_equal_to_the_gguf_package(tmp_path: Path, alignment: int) -> None:
    model = tiny_gguf.build(
        tmp_path / "m.gguf", **SHAPE, type="Q8_0", alignment=alignment, metadata=MANY_VALUES
    )
    expected = gguf.GGUFReader(model.path)
    with opened(model.path) as file:
        keys = file.values()
        assert list(keys) == [key for key in expected.fields if not key.startswith("GGUF.")]
        for key, (kind, element, count, data) in keys.items():
            field = expected.fields[key]
            assert [kind] + [element] * (kind == Kind.ARRAY) == [int(t) for t in field.types]
            if kind == Kind.ARRAY:
                assert count == len(field.data)
            parts = field.parts[3:] if kind != Kind.ARRAY else field.parts[5:]
            if kind == Kind.STRING:
                parts = field.parts[-2:]
            assert data == b"".join(part.tobytes() for part in parts), key
        tensors = file.tensors()
        assert list(tensors) == [tensor.name for tensor in expected.tensors]
        for tensor in expected.tensors:
            index, found = tensors[tensor.name]
            assert found.type == int(tensor.tensor_type)
            assert found.offset == tensor.data_offset
            assert list(found.ne)[: found.n_dims] == tensor.shape.tolist()
            assert file.read(index, 0, found.bytes) == tensor.data.tobytes()


def test_parts_of_tensors(tmp_path: Path) -> None:
    model = tiny_gguf.build(tmp_path / "m.gguf", **SHAPE)
    with opened(model.path) as file:
        index, tensor = file.tensors()["token_embd.weight"]
        whole = file.read(index, 0, tensor.bytes)
        assert (
            np.frombuffer(whole, np.float32).tobytes()
            == model.tensors["token_embd.weight"].tobytes()
        )
        assert file.read(index, 5, 100) == whole[5:105]
        assert file.read(index, tensor.bytes, 0) == b""
        buffer = ffi.new("uint8_t[16]")
        for offset, n in [(tensor.bytes - 15, 16), (tensor.bytes + 1, 0), (2**64 - 8, 16)]:
            status = lib.qwen35_gguf_read(file.handle, index, offset, buffer, n)
            assert status == lib.QWEN35_ERROR_ARGUMENT
            assert "token_embd.weight" in text(lib.qwen35_last_error())


def test_wrong_arguments(tmp_path: Path) -> None:
    model = tiny_gguf.build(tmp_path / "m.gguf", **SHAPE)
    value, tensor = ffi.new("qwen35_gguf_value *"), ffi.new("qwen35_gguf_tensor *")
    with opened(model.path) as file:
        many = 2**63
        for status in (
            lib.qwen35_gguf_get_value(file.handle, many, value),
            lib.qwen35_gguf_get_tensor(file.handle, many, tensor),
            lib.qwen35_gguf_read(file.handle, many, 0, value, 1),
            lib.qwen35_gguf_get_value(file.handle, 0, ffi.NULL),
            lib.qwen35_gguf_get_tensor(ffi.NULL, 0, tensor),
            lib.qwen35_gguf_read(file.handle, 0, 0, ffi.NULL, 1),
            lib.qwen35_gguf_open(ffi.NULL, ffi.new("qwen35_gguf **")),
            lib.qwen35_gguf_open(os.fsencode(model.path), ffi.NULL),
        ):
            assert status == lib.QWEN35_ERROR_ARGUMENT
    assert lib.qwen35_gguf_value_count(ffi.NULL) == 0
    assert lib.qwen35_gguf_tensor_count(ffi.NULL) == 0
    lib.qwen35_gguf_close(ffi.NULL)


def test_truncated_after_opening(tmp_path: Path) -> None:
    model = tiny_gguf.build(tmp_path / "m.gguf", **SHAPE)
    with opened(model.path) as file:
        index, tensor = list(file.tensors().values())[-1]
        os.truncate(model.path, tensor.offset)
        buffer = ffi.new("uint8_t[]", tensor.bytes)
        status = lib.qwen35_gguf_read(file.handle, index, 0, buffer, tensor.bytes)
        assert status == lib.QWEN35_ERROR_IO
        assert "became shorter" in text(lib.qwen35_last_error())


# ---- shards --------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    tiny_gguf.build(tmp_path / "m.gguf", **SHAPE, shard_tensors=30)
    found = sorted(tmp_path.glob("m-0000?-of-0000?.gguf"))
    assert len(found) == 3
    return found


def test_any_shard_opens_the_model(tmp_path: Path, shards: list[Path]) -> None:
    whole = tiny_gguf.build(tmp_path / "whole.gguf", **SHAPE)
    with opened(whole.path) as file:
        expected = file.data()
    for shard in shards:
        with opened(shard) as file:
            assert file.data() == expected
            assert {t.shard for _, t in file.tensors().values()} == {0, 1, 2}
            assert "qwen35.block_count" in file.values()


def test_missing_shard_is_named(shards: list[Path]) -> None:
    shards[1].unlink()
    status, message = refusal(shards[0])
    assert status == lib.QWEN35_ERROR_IO
    assert shards[1].name in message


def test_wrong_shards(tmp_path: Path, shards: list[Path]) -> None:
    alone = tmp_path / "renamed.gguf"
    shutil.copy(shards[0], alone)
    assert "-00001-of-0000N.gguf" in refusal(alone)[1]
    shutil.copy(shards[2], shards[1])
    assert "split.no" in refusal(shards[0])[1]
    folder = tmp_path / "two-of-three"
    folder.mkdir()
    for i in (1, 2):
        shutil.copy(shards[i - 1], folder / f"m-0000{i}-of-00002.gguf")
    assert "split.count" in refusal(folder / "m-00001-of-00002.gguf")[1]


def test_shards_of_different_models(tmp_path: Path, shards: list[Path]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tiny_gguf.build(other / "m.gguf", **{**SHAPE, "mtp": False}, shard_tensors=30)
    if not (other / shards[1].name).exists():
        tiny_gguf.build(other / "m.gguf", **{**SHAPE, "mtp": False}, shard_tensors=20)
    shutil.copy(other / shards[1].name, shards[1])
    _, message = refusal(shards[0])
    assert "occurs twice" in message or "split.tensors.count" in message


# ---- paths ---------------------------------------------------------------------------------------


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    cases: list[tuple[str | Path, str]] = [
        (tmp_path, "directory"),
        (pipe, "not a regular file"),
        ("/dev/null", "not a regular file"),
        (tmp_path / "absent.gguf", "No such file"),
        ("", "No such file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]
    for path, word in cases:
        status, message = refusal(path)
        assert status == lib.QWEN35_ERROR_IO
        assert word in message


@pytest.mark.parametrize(
    "name", ["with space.gguf", "häß-模型.gguf", "a" * 240 + ".gguf", "%n%s.gguf"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    model = tiny_gguf.build(tmp_path / "m.gguf", **SHAPE)
    path = tmp_path / name
    model.path.rename(path)
    with opened(path) as file:
        assert file.values()
    path.write_bytes(b"GGUF" + struct.pack("<I", 9))
    assert name[:100] in refusal(path)[1]


def test_a_header_longer_than_the_first_read(tmp_path: Path) -> None:
    """The header is read in pieces of 16 MiB and more; a piece may end inside any field."""
    big = ["x" * 1000] * 40_000
    model = tiny_gguf.build(tmp_path / "m.gguf", **SHAPE, metadata={"test.big": (big, Kind.ARRAY)})
    assert model.path.stat().st_size > 32 << 20
    with opened(model.path) as file:
        assert file.values()["test.big"][2] == 40_000
        assert len(file.tensors()) == len(model.tensors)


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    """A sparse file of 1 TB whose first string claims half of it."""
    path = tmp_path / "sparse.gguf"
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    path.write_bytes(start + struct.pack("<IQ", 8, 1 << 39))
    os.truncate(path, 1 << 40)
    status, message = refusal(path)
    assert status == lib.QWEN35_ERROR_MODEL
    assert "header takes more than" in message
