"""The boundary of the C API: NULL, sizes of structs, ranges, and what messages begin with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_gguf
from qwen35cpp._bundled import tiny_path as bundled_path
from qwen35cpp._native import ffi, lib, text

HEADER = Path(__file__).resolve().parents[2] / "csrc" / "include" / "qwen35.h"
OK, ARGUMENT, IO, MODEL, UNSUPPORTED = 0, 1, 2, 3, 4
DECLARATION = re.compile(r"QWEN35_API\s+([\w ]+?[\s*]+)(qwen35_\w+)\(([^)]*)\);")

# Parameters for which NULL means something, by function; "*" in the others is refused.
MAY_BE_NULL = {
    "qwen35_model_open": {"params"},
    "qwen35_session_create": {"params"},
    "qwen35_session_estimate": {"params"},
    "qwen35_session_eval": {"outputs", "progress", "user"},
    "qwen35_session_eval_picture": {"hidden_sum", "progress", "user"},
    "qwen35_session_branch": {"want"},
    "qwen35_vision_encode": {"second", "progress", "user"},
    "qwen35_token_bytes": {"type"},
    "qwen35_sampler_allow": {"words"},
    "qwen35_session_decode": {"limits"},
    "qwen35_quantize": {"importance"},
}


def last_error() -> str:
    return text(lib.qwen35_last_error())


class Objects:
    """One valid object of each kind, and valid arguments by parameter name."""

    def __init__(self, path: bytes) -> None:
        self.model = self._open("model", lambda out: lib.qwen35_model_open(path, ffi.NULL, out))
        self.session = self._open(
            "session", lambda out: lib.qwen35_session_create(self.model, ffi.NULL, out)
        )
        self.sampling = ffi.new("qwen35_sampling_params *")
        lib.qwen35_sampling_defaults(self.sampling)
        self.sampler = self._open(
            "sampler", lambda out: lib.qwen35_sampler_create(self.model, self.sampling, out)
        )
        self.stream = self._open(
            "stream",
            lambda out: lib.qwen35_stream_create(self.model, ffi.NULL, ffi.NULL, 0, 0, out),
        )
        tower = bytes(bundled_path())  # its rows have the width of the other model
        self.vision = self._open(
            "vision", lambda out: lib.qwen35_vision_open(self.model, tower, out)
        )
        self.file = self._open("gguf", lambda out: lib.qwen35_gguf_open(path, out))

    def _open(self, kind: str, call: Callable[[Any], int]) -> Any:
        out = ffi.new(f"qwen35_{kind} **")
        path_error = call(out)
        assert path_error == OK, last_error()
        return out[0]

    def close(self) -> None:
        lib.qwen35_gguf_close(self.file)
        lib.qwen35_stream_close(self.stream)
        lib.qwen35_sampler_close(self.sampler)
        lib.qwen35_session_close(self.session)
        lib.qwen35_vision_close(self.vision)
        lib.qwen35_model_close(self.model)


@pytest.fixture(scope="module")
def objects(tiny_path: str) -> Iterator[Objects]:
    opened = Objects(tiny_path.encode())
    yield opened
    opened.close()


def declarations() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Result type, name and (type, name) of every parameter of the header's functions."""
    source = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    found = []
    for result, name, parameters in DECLARATION.findall(source):
        pairs = []
        for parameter in [] if parameters.strip() == "void" else parameters.split(","):
            kind, word = re.fullmatch(r"\s*(.*?[\s*])(\w+)\s*", parameter, re.S).groups()  # type: ignore[union-attr]
            pairs.append((" ".join(kind.split()), word))
        found.append((" ".join(result.split()), name, pairs))
    return found


def argument(objects: Objects, kind: str, name: str, path: bytes) -> Any:
    """A valid argument for a parameter."""
    if hasattr(objects, name):
        return getattr(objects, name)
    if name == "path":
        return ffi.new("char[]", path)
    if kind == "qwen35_progress":
        return ffi.NULL
    if "*" not in kind:
        return 1
    if "sampling_params" in kind:
        return objects.sampling
    return ffi.from_buffer("char[]", bytearray(1 << 16))


STATUS_CASES = [
    (name, parameters, i)
    for result, name, parameters in declarations()
    if result == "qwen35_status"
    for i, (kind, word) in enumerate(parameters)
    if "*" in kind and word not in MAY_BE_NULL.get(name, ())
]


def test_the_header_was_understood() -> None:
    assert len(STATUS_CASES) > 40
    source = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    assert len(declarations()) == source.count("QWEN35_API qwen35_") + source.count(
        "QWEN35_API void"
    ) + source.count("QWEN35_API const") + source.count("QWEN35_API int") + source.count(
        "QWEN35_API uint"
    ) + source.count("QWEN35_API size")


@pytest.mark.parametrize(
    ("name", "parameters", "index"), STATUS_CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_null_is_refused_by_name(
    objects: Objects, tiny_path: str, name: str, parameters: list[tuple[str, str]], index: int
) -> None:
    values = [argument(objects, kind, word, tiny_path.encode()) for kind, word in parameters]
    values = [
        ffi.cast(kind, value) if "*" in kind else value
        for (kind, _), value in zip(parameters, values, strict=True)
    ]
    values[index] = ffi.NULL
    assert getattr(lib, name)(*values) == ARGUMENT
    assert last_error() == f"{name}: {parameters[index][1]} is NULL"


def test_calls_without_a_status_ignore_null() -> None:
    for result, name, parameters in declarations():
        if result == "qwen35_status" or not parameters:
            continue
        value = getattr(lib, name)(*[ffi.NULL if "*" in kind else 0 for kind, _ in parameters])
        assert result == "void" or not value, name


def test_the_message_is_of_the_last_call(objects: Objects) -> None:
    count = ffi.new("size_t *")
    sample = ffi.new("qwen35_sample *")
    calls: list[Callable[[], int]] = [
        lambda: lib.qwen35_model_get_info(objects.model, ffi.new("qwen35_model_info *")),
        lambda: lib.qwen35_tokenize(objects.model, b"a", 1, 0, ffi.NULL, 0, count),
        lambda: lib.qwen35_session_eval(
            objects.session, ffi.new("int32_t[]", [1]), 1, ffi.NULL, ffi.NULL, ffi.NULL
        ),
        lambda: lib.qwen35_session_sample(objects.session, objects.sampler, sample),
        lambda: lib.qwen35_sampler_accept(objects.sampler, ffi.new("int32_t[]", [1]), 1, 0),
        lambda: lib.qwen35_stream_push(
            objects.stream, 1, ffi.new("char **"), count, ffi.new("int32_t *")
        ),
        lambda: lib.qwen35_type_info(0, ffi.new("qwen35_type_traits *")),
        lambda: lib.qwen35_gguf_get_tensor(objects.file, 0, ffi.new("qwen35_gguf_tensor *")),
    ]
    for call in calls:
        assert lib.qwen35_gguf_get_value(objects.file, 2**40, ffi.new("qwen35_gguf_value *")) != OK
        assert last_error()
        assert call() == OK
        assert last_error() == ""


@pytest.mark.parametrize("delta", [-4, 8])
def test_other_struct_sizes_are_refused(objects: Objects, tiny_path: str, delta: int) -> None:
    def sized(kind: str) -> Any:
        struct = ffi.new(f"qwen35_{kind} *")
        if kind not in ("outputs", "limits"):
            getattr(lib, f"qwen35_{kind.removesuffix('_params')}_defaults")(struct)
        struct.struct_size = ffi.sizeof(struct[0]) + delta
        return struct

    path = tiny_path.encode()
    tokens = ffi.new("int32_t[]", [1])
    calls: dict[str, Callable[[Any], int]] = {
        "model_params": lambda p: lib.qwen35_model_open(path, p, ffi.new("qwen35_model **")),
        "session_params": lambda p: lib.qwen35_session_create(
            objects.model, p, ffi.new("qwen35_session **")
        ),
        "sampling_params": lambda p: lib.qwen35_sampler_create(
            objects.model, p, ffi.new("qwen35_sampler **")
        ),
        "outputs": lambda p: lib.qwen35_session_eval(
            objects.session, tokens, 1, p, ffi.NULL, ffi.NULL
        ),
        "limits": lambda p: decode(objects, p),
    }
    for kind, call in calls.items():
        assert call(sized(kind)) == ARGUMENT, kind
        assert f"qwen35_{kind}.struct_size" in last_error()
        assert str(ffi.sizeof(f"qwen35_{kind}") + delta) in last_error()


def decode(objects: Objects, limits: Any) -> int:
    tokens, sample, n = ffi.new("int32_t[]", [1]), ffi.new("qwen35_sample *"), ffi.new("size_t *")
    call = (objects.session, tokens, 1, objects.sampler, ffi.NULL, 0, limits, sample, 1, n)
    status: int = lib.qwen35_session_decode(*call)
    return status


def test_limits_need_both_functions(objects: Objects) -> None:
    limits = ffi.new("qwen35_limits *", {"struct_size": ffi.sizeof("qwen35_limits")})
    assert decode(objects, limits) == ARGUMENT
    assert "limits->follow is NULL" in last_error()
    follow = ffi.callback("size_t(void *, int32_t const *, size_t)", lambda *_: 0)
    limits.follow = follow
    assert decode(objects, limits) == ARGUMENT
    assert "limits->allow is NULL" in last_error()


def test_ranges(objects: Objects) -> None:
    tokens = ffi.new("int32_t[]", [0, 1 << 30])
    before = lib.qwen35_session_position(objects.session)

    def evaluate(n: int) -> int:
        status: int = lib.qwen35_session_eval(
            objects.session, tokens, n, ffi.NULL, ffi.NULL, ffi.NULL
        )
        return status

    assert evaluate(0) == ARGUMENT
    assert "no tokens" in last_error()
    assert evaluate(2) == ARGUMENT
    assert "token 1: expected an id from 0 to" in last_error()
    assert lib.qwen35_session_position(objects.session) == before
    params = ffi.new("qwen35_session_params *")
    for field, value in (("kv_type", 99), ("kv_type", -1), ("n_batch", 8193)):
        lib.qwen35_session_defaults(params)
        setattr(params, field, value)
        out = ffi.new("qwen35_session **")
        assert lib.qwen35_session_create(objects.model, params, out) == ARGUMENT
        assert field in last_error()
        assert out[0] == ffi.NULL


def test_a_sampler_of_another_vocabulary_is_refused(
    objects: Objects, tiny_model: Callable[..., tiny_gguf.TinyModel]
) -> None:
    other = Objects(str(tiny_model(n_vocab=1024, n_layer=1).path).encode())
    tokens = ffi.new("int32_t[]", [1])
    assert lib.qwen35_session_eval(
        objects.session, tokens, 1, ffi.NULL, ffi.NULL, ffi.NULL
    ) == OK  # fmt: skip
    sample = ffi.new("qwen35_sample *")
    assert lib.qwen35_session_sample(objects.session, other.sampler, sample) == ARGUMENT
    assert "a vocabulary of 1024" in last_error()
    other.close()


@pytest.mark.parametrize("opens", ["model", "gguf"])
def test_messages_begin_with_the_name_of_the_file(
    tmp_path: Path, tiny_model: Callable[..., tiny_gguf.TinyModel], opens: str
) -> None:
    def refusal(data: bytes) -> tuple[int, str]:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        out = ffi.new(f"qwen35_{opens} **")
        params = [ffi.NULL] if opens == "model" else []
        status = getattr(lib, f"qwen35_{opens}_open")(str(path).encode(), *params, out)
        assert out[0] == ffi.NULL
        return status, last_error()

    whole = tiny_model().path.read_bytes()
    for damaged in (b"", b"GGUF", whole[:1000], whole[:-100], whole.replace(b"blk.0", b"blk.1")):
        status, message = refusal(damaged)
        assert status == MODEL
        assert message.startswith("model.gguf: ")
        assert message.count("model.gguf") == 1
    if opens == "model":
        for old, new in ((b"general.arch", b"general.arcg"), (b"blk.0.ssm_a", b"blk.0.ssm_b")):
            status, message = refusal(whole.replace(old, new))
            assert status in (MODEL, UNSUPPORTED)
            assert re.match(r"model\.gguf: (key|tensor) '", message)
    out = ffi.new("qwen35_gguf **")
    assert lib.qwen35_gguf_open(str(tmp_path / "none.gguf").encode(), out) == IO
    assert str(tmp_path / "none.gguf") in last_error()


@pytest.mark.parametrize("change", ["truncate", "overwrite", "remove"])
def test_the_file_may_change_while_the_model_is_open(
    tmp_path: Path, tiny_model: Callable[..., tiny_gguf.TinyModel], change: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model(type="Q8_0").path.read_bytes())
    objects = Objects(str(path).encode())
    info = ffi.new("qwen35_model_info *")
    assert lib.qwen35_model_get_info(objects.model, info) == OK

    def logits() -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = np.zeros((40 + 4, info.n_vocab), np.float32)
        tokens = np.arange(44, dtype=np.int32)
        outputs = ffi.new("qwen35_outputs *", {"struct_size": ffi.sizeof("qwen35_outputs")})
        want = ffi.new("uint8_t[]", [1] * 40)
        lib.qwen35_session_reset(objects.session)
        for first, n in [(0, 40), (40, 1), (41, 1), (42, 1), (43, 1)]:
            outputs.want = want
            outputs.logits = ffi.cast("float *", rows[first:].ctypes.data)
            chunk = ffi.cast("int32_t *", tokens[first:].ctypes.data)
            assert lib.qwen35_session_eval(
                objects.session, chunk, n, outputs, ffi.NULL, ffi.NULL
            ) == OK  # fmt: skip
        return rows

    before = logits()
    with path.open("r+b") as file:
        if change == "truncate":
            file.truncate(64)
        elif change == "overwrite":
            file.write(bytes(path.stat().st_size))
        else:
            path.unlink()
    assert np.array_equal(logits(), before)
    assert np.isfinite(before).all()
    objects.close()
