"""Keys and tokenizer of converted files, read with the `gguf` package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from qwen35cpp.convert import CheckpointError, convert, info
from qwen35cpp.convert.writer import HASH_KEYS

import checkpoints
import qwen_vocab

EXPECTED = {
    "general.architecture": "qwen35",
    "general.type": "model",
    "general.file_type": 0,
    "general.quantization_version": 2,
    "qwen35.block_count": 5,
    "qwen35.nextn_predict_layers": 1,
    "qwen35.context_length": 4096,
    "qwen35.embedding_length": 256,
    "qwen35.feed_forward_length": 512,
    "qwen35.attention.head_count": 4,
    "qwen35.attention.head_count_kv": 1,
    "qwen35.attention.key_length": 256,
    "qwen35.attention.value_length": 256,
    "qwen35.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
    "qwen35.attention.recurrent_layers": [True, True, True, False, False],
    "qwen35.full_attention_interval": 4,
    "qwen35.rope.freq_base": 1e7,
    "qwen35.rope.dimension_count": 64,
    "qwen35.rope.dimension_sections": [11, 11, 10, 0],
    "qwen35.ssm.conv_kernel": 4,
    "qwen35.ssm.state_size": 128,
    "qwen35.ssm.group_count": 2,
    "qwen35.ssm.time_step_rank": 4,
    "qwen35.ssm.inner_size": 512,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen35",
    "tokenizer.ggml.add_bos_token": False,
}
TOKENIZER_ARRAYS = {f"tokenizer.ggml.{key}" for key in ("tokens", "token_type", "merges")}
TOKEN_IDS = {f"tokenizer.ggml.{key}_token_id" for key in ("eos", "padding", "bos")}


def values_of(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


def test_key_set(converted: Callable[..., Path]) -> None:
    values = values_of(converted("f32", r=2))
    more = {"general.name", "general.size_label", "tokenizer.chat_template"}
    assert values.keys() == EXPECTED.keys() | TOKENIZER_ARRAYS | TOKEN_IDS | more | set(HASH_KEYS)
    assert {key: values[key] for key in EXPECTED} == EXPECTED


def test_without_mtp(tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    result = convert(checkpoints.build(), out, "f32", vision="none", mtp=False)
    values = values_of(out)
    assert not result.mtp
    assert values["qwen35.block_count"] == 4
    assert "qwen35.nextn_predict_layers" not in values
    assert not any(".nextn." in tensor.name for tensor in info(out).tensors)


def test_checkpoint_without_mtp(tmp_path: Path) -> None:
    """What transformers saves after fine-tuning: the prediction block is gone."""
    result = convert(checkpoints.build(mtp=False), tmp_path / "model.gguf", "f32")
    assert not result.mtp


NUMBERS = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
NUMBERS |= {"iq4_xs": 30, "bf16": 32}


@pytest.mark.parametrize(("type_name", "number"), NUMBERS.items())
def test_file_type_numbers(converted: Callable[..., Path], type_name: str, number: int) -> None:
    path = converted(type_name, r=2, tied=False)
    assert values_of(path)["general.file_type"] == number
    assert info(path).file_type == type_name.upper()


def test_tokenizer(converted: Callable[..., Path]) -> None:
    vocab = qwen_vocab.small(1024, 1088)
    values = values_of(converted("f32"))
    assert values["tokenizer.ggml.tokens"] == vocab.tokens
    assert values["tokenizer.ggml.token_type"] == vocab.types
    assert values["tokenizer.ggml.merges"] == vocab.merges
    assert values["tokenizer.ggml.eos_token_id"] == vocab.id_of("<|im_end|>")
    assert values["tokenizer.ggml.padding_token_id"] == vocab.id_of("<|endoftext|>")
    template = (checkpoints.build() / "chat_template.jinja").read_text()
    assert values["tokenizer.chat_template"] == template


def test_vocab_and_merges_files_give_the_same(
    tmp_path: Path, converted: Callable[..., Path]
) -> None:
    """The older pair of files instead of tokenizer.json, the template in tokenizer_config.json."""
    source = tmp_path / "hf"
    shutil.copytree(checkpoints.build(), source)
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [rule if isinstance(rule, str) else " ".join(rule) for rule in model["merges"]]
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    config = json.loads((source / "tokenizer_config.json").read_text())
    template = (source / "chat_template.jinja").read_text()
    (source / "chat_template.jinja").unlink()
    config["chat_template"] = [{"name": "default", "template": template}]
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "model.gguf", "f32", vision="none")
    found, expected = values_of(tmp_path / "model.gguf"), values_of(converted("f32"))
    keys = [key for key in expected if key.startswith("tokenizer.")]
    assert {key: found[key] for key in keys} == {key: expected[key] for key in keys}


def test_mmproj_keys(converted: Callable[..., Path]) -> None:
    path = converted("q8_0", r=2, tied=False)
    values = values_of(path.with_name(f"mmproj-{path.name}"))
    expected = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.file_type": 1,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "qwen3vl_merger",
        "clip.use_gelu": True,
        "clip.vision.image_size": 128,
        "clip.vision.patch_size": 16,
        "clip.vision.embedding_length": 64,
        "clip.vision.feed_forward_length": 128,
        "clip.vision.block_count": 2,
        "clip.vision.attention.head_count": 4,
        "clip.vision.attention.layer_norm_epsilon": pytest.approx(1e-6),
        "clip.vision.projection_dim": 256,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
        "clip.vision.spatial_merge_size": 2,
        "clip.vision.is_deepstack_layers": [False, False],
    }
    assert {key: values.get(key) for key in expected} == expected


def test_embedded_vision(tmp_path: Path) -> None:
    result = convert(checkpoints.build(), tmp_path / "one.gguf", "q8_0", vision="embed")
    content = info(tmp_path / "one.gguf")
    assert result.paths == [tmp_path / "one.gguf"]
    assert content.has_vision
    assert content.architecture == "qwen35"
    assert content.metadata["clip.vision.block_count"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gguf"]


def edit_tokenizer(folder: Path, change: Any) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _pattern(data: dict[str, Any]) -> None:
    steps = data["pre_tokenizer"]["pretokenizers"]
    steps[0]["pattern"]["Regex"] = r"\p{N}{1,3}"


TOKENIZER_FAULTS = {
    "pattern": (_pattern, "pattern"),
    "normalizer": (lambda data: data.update(normalizer=None), "normalizer"),
    "ignore_merges": (lambda data: data["model"].update(ignore_merges=True), "ignore_merges"),
    "unknown merge": (lambda data: data["model"]["merges"].append("zz qq"), "zz qq"),
    "three parts": (lambda data: data["model"]["merges"].append("a b c"), "a b c"),
    "same id": (lambda data: data["model"]["vocab"].update(zzzz=300), "300"),
    "too many ids": (lambda data: data["model"]["vocab"].update(zzzz=5000), "5000"),
    "not bpe": (lambda data: data["model"].update(type="Unigram"), "BPE"),
}


@pytest.mark.parametrize("fault", TOKENIZER_FAULTS)
def test_other_tokenizers_are_refused(tmp_path: Path, fault: str) -> None:
    change, message = TOKENIZER_FAULTS[fault]
    shutil.copytree(checkpoints.build(), tmp_path / "hf")
    edit_tokenizer(tmp_path / "hf", change)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "hf", tmp_path / "model.gguf", "f32")
    assert not (tmp_path / "model.gguf").exists()
