"""What the converter must not accept: foreign, unsafe, damaged and incomplete checkpoints."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from qwen35cpp.convert import CheckpointError, ConversionError, convert
from qwen35cpp.convert.safetensors_reader import read_header

import checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    shutil.copytree(checkpoints.build(vision=True), tmp_path / "hf")
    return tmp_path / "hf"


def refused(folder: Path, message: str) -> CheckpointError:
    out = folder.parent / "out.gguf"
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(folder, out, "f32")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]
    return caught.value


def edit_config(folder: Path, section: str | None, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    target = config if section is None else config[section]
    target.update(fields)
    path.write_text(json.dumps(config))


# ---- unsafe and foreign --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04cos\nsystem\n")
    error = refused(folder, "pickle")
    assert "safetensors" in error.hint


@pytest.mark.parametrize(
    "names", [["LlamaForCausalLM"], ["Qwen3_5MoeForConditionalGeneration"], [], None, "x", [{}]]
)
def test_architecture(folder: Path, names: Any) -> None:
    edit_config(folder, None, architectures=names)
    refused(folder, "architectures")


def test_quantised_checkpoint(folder: Path) -> None:
    edit_config(folder, None, quantization_config={"quant_method": "fp8"})
    refused(folder, "quantised")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("text_config", "hidden_size", 0),
        ("text_config", "hidden_size", "256"),
        ("text_config", "hidden_size", True),
        ("text_config", "num_hidden_layers", -1),
        ("text_config", "num_hidden_layers", 10**30),
        ("text_config", "vocab_size", None),
        ("text_config", "num_key_value_heads", 3),
        ("text_config", "linear_num_value_heads", 3),
        ("text_config", "linear_value_head_dim", 64),
        ("text_config", "hidden_act", "gelu"),
        ("text_config", "attn_output_gate", False),
        ("text_config", "attention_bias", True),
        ("text_config", "rms_norm_eps", float("nan")),
        ("text_config", "layer_types", ["full_attention"] * 4),
        ("text_config", "rope_parameters", None),
        ("text_config", "rope_parameters", {"rope_type": "llama3", "rope_theta": 1e7}),
        ("text_config", "rope_parameters", {"rope_theta": 1e7, "mrope_section": [1, 2]}),
        ("vision_config", "out_hidden_size", 128),
        ("vision_config", "num_position_embeddings", 50),
        ("vision_config", "deepstack_visual_indexes", [1]),
        ("vision_config", "depth", None),
        (None, "vision_config", []),
        (None, "text_config", None),
    ],
)
def test_configuration(folder: Path, section: str | None, field: str, value: Any) -> None:
    edit_config(folder, section, **{field: value})
    refused(folder, field.split("_")[0])


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00", '{"a": 1}'])
def test_config_that_is_no_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


# ---- incomplete ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, name.split(".")[-1] if "model" in name else name)


def test_truncated_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "incomplete" in refused(folder, "bytes").hint


def rewrite_header(path: Path, change: Any) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def rename(old: str, new: str) -> Any:
    def change(header: dict[str, Any]) -> None:
        header[new] = header.pop(old)

    return change


PREFIX = "model.language_model.layers.0."


def test_missing_and_unknown_tensor(folder: Path) -> None:
    name = PREFIX + "linear_attn.A_log"
    rewrite_header(folder / "model.safetensors", rename(name, name + "2"))
    refused(folder, "A_log is missing")


def test_unknown_tensor(folder: Path) -> None:
    extra = folder / "model.safetensors"
    rewrite_header(extra, lambda header: header.update(x=_empty(header)))
    refused(folder, "not part of")


def _empty(header: dict[str, Any]) -> dict[str, Any]:
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_")
    return {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def test_wrong_shape(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header[PREFIX + "mlp.up_proj.weight"]["shape"].reverse()

    rewrite_header(folder / "model.safetensors", change)
    refused(folder, r"expected \[512, 256\], found \[256, 512\]")


def test_other_dtype(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        entry = header[PREFIX + "mlp.up_proj.weight"]
        entry["dtype"] = "I32"

    rewrite_header(folder / "model.safetensors", change)
    refused(folder, "found I32")


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd", "a\\b.safetensors", "c:x.safetensors", "x.bin", 7],
)
def test_index_with_other_paths(folder: Path, shard: Any) -> None:
    index = {"weight_map": {"model.language_model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "name of a .safetensors file")


def test_index_that_names_another_shard(tmp_path: Path) -> None:
    shutil.copytree(checkpoints.build(shards=2), tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["mtp.fc.weight"] = files[0]
    index["weight_map"]["mtp.norm.weight"] = files[1]
    index["weight_map"]["model.language_model.norm.weight"] = files[0]
    path.write_text(json.dumps(index))
    refused(tmp_path / "hf", "not in")


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "type_name"), [("nan", "f32"), ("inf", "q8_0"), ("1e5", "f16")])
def test_values_that_cannot_be_stored(folder: Path, value: Any, type_name: str) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", raw)
    entry = json.loads(raw[8 : 8 + length])[PREFIX + "mlp.up_proj.weight"]
    at = 8 + length + entry["data_offsets"][0] + 4 * (3 * 256 + 5)
    raw[at : at + 4] = struct.pack("<f", float(value))
    path.write_bytes(raw)
    with pytest.raises(ConversionError, match=r"blk.0.ffn_up.weight.*row 3, column 5"):
        convert(folder, folder.parent / "out.gguf", type_name)
    assert sorted(item.name for item in folder.parent.iterdir()) == ["hf"]


@pytest.mark.parametrize("arguments", [("q3_k",), ("f32", "elsewhere")])
def test_arguments(folder: Path, arguments: tuple[str, ...]) -> None:
    options = {"vision": arguments[1]} if len(arguments) > 1 else {}
    with pytest.raises(ConversionError, match=r"q3_k|elsewhere"):
        convert(folder, folder.parent / "out.gguf", arguments[0], **options)


# ---- mutated headers -----------------------------------------------------------------------------

TOKENS = [
    b"0",
    b"-1",
    b"1e9",
    b"99999999999999999999",
    b"null",
    b"true",
    b'"F32"',
    b'"BF16"',
    b"[]",
]
TOKENS += [
    b"{}",
    b'"',
    b",",
    b":",
    b"[[[[",
    b"}",
    b"\\u0000",
    b"\xff\xfe",
    b"NaN",
    b"2.5",
    b'"F8_E5M2"',
]


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """One to three edits: bytes, JSON tokens, the length field, cuts and repeats."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + rng.randint(0, 6)] = rng.choice(TOKENS)
            case 2:
                number = rng.choice([0, 1, 2, 1 << 31, 1 << 63, (1 << 64) - 1, len(data)])
                data[:8] = struct.pack("<Q", number)
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 200)]
            case 5:
                del data[at : at + rng.randint(1, 200)]
        if not data:
            return bytes(data)
    return bytes(data)


def test_mutated_headers(tmp_path: Path) -> None:
    """Each mutant is read as a valid header or refused with CheckpointError; nothing else."""
    source = tmp_path / "small.safetensors"
    names = ["model.norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]

    def values() -> Any:
        yield checkpoints._vector("norm", 8, checkpoints._rng("x", 0))

    checkpoints.write_safetensors(source, dict.fromkeys(names, ("F32", (8,), values)))
    raw, rng = source.read_bytes(), random.Random(5)
    path, refusals = tmp_path / "mutant.safetensors", 0
    for _ in range(4000):
        path.write_bytes(mutate(raw, rng))
        try:
            tensors = read_header(path)
        except CheckpointError as error:
            refusals += str(path) in str(error)
            continue
        size = path.stat().st_size
        assert all(8 <= t.offset <= t.offset + t.bytes <= size for t in tensors.values())
    assert refusals > 3000
