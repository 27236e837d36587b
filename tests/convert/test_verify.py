"""verify(), info(), quantize() with an importance matrix."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from qwen35cpp.convert import ConversionError, convert, info, quantize, verify
from qwen35cpp.convert import metadata as md
from qwen35cpp.convert._engine import GgufFile
from qwen35cpp.convert.ggml_types import FileType
from qwen35cpp.convert.imatrix import read_imatrix
from qwen35cpp.convert.pipeline import write_file

import checkpoints
from qwen35cpp.errors import Qwen35Error


def test_good_files(converted: Callable[..., Path]) -> None:
    for type_name in ("f32", "q8_0"):
        path = converted(type_name, r=2, tied=False)
        assert verify(path) == []
        assert verify(path.with_name(f"mmproj-{path.name}")) == []


def test_every_flipped_bit_is_found(tmp_path: Path, converted: Callable[..., Path]) -> None:
    """Bits of tensor data, one in every tensor and at random places."""
    source = converted("q8_0", r=2, tied=False)
    raw = bytearray(source.read_bytes())
    content, rng = info(source), random.Random(1)
    path = tmp_path / "flipped.gguf"
    for tensor in rng.sample(content.tensors, 25):
        at = tensor.offset + rng.randrange(tensor.bytes)
        raw[at] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        problems = verify(path)
        assert len(problems) == 1
        assert tensor.name in problems[0]
        raw = bytearray(source.read_bytes())


def test_flipped_bits_in_the_header(tmp_path: Path, converted: Callable[..., Path]) -> None:
    """Metadata is covered too: every change is a problem or an unreadable file."""
    source = converted("q8_0", r=2, tied=False)
    raw, rng = source.read_bytes(), random.Random(2)
    start = min(tensor.offset for tensor in info(source).tensors)
    path, found = tmp_path / "flipped.gguf", 0
    for _ in range(60):
        changed = bytearray(raw)
        changed[rng.randrange(start)] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found += bool(verify(path))
        except Qwen35Error:
            found += 1
    assert found == 60


def test_files_of_other_tools(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "qwen35")
    writer.add_tensor("t", np.zeros((2, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (problem,) = verify(tmp_path / "other.gguf")
    assert "not written by qwen35cpp" in problem


def test_truncated(tmp_path: Path, converted: Callable[..., Path]) -> None:
    raw = converted("q8_0", r=2, tied=False).read_bytes()
    for size in (0, 3, 100, len(raw) // 2, len(raw) - 1000):
        (tmp_path / "cut.gguf").write_bytes(raw[:size])
        with pytest.raises(Qwen35Error):
            verify(tmp_path / "cut.gguf")


def test_info(converted: Callable[..., Path]) -> None:
    path = converted("q4_k_m", r=2, tied=False)
    content = info(path)
    assert content.architecture == "qwen35"
    assert content.file_type == "Q4_K_M"
    assert content.has_mtp
    assert content.has_digests
    assert not content.has_vision
    assert content.file_bytes == path.stat().st_size
    assert content.types.keys() == {"F32", "Q4_K", "Q5_K", "Q6_K"}
    assert sum(count for count, _ in content.types.values()) == len(content.tensors)
    assert content.metadata["tokenizer.ggml.tokens"] == "[1088 strings]"
    assert 4.5 < content.bits_per_weight < 6
    by_name = {tensor.name: tensor for tensor in content.tensors}
    assert by_name["output.weight"].type == "Q6_K"
    assert by_name["token_embd.weight"].type == "Q4_K"
    for name in ("ssm_alpha.weight", "ssm_beta.weight", "ssm_conv1d.weight", "attn_norm.weight"):
        assert by_name[f"blk.0.{name}"].type == "F32"
    assert by_name["blk.0.attn_qkv.weight"].shape == (256, 1024)


# ---- quantize ------------------------------------------------------------------------------------


def tensors(path: Path) -> dict[str, np.ndarray]:
    reader = gguf.GGUFReader(path)
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def write_imatrix(path: Path, weights: dict[str, np.ndarray], form: str) -> None:
    if form == "legacy":
        parts = [struct.pack("<i", len(weights))]
        for name, values in weights.items():
            raw = name.encode()
            parts += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", 4, len(values))]
            parts.append((values * 4).astype("<f4").tobytes())
        path.write_bytes(b"".join(parts))
        return
    writer = gguf.GGUFWriter(path, "qwen35")
    writer.add_type("imatrix")
    for name, values in weights.items():
        writer.add_tensor(f"{name}.in_sum2", (values * 4).astype(np.float32)[None])
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("form", ["gguf", "legacy"])
def test_importance_lowers_the_weighted_error(
    tmp_path: Path, converted: Callable[..., Path], form: str
) -> None:
    source, name = converted("f32"), "blk.0.ffn_up.weight"
    weights = np.geomspace(1e-3, 1e3, 256).astype(np.float32)
    np.random.default_rng(0).shuffle(weights)
    write_imatrix(tmp_path / "im", {name: weights}, form)
    np.testing.assert_allclose(read_imatrix(tmp_path / "im")[name], weights, rtol=1e-6)
    quantize(source, tmp_path / "plain.gguf", "q4_k_m")
    quantize(source, tmp_path / "weighted.gguf", "q4_k_m", imatrix=tmp_path / "im")
    exact, plain = tensors(source), tensors(tmp_path / "plain.gguf")
    weighted = tensors(tmp_path / "weighted.gguf")

    def error(found: np.ndarray) -> float:
        return float(((found - exact[name]) ** 2 * weights).sum())

    assert error(weighted[name]) < 0.8 * error(plain[name])
    other = "blk.1.ffn_up.weight"
    np.testing.assert_array_equal(weighted[other], plain[other])


@pytest.mark.parametrize("raw", [b"", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff" * 5, b"\x02" * 400])
def test_broken_importance(tmp_path: Path, converted: Callable[..., Path], raw: bytes) -> None:
    (tmp_path / "im").write_bytes(raw)
    with pytest.raises(ConversionError):
        quantize(converted("f32"), tmp_path / "q.gguf", "q4_0", imatrix=tmp_path / "im")


def test_importance_of_another_model(tmp_path: Path, converted: Callable[..., Path]) -> None:
    write_imatrix(tmp_path / "im", {"blk.0.ffn_up.weight": np.ones(512, np.float32)}, "gguf")
    with pytest.raises(ConversionError, match="expected 256 values, found 512"):
        quantize(converted("f32"), tmp_path / "q.gguf", "q4_0", imatrix=tmp_path / "im")


def test_requantising_must_be_allowed(tmp_path: Path, converted: Callable[..., Path]) -> None:
    source = converted("q4_0", r=2, tied=False)
    with pytest.raises(ConversionError, match="already Q4_0"):
        quantize(source, tmp_path / "q.gguf", "q8_0")
    quantize(source, tmp_path / "q.gguf", "q8_0", allow_requantize=True)
    assert verify(tmp_path / "q.gguf") == []
    from_q8 = tmp_path / "from_q8.gguf"
    quantize(tmp_path / "q.gguf", from_q8, "q8_0")  # the same type: copied
    assert from_q8.read_bytes() == (tmp_path / "q.gguf").read_bytes()


def test_other_architectures_are_refused(tmp_path: Path, converted: Callable[..., Path]) -> None:
    path = converted("q8_0", r=2, tied=False)
    other = tmp_path / "other.gguf"
    with GgufFile(path) as file:
        kept = dict(file.metadata) | {"general.architecture": md.string("llama")}
        write_file(other, kept, [])
    with pytest.raises(ConversionError, match="'llama'"):
        quantize(other, tmp_path / "q.gguf", "q4_0")


def test_a_tower_of_8_bits(tmp_path: Path, converted: Callable[..., Path]) -> None:
    """By convert, by quantize of an mmproj file and of an embedded tower: the same matrices."""
    source = checkpoints.build()
    convert(source, tmp_path / "m.gguf", "q4_0", vision_type="q8_0")
    convert(source, tmp_path / "one.gguf", "f32", vision="embed")
    quantize(tmp_path / "one.gguf", tmp_path / "embedded.gguf", "q4_0", vision_type="q8_0")
    path = converted("f32")
    quantize(path.with_name(f"mmproj-{path.name}"), tmp_path / "tower.gguf", "q8_0")
    whole = tensors(tmp_path / "embedded.gguf")
    for name in ("mmproj-m.gguf", "tower.gguf"):
        assert verify(tmp_path / name) == []
        content = info(tmp_path / name)
        assert content.metadata["general.file_type"] == FileType.Q8_0
        types = {tensor.name: tensor.type for tensor in content.tensors}
        matrices = {name for name, kind in types.items() if kind == "Q8_0"}
        ends = ("attn_qkv", "attn_out", "ffn_up", "ffn_down")
        layers = {f"v.blk.{layer}.{end}.weight" for layer in range(2) for end in ends}
        assert matrices == layers | {"mm.0.weight", "mm.2.weight"}
        assert {types[other] for other in types.keys() - matrices} == {"F32"}
        for tensor, values in tensors(tmp_path / name).items():
            np.testing.assert_array_equal(values, whole[tensor])


def test_types_that_a_tower_cannot_have(tmp_path: Path, converted: Callable[..., Path]) -> None:
    path = converted("f32")
    tower = path.with_name(f"mmproj-{path.name}")
    with pytest.raises(ConversionError, match="'q4_0': choose one of f32, f16"):
        quantize(tower, tmp_path / "q.gguf", "q4_0")
    with pytest.raises(ConversionError, match="q4_k"):
        convert(checkpoints.build(), tmp_path / "m.gguf", "q4_0", vision_type="q4_k")
    assert not list(tmp_path.iterdir())


def test_embedded_vision_is_kept(tmp_path: Path) -> None:
    convert(checkpoints.build(), tmp_path / "one.gguf", "f16", vision="embed")
    quantize(tmp_path / "one.gguf", tmp_path / "q.gguf", "q8_0")
    before, after = tensors(tmp_path / "one.gguf"), tensors(tmp_path / "q.gguf")
    assert after.keys() == before.keys()
    for name in before:
        if name.startswith(("v.", "mm.")):
            np.testing.assert_array_equal(after[name], before[name])
