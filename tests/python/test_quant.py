"""Tensor types: decoding against the gguf package, encoding against plain rounding, misuse."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from qwen35cpp._native import ffi, lib, text

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

READ = [
    T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K,
    T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.IQ3_XXS, T.IQ3_S, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ1_S, T.IQ1_M,
]  # fmt: skip
FLOATS = {T.F32, T.F16, T.BF16}
READ_ONLY = {T.IQ3_XXS, T.IQ3_S, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ1_S, T.IQ1_M}
# Encoded block formats: bits of a level, values that share a scale, whether there is a minimum.
WRITTEN = {
    T.Q4_0: (4, 32, False), T.Q4_1: (4, 32, True), T.Q5_0: (5, 32, False), T.Q5_1: (5, 32, True),
    T.Q8_0: (8, 32, False), T.Q2_K: (2, 16, True), T.Q3_K: (3, 16, False), T.Q4_K: (4, 32, True),
    T.Q5_K: (5, 32, True), T.Q6_K: (6, 16, False), T.IQ4_NL: (4, 32, False),
    T.IQ4_XS: (4, 32, False),
}  # fmt: skip


def name(tensor_type: T) -> str:
    return tensor_type.name


def encoded_shape(tensor_type: T, rows: int, cols: int) -> tuple[int, int]:
    block, size = gguf.GGML_QUANT_SIZES[tensor_type]
    return rows, cols // block * size


def quantize(tensor_type: T, x: Floats, importance: Floats | None = None) -> Bytes:
    out = np.full(encoded_shape(tensor_type, *x.shape), 0xAA, np.uint8)
    weights = ffi.NULL if importance is None else ffi.from_buffer("float[]", importance)
    rows, cols = x.shape
    status = lib.qwen35_quantize(
        int(tensor_type), ffi.from_buffer("float[]", x), rows, cols, weights, ffi.from_buffer(out)
    )
    assert status == lib.QWEN35_OK, text(lib.qwen35_last_error())
    return out


def dequantize(tensor_type: T, blocks: Bytes, cols: int) -> Floats:
    out = np.full((blocks.shape[0], cols), 7, np.float32)
    status = lib.qwen35_dequantize(
        int(tensor_type),
        ffi.from_buffer(blocks),
        blocks.shape[0],
        cols,
        ffi.from_buffer("float[]", out),
    )
    assert status == lib.QWEN35_OK, text(lib.qwen35_last_error())
    return out


def round_trip(tensor_type: T, x: Floats, importance: Floats | None = None) -> Floats:
    return dequantize(tensor_type, quantize(tensor_type, x, importance), x.shape[1])


def squared_error(x: Floats, y: Floats, weights: Floats | None = None) -> float:
    squares = (x.astype(np.float64) - y) ** 2
    return float((squares if weights is None else weights * squares).sum())


def plain_rounding(x: Floats, bits: int, group: int, minimum: bool) -> Floats:
    """Group-wise rounding with exact scales from the largest magnitude, or from the range."""
    groups = x.reshape(-1, group)
    if minimum:
        low = groups.min(axis=1, keepdims=True)
        step = (groups.max(axis=1, keepdims=True) - low) / (2**bits - 1)
        return np.asarray(low + step * np.rint((groups - low) / step)).reshape(x.shape)
    step = np.abs(groups).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.asarray(step * np.rint(groups / step)).reshape(x.shape)


def matrices() -> Iterator[tuple[str, Floats]]:
    rng = np.random.default_rng(17)
    yield "gauss", (rng.standard_normal((24, 1024)) * 0.02).astype(np.float32)
    yield "heavy", (rng.standard_t(3, size=(24, 768)) * 0.02).astype(np.float32)
    columns = np.exp(rng.standard_normal(1024) * 0.7)
    yield "columns", (rng.standard_normal((24, 1024)) * columns * 0.01).astype(np.float32)


@pytest.mark.parametrize("tensor_type", READ, ids=name)
def test_type_info_gives_the_published_block_sizes(tensor_type: T) -> None:
    info = ffi.new("qwen35_type_traits *")
    assert lib.qwen35_type_info(int(tensor_type), info) == lib.QWEN35_OK
    assert text(info.name) == tensor_type.name
    assert (info.block_size, info.block_bytes) == gguf.GGML_QUANT_SIZES[tensor_type]
    assert bool(info.can_encode) == (tensor_type not in READ_ONLY)


@pytest.mark.parametrize("tensor_type", READ, ids=name)
def test_decoding_random_bytes_is_bit_exact(tensor_type: T) -> None:
    cols = 256 * 5
    rng = np.random.default_rng(int(tensor_type))
    blocks = rng.integers(0, 256, encoded_shape(tensor_type, 97, cols), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, tensor_type).view(np.uint32)
    actual = dequantize(tensor_type, blocks, cols).view(np.uint32)
    both_nan = np.isnan(expected.view(np.float32)) & np.isnan(actual.view(np.float32))
    np.testing.assert_array_equal(actual[~both_nan], expected[~both_nan])
    assert both_nan.mean() < 0.2


@pytest.mark.parametrize("tensor_type", sorted(FLOATS | {T.Q8_0}), ids=name)
def test_formats_without_a_search_match_gguf_byte_for_byte(tensor_type: T) -> None:
    for _, x in matrices():
        expected = gguf.quants.quantize(x, tensor_type).view(np.uint8)
        np.testing.assert_array_equal(quantize(tensor_type, x), expected)


@pytest.mark.parametrize("tensor_type", WRITTEN, ids=name)
def test_encoding_beats_plain_rounding_with_exact_scales(tensor_type: T) -> None:
    bits, group, minimum = WRITTEN[tensor_type]
    slack = 1.0 if bits < 8 else 1.005  # Q8_0 rounds plainly, and its scale to a half
    for kind, x in matrices():
        ours = squared_error(x, round_trip(tensor_type, x))
        plain = squared_error(x, plain_rounding(x, bits, group, minimum))
        assert 0 < ours < plain * slack, kind


@pytest.mark.parametrize("tensor_type", [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1], ids=name)
def test_encoding_beats_the_gguf_package(tensor_type: T) -> None:
    for kind, x in matrices():
        theirs = gguf.quants.dequantize(gguf.quants.quantize(x, tensor_type), tensor_type)
        assert squared_error(x, round_trip(tensor_type, x)) < squared_error(x, theirs), kind


@pytest.mark.parametrize("tensor_type", [t for t in WRITTEN if t != T.Q8_0], ids=name)
def test_importance_lowers_the_weighted_error(tensor_type: T) -> None:
    for kind, x in matrices():
        weights = np.square(np.random.default_rng(3).chisquare(1, (x.shape[1],))).astype(np.float32)
        plain = squared_error(x, round_trip(tensor_type, x), weights)
        weighted = squared_error(x, round_trip(tensor_type, x, weights), weights)
        assert weighted < 0.97 * plain, kind


@pytest.mark.parametrize("tensor_type", WRITTEN, ids=name)
def test_equal_or_absent_importance_is_the_same(tensor_type: T) -> None:
    x = next(matrices())[1]
    without = squared_error(x, round_trip(tensor_type, x))
    for value in (0.0, 1e-30, 1.0, 3e38):
        equal = round_trip(tensor_type, x, np.full(x.shape[1], value, np.float32))
        assert squared_error(x, equal) == pytest.approx(without, rel=0.01)


@pytest.mark.parametrize("tensor_type", WRITTEN, ids=name)
def test_rows_are_independent_and_neighbours_untouched(tensor_type: T) -> None:
    x = next(matrices())[1]
    whole = quantize(tensor_type, x)
    for row in (0, 11, 23):
        np.testing.assert_array_equal(quantize(tensor_type, x[row : row + 1]), whole[row : row + 1])
    guarded = np.full(whole[0].size + 64, 0x5C, np.uint8)
    status = lib.qwen35_quantize(
        int(tensor_type),
        ffi.from_buffer("float[]", x),
        1,
        x.shape[1],
        ffi.NULL,
        ffi.from_buffer(guarded),
    )
    assert status == lib.QWEN35_OK
    np.testing.assert_array_equal(guarded[:-64], whole[0])
    assert (guarded[-64:] == 0x5C).all()


@pytest.mark.parametrize("tensor_type", WRITTEN, ids=name)
@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1e-6, 1e3, 1e30, 3e38])
def test_any_finite_input_gives_finite_values(tensor_type: T, scale: float) -> None:
    rng = np.random.default_rng(5)
    x = np.clip(rng.standard_normal((8, 512)) * scale, -3.4e38, 3.4e38).astype(np.float32)
    x[1, :256] = 0
    x[2] = scale
    x[3, 7] = -scale
    y = round_trip(tensor_type, x)
    assert np.isfinite(y).all()
    assert (y[1, :256] == 0).all()
    assert float(np.abs(y).max()) <= 1.2 * float(np.abs(x).max()) + 1e-6
    if scale == 1e3:
        assert squared_error(x, y) < 0.15 * float((x.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("tensor_type", WRITTEN, ids=name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_place(tensor_type: T, bad: float) -> None:
    x = np.zeros((3, 512), np.float32)
    x[2, 300] = bad
    out = np.zeros(encoded_shape(tensor_type, *x.shape), np.uint8)
    source, target = ffi.from_buffer("float[]", x), ffi.from_buffer(out)
    status = lib.qwen35_quantize(int(tensor_type), source, 3, 512, ffi.NULL, target)
    assert status == lib.QWEN35_ERROR_ARGUMENT
    assert "src[2, 300]" in text(lib.qwen35_last_error())


def test_misuse_is_refused_and_named() -> None:
    x = ffi.new("float[256]")
    out = ffi.new("uint8_t[1024]")
    huge = 2**63
    quantize_cases = [
        ((T.Q4_K, ffi.NULL, 1, 256, ffi.NULL, out), lib.QWEN35_ERROR_ARGUMENT, "src is NULL"),
        ((T.Q4_K, x, 1, 256, ffi.NULL, ffi.NULL), lib.QWEN35_ERROR_ARGUMENT, "dst is NULL"),
        ((T.Q4_K, x, 0, 256, ffi.NULL, out), lib.QWEN35_ERROR_ARGUMENT, "0 x 256"),
        ((T.Q4_K, x, 1, 0, ffi.NULL, out), lib.QWEN35_ERROR_ARGUMENT, "1 x 0"),
        ((T.Q4_K, x, 1, 128, ffi.NULL, out), lib.QWEN35_ERROR_ARGUMENT, "block of 256"),
        ((T.Q4_K, x, huge, 256, ffi.NULL, out), lib.QWEN35_ERROR_ARGUMENT, "too large"),
        ((T.F32, x, 2**32, 2**32, ffi.NULL, out), lib.QWEN35_ERROR_ARGUMENT, "too large"),
        ((T.IQ2_XXS, x, 1, 256, ffi.NULL, out), lib.QWEN35_ERROR_UNSUPPORTED, "only be read"),
        ((99, x, 1, 256, ffi.NULL, out), lib.QWEN35_ERROR_UNSUPPORTED, "99"),
        ((-1, x, 1, 256, ffi.NULL, out), lib.QWEN35_ERROR_UNSUPPORTED, "-1"),
    ]
    for arguments, status, words in quantize_cases:
        assert lib.qwen35_quantize(*arguments) == status
        assert words in text(lib.qwen35_last_error())
    for case, status, words in [
        ((T.Q6_K, ffi.NULL, 1, 256, x), lib.QWEN35_ERROR_ARGUMENT, "src is NULL"),
        ((T.Q6_K, out, 1, 256, ffi.NULL), lib.QWEN35_ERROR_ARGUMENT, "dst is NULL"),
        ((T.Q6_K, out, 1, 32, x), lib.QWEN35_ERROR_ARGUMENT, "block of 256"),
        ((5, out, 1, 256, x), lib.QWEN35_ERROR_UNSUPPORTED, "5"),
    ]:
        assert lib.qwen35_dequantize(*case) == status
        assert words in text(lib.qwen35_last_error())
    assert lib.qwen35_type_info(int(T.Q4_K), ffi.NULL) == lib.QWEN35_ERROR_ARGUMENT


def test_importance_must_be_finite_and_not_negative() -> None:
    x, out = ffi.new("float[32]"), ffi.new("uint8_t[34]")
    for bad in (-1.0, float("nan"), float("inf")):
        importance = ffi.new("float[32]")
        importance[5] = bad
        status = lib.qwen35_quantize(int(T.Q4_0), x, 1, 32, importance, out)
        assert status == lib.QWEN35_ERROR_ARGUMENT
        assert "importance[5]" in text(lib.qwen35_last_error())
    assert lib.qwen35_quantize(int(T.Q4_0), x, 1, 32, ffi.NULL, out) == lib.QWEN35_OK
    assert text(lib.qwen35_last_error()) == ""
