"""Damaged and hostile model files: refused with a message that says what and where, never a crash.

Every input runs in `fuzz_open`: the loader under the address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType as Kind

import tiny_gguf
from fuzz import mutate_gguf, run_mutants
from fuzz.run_mutants import SMALL, Result

OK, IO, MODEL, UNSUPPORTED = 0, 2, 3, 4
U32_MAX = 2**32 - 1

Open = Callable[..., Result]


@pytest.fixture(scope="module")
def program() -> Path:
    return run_mutants.build_program()


@pytest.fixture
def open_bytes(program: Path) -> Callable[[bytes], Result]:
    def run(data: bytes) -> Result:
        (result,) = run_mutants.run_inputs(program, [data])
        assert result.status is not None, result.message
        return result

    return run


@pytest.fixture
def open_model(open_bytes: Callable[[bytes], Result], tmp_path: Path) -> Open:
    """Builds a small model with options and opens it."""

    def run(**options: Any) -> Result:
        model = tiny_gguf.build(tmp_path / "model.gguf", **{**SMALL, **options})
        return open_bytes(model.path.read_bytes())

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("base") / "mixed.gguf"
    return tiny_gguf.build(path, **run_mutants.BASES["mixed"]).path.read_bytes()


# ---- files people have ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mtp": True},
        {"tied": False},
        {"mtp": True, "tied": False, "list_recurrent": True},
        {"vision": True},
        {"alignment": 64},
        {"vector_type": "F16"},
        {"vector_type": "BF16"},
        {"full_attention_interval": 1},
        {"lin_v_heads": 3},  # three V heads for each K head, as in 27B
        {"metadata": {"qwen35.full_attention_interval": None}},
        {"metadata": {"qwen35.embedding_length": (32, Kind.UINT64)}},
        {"metadata": {"qwen35.block_count": (4, Kind.INT32)}},
        # The layer was stripped and its key left behind.
        {"metadata": {"qwen35.nextn_predict_layers": (1, Kind.UINT32),
                      "qwen35.block_count": (5, Kind.UINT32)}},
        {"metadata": {"qwen35.rope.scaling.type": ("yarn", Kind.STRING),
                      "qwen35.rope.scaling.factor": (4.0, Kind.FLOAT32),
                      "qwen35.rope.scaling.original_context_length": (64, Kind.UINT32)}},
        {"tensors": {"blk.3.nextn.embed_tokens.weight": np.ones((8, 8), np.float32)}},
    ],
    ids=str,
)  # fmt: skip
def test_well_formed_files_open(open_model: Open, options: dict[str, Any]) -> None:
    result = open_model(**options)
    assert result.status == OK, result.message


TYPES_OF_32 = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]
TYPES_OF_256 = [
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
    "IQ1_S", "IQ1_M", "IQ4_XS",
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES_OF_32 + TYPES_OF_256)
def test_every_type_on_every_matrix(open_model: Open, kind: str) -> None:
    shape = run_mutants.BASES["k_quants"] if kind in TYPES_OF_256 else {}
    result = open_model(**{**shape, "type": kind, "types": {}, "mtp": True, "tied": False})
    assert result.status == OK, result.message


# ---- metadata ------------------------------------------------------------------------------------

# Changes that leave a valid model, by key.
HARMLESS = {
    "qwen35.full_attention_interval": {"missing"},
    "tokenizer.ggml.model": {"missing"},
    "tokenizer.ggml.pre": {"missing"},
    "tokenizer.ggml.eos_token_id": {"missing", "zero"},
    "tokenizer.ggml.padding_token_id": {"missing", "zero"},
}  # fmt: skip
# Not read when a model is opened.
ELSEWHERE = {"tokenizer.ggml.add_bos_token", "tokenizer.chat_template"}
# The tokenizer speaks of entries, not of keys.
SHORT_NAMES = {"tokenizer.ggml.merges": "merge", "tokenizer.ggml.token_type": "type"}
ALL_KEYS = sorted(
    set(tiny_gguf.metadata(tiny_gguf.Options(mtp=True, list_recurrent=True))) - ELSEWHERE
)


def damaged(value: Any, kind: Kind) -> dict[str, tuple[Any, Kind] | None]:
    """Bad replacements of a metadata value by name."""
    cases: dict[str, tuple[Any, Kind] | None] = {
        "missing": None,
        "wrong type": (["a"], Kind.ARRAY),
        "too long": ([1] * 1000, Kind.ARRAY),
    }
    if kind == Kind.ARRAY:
        cases["wrong type"] = (1, Kind.UINT32)
        cases["empty"] = ([""], Kind.ARRAY)
        cases["minus one"] = ([-1] * len(value), Kind.ARRAY)
        cases["max"] = ([2**31 - 1] * len(value), Kind.ARRAY)
    elif kind == Kind.FLOAT32:
        numbers = {"zero": 0.0, "minus one": -1.0, "max": 3e38, "nan": np.nan, "infinite": np.inf}
        cases |= {name: (number, kind) for name, number in numbers.items()}
        cases["integer"] = (1, Kind.UINT32)
    elif kind == Kind.STRING:
        cases["zero"] = ("", kind)
        cases["wrong type"] = (1, Kind.UINT32)
        cases["too long"] = (value * 1000, kind)
    else:
        cases |= {"zero": (0, kind), "minus one": (-1, Kind.INT32), "max": (U32_MAX, kind)}
        cases["above u32"] = (2**63, Kind.UINT64)
        cases["float"] = (float("nan"), Kind.FLOAT32)
    return cases


@pytest.mark.parametrize("key", ALL_KEYS)
def test_damaged_keys_are_refused_by_name(program: Path, tmp_path: Path, key: str) -> None:
    options: dict[str, Any] = {**SMALL, "mtp": True, "list_recurrent": True}
    value, kind = tiny_gguf.metadata(tiny_gguf.Options(**options))[key]
    cases = damaged(value, kind)
    files = []
    for replacement in cases.values():
        model = tiny_gguf.build(tmp_path / "m.gguf", **options, metadata={key: replacement})
        files.append(model.path.read_bytes())
    for name, result in zip(cases, run_mutants.run_inputs(program, files), strict=True):
        assert result.status is not None, f"{name}: {result.message}"
        if result.status == OK:
            assert name in HARMLESS.get(key, ()) or harmless_rest(key, name), name
        else:
            assert result.status in (MODEL, UNSUPPORTED), f"{name}: {result}"
            named = SHORT_NAMES.get(key, key) in result.message
            assert named or implied(key, name, result.message), f"{name}: {result}"


def harmless_rest(key: str, name: str) -> bool:
    """The list of layers follows from the interval when it is missing; general.* is not read."""
    return (key, name) == ("qwen35.attention.recurrent_layers", "missing") or (
        key.startswith("general.") and key != "general.architecture"
    )


def implied(key: str, name: str, message: str) -> bool:
    """Without its key the MTP layer counts as a trunk layer, which shows one step later."""
    return key == "qwen35.nextn_predict_layers" and name in ("missing", "zero") and (
        "blk.4." in message or "recurrent_layers" in message
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qwen35.block_count": (3, Kind.UINT32)}, ["blk.3."]),
        ({"qwen35.block_count": (5, Kind.UINT32)}, ["blk.4.attn_norm.weight", "missing"]),
        ({"qwen35.feed_forward_length": (96, Kind.UINT32)},
         ["blk.0.ffn_gate.weight", "[32, 96]", "[32, 64"]),
        ({"qwen35.attention.head_count": (3, Kind.UINT32)}, ["blk.3.attn_q.weight"]),
        ({"qwen35.attention.head_count_kv": (3, Kind.UINT32)}, ["head_count_kv", "divisor"]),
        ({"qwen35.attention.value_length": (16, Kind.UINT32)}, ["value_length", "16"]),
        ({"qwen35.ssm.conv_kernel": (3, Kind.UINT32)}, ["conv_kernel", "expected 4", "found 3"]),
        ({"qwen35.ssm.inner_size": (48, Kind.UINT32)}, ["inner_size", "found 48"]),
        ({"qwen35.ssm.group_count": (4, Kind.UINT32)}, ["time_step_rank", "multiple"]),
        ({"qwen35.rope.dimension_count": (7, Kind.UINT32)}, ["dimension_count", "found 7"]),
        ({"qwen35.rope.dimension_count": (64, Kind.UINT32)}, ["dimension_count", "2 to 32"]),
        ({"qwen35.rope.dimension_sections": ([1, 1, 1, 1], Kind.ARRAY)}, ["dimension_sections"]),
        ({"qwen35.rope.dimension_sections": ([3, 3, 2, 0], Kind.ARRAY)}, ["sections", "sum of 8"]),
        ({"qwen35.rope.scaling.type": ("linear", Kind.STRING)}, ["scaling.type", "linear"]),
        ({"qwen35.rope.scaling.type": ("yarn", Kind.STRING)}, ["scaling.factor", "missing"]),
        ({"qwen35.attention.recurrent_layers": ([True] * 3, Kind.ARRAY)}, ["4 elements", "3"]),
        ({"tokenizer.ggml.pre": ("qwen2", Kind.STRING)}, ["tokenizer.ggml.pre", "'qwen2'"]),
        ({"tokenizer.ggml.model": ("llama", Kind.STRING)}, ["tokenizer.ggml.model", "'llama'"]),
        ({"tokenizer.ggml.tokens": (["a", "b"], Kind.ARRAY)}, ["expected 320", "found 2"]),
        ({"tokenizer.ggml.eos_token_id": (320, Kind.UINT32)}, ["eos_token_id", "0 to 319"]),
        ({"general.alignment": (48, Kind.UINT32)}, ["general.alignment", "power of two", "48"]),
        ({"general.alignment": (1 << 20, Kind.UINT32)}, ["general.alignment", "1048576"]),
    ],
    ids=str,
)  # fmt: skip
def test_inconsistent_metadata(open_model: Open, change: Any, words: list[str]) -> None:
    result = open_model(metadata=change)
    assert result.status in (MODEL, UNSUPPORTED)
    for word in words:
        assert word in result.message


@pytest.mark.parametrize(
    ("arch", "words"), [("llama", ["'llama'", "'qwen35'"]), ("clip", ["vision projector", "text"])]
)
def test_other_architectures(
    open_bytes: Callable[[bytes], Result], tmp_path: Path, arch: str, words: list[str]
) -> None:
    path = tiny_gguf.write(tmp_path / "other.gguf", {}, [], arch=arch)
    result = open_bytes(path.read_bytes())
    assert result.status == UNSUPPORTED
    for word in words:
        assert word in result.message


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("output_norm.weight", None, ["output_norm.weight", "missing", "[32, 1]"]),
        ("blk.0.ssm_a", None, ["blk.0.ssm_a", "missing"]),
        ("blk.0.attn_qkv.weight", np.ones((64, 16)), ["attn_qkv", "[32, 128]", "[16, 64, 1, 1]"]),
        ("blk.0.attn_norm.weight", np.full(32, np.nan), ["attn_norm", "element 0", "finite"]),
        ("blk.1.ssm_dt.bias", np.array([0, np.inf]), ["ssm_dt.bias", "element 1", "inf"]),
        ("blk.2.ssm_a", np.array([-1, 0.5]), ["ssm_a", "element 1", "<= 0", "0.5"]),
        ("blk.0.attn_q.weight", np.ones((128, 32)), ["blk.0.attn_q.weight", "not part"]),
        ("rope_freqs.weight", np.ones(4), ["rope_freqs.weight", "not part"]),
        ("blk.4.nextn.eh_proj.weight", np.ones((32, 64)), ["nextn.eh_proj", "not part"]),
    ],
)
def test_wrong_tensors(
    open_model: Open, name: str, value: np.ndarray[Any, Any] | None, words: list[str]
) -> None:
    tensor = None if value is None else value.astype(np.float32)
    result = open_model(tensors={name: tensor})
    assert result.status in (MODEL, UNSUPPORTED)
    for word in words:
        assert word in result.message


def patched(base: bytes, name: str, value: int) -> bytes:
    """The file with one header field set."""
    (spot,) = [field for field in mutate_gguf.parse(base) if field.name == name]
    data = bytearray(base)
    struct.pack_into(spot.format, data, spot.offset, value)
    return bytes(data)


def test_quantised_vectors_are_refused(open_bytes: Callable[[bytes], Result], base: bytes) -> None:
    result = open_bytes(patched(base, "blk.0.attn_norm.weight:type", 8))
    assert result.status == UNSUPPORTED
    assert "expected type F32, F16 or BF16, found Q8_0" in result.message


@pytest.mark.parametrize(
    ("field", "value", "status", "words"),
    [
        ("version", 1, UNSUPPORTED, ["version", "found 1"]),
        ("version", 4, UNSUPPORTED, ["version", "found 4"]),
        ("version", 3 << 24, UNSUPPORTED, ["big-endian"]),
        ("tensor count", 2**63, MODEL, ["number of tensors", "offset 8"]),
        ("tensor count", 60000, MODEL, ["number of tensors", "found 60000"]),
        ("key count", 2**63, MODEL, ["number of keys", "offset 16"]),
        ("qwen35.block_count:type", 13, MODEL, ["qwen35.block_count", "0 to 12", "13"]),
        ("tokenizer.ggml.tokens:count", 2**61, MODEL, ["tokenizer.ggml.tokens", "do not fit"]),
        ("tokenizer.ggml.tokens:element type", 9, UNSUPPORTED, ["arrays of arrays"]),
        ("blk.0.ssm_a:dimensions", 5, MODEL, ["blk.0.ssm_a", "1 to 4", "found 5"]),
        ("blk.0.ssm_a:shape0", 0, MODEL, ["blk.0.ssm_a", "shape [0"]),
        ("blk.0.attn_qkv.weight:shape0", 33, MODEL, ["attn_qkv", "blocks of 32"]),
        ("blk.0.attn_qkv.weight:shape1", 2**62, MODEL, ["attn_qkv", "not possible"]),
        ("blk.0.attn_qkv.weight:shape1", 2**40, MODEL, ["attn_qkv", "truncated"]),
        ("blk.0.attn_qkv.weight:type", 4, UNSUPPORTED, ["attn_qkv", "tensor type 4"]),
        ("blk.0.ssm_a:offset", 0, MODEL, ["overlap", "blk.0.ssm_a"]),
        ("blk.0.ssm_a:offset", 4, MODEL, ["blk.0.ssm_a", "multiple of 32"]),
        ("blk.0.ssm_a:offset", 2**64 - 32, MODEL, ["blk.0.ssm_a", "truncated"]),
    ],
)
def test_bad_header_fields(
    open_bytes: Callable[[bytes], Result], base: bytes, field: str, value: int, status: int,
    words: list[str],
) -> None:  # fmt: skip
    result = open_bytes(patched(base, field, value))
    assert result.status == status, result.message
    for word in words:
        assert word in result.message


def renamed(base: bytes, old: str, new: str) -> bytes:
    """The file with one name or key of the header replaced by another of its length."""
    prefix = struct.pack("<Q", len(old))
    assert len(old) == len(new)
    assert base.count(prefix + old.encode()) == 1
    return base.replace(prefix + old.encode(), prefix + new.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [("blk.1.ssm_a", "blk.0.ssm_a"), ("qwen35.ssm.group_count", "qwen35.ssm.conv_kernel"[:22])],
)
def test_duplicates(open_bytes: Callable[[bytes], Result], base: bytes, old: str, new: str) -> None:
    result = open_bytes(renamed(base, old, new))
    assert result.status == MODEL
    assert "occurs twice" in result.message
    assert new in result.message


# ---- whole files ---------------------------------------------------------------------------------


def test_every_truncation_is_refused(program: Path, base: bytes) -> None:
    mutator = mutate_gguf.Mutator(base)
    sizes = {field.offset for field in mutator.fields}
    sizes |= {field.offset + field.size - 1 for field in mutator.fields}
    sizes |= set(range(mutator.header, len(base), 997)) | {len(base) - 1}
    ordered = sorted(sizes)
    results = run_mutants.run_inputs(program, [base[:size] for size in ordered])
    for size, result in zip(ordered, results, strict=True):
        assert result.status == MODEL, f"cut to {size} bytes: {result}"
        assert size < mutator.header or "truncated" in result.message, result


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"G", "not a GGUF"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x80\x02}q\x00." + bytes(20), "pickle"),
        (struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}' + bytes(60), "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"tjgg" + bytes(64), "old GGJT"),
        (bytes(4096), "zeros"),
        (b"RIFF" + bytes(range(64)), "expected 47 47 55 46, found 52 49 46 46"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_named(
    open_bytes: Callable[[bytes], Result], data: bytes, word: str
) -> None:
    result = open_bytes(data)
    assert result.status == MODEL
    assert word in result.message


@pytest.mark.parametrize("name", run_mutants.BASES)
def test_mutants_never_end_the_process(program: Path, tmp_path: Path, name: str) -> None:
    model = tiny_gguf.build(tmp_path / "model.gguf", **run_mutants.BASES[name])
    base = model.path.read_bytes()
    (whole,) = run_mutants.run_inputs(program, [base])
    assert whole.status == OK, whole.message
    summary = run_mutants.run_mutants(program, base, count=300, seed=35)
    assert not summary.deaths, "\n".join(summary.deaths[:3])
    assert 30 < summary.statuses[OK] < 150, "most mutants are refused, others run"
    assert set(summary.statuses) <= {OK, MODEL, UNSUPPORTED}, summary.statuses
