"""Random-weight Qwen 3.5 checkpoints as Hugging Face folders, for tests against transformers.

`build()` makes small ones with the real head shapes (attention head dim 256, linear heads of 128);
`full_size()` makes ones in the exact shapes of the published models, as does
`python tests/reference/checkpoints.py FOLDER 0.8b`. Names and shapes come from
the transformers classes, instantiated without storage; values are drawn per tensor and written with
numpy, so memory stays small. The values are chosen to expose mistakes:

- norm weights are random, and the final norm flips signs, so a forgotten +1 changes every logit and
  a tied head does not simply repeat the input token;
- A_log spreads the decays over 0.5 .. 0.999, so both short and long memory matter;
- logits have deviation ~4 and the best one usually leads by ~1, so greedy ids compare well;
- tokens that are not whole UTF-8 characters, control tokens and padding rows have small rows in the
  head and are practically never chosen: llama.cpp reports no ids for the first and stops at some of
  the others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5TextConfig,
)

import qwen_vocab

Floats = NDArray[np.float32]
LOGIT_DEVIATION = 4.0
_CHUNK = 1 << 22  # values drawn at once
_CACHE: dict[str, Path] = {}


# ---- values --------------------------------------------------------------------------------------


def _rng(name: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))


def _vector(name: str, count: int, rng: np.random.Generator) -> Floats:
    """Values of norms, per-head scalars and biases."""
    noise = rng.standard_normal(count, np.float32)
    if name.endswith("A_log"):
        return np.log(rng.permutation(np.geomspace(0.0015, 1.0, count))).astype(np.float32)
    if name.endswith("dt_bias"):
        return noise * np.float32(0.5)
    if name.endswith(("language_model.norm.weight", "model.norm.weight", "mtp.norm.weight")):
        signs = rng.integers(0, 2, count).astype(np.float32) * -2  # 1 + w is about 1 or -1
        return signs + noise * np.float32(0.2)
    if "visual" in name:
        return noise * np.float32(0.1) + np.float32("norm" in name and name.endswith("weight"))
    if name.endswith("linear_attn.norm.weight"):
        return np.float32(1) + noise * np.float32(0.2)
    return noise * np.float32(0.3)


def _gain(name: str) -> float:
    """Deviation of a matrix, times the square root of its inputs."""
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return LOGIT_DEVIATION
    if name.endswith("conv1d.weight"):
        return 1.0
    if name.endswith("in_proj_a.weight"):
        return 0.5
    return 1.2


def _is_head(name: str, tied: bool) -> bool:
    return name.endswith("embed_tokens.weight" if tied else "lm_head.weight")


def values(
    name: str, shape: tuple[int, ...], seed: int, *, row_scale: Floats | None = None
) -> Iterator[Floats]:
    """The values of a tensor in chunks of whole rows; row_scale: [rows] factors."""
    rng = _rng(name, seed)
    if len(shape) == 1:
        yield _vector(name, shape[0], rng)
        return
    cols = math.prod(shape[1:])
    deviation = np.float32(_gain(name) / math.sqrt(cols))
    step = max(1, _CHUNK // cols)
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        chunk = rng.standard_normal((rows, cols), np.float32) * deviation
        if row_scale is not None:
            chunk *= row_scale[start : start + rows, None]
        yield chunk


def head_scale(vocab: qwen_vocab.QwenVocab) -> Floats:
    """1 for tokens that greedy decoding may choose, 0.05 for the others (see the file's head)."""

    def eligible(token: str, kind: int) -> bool:
        if kind != qwen_vocab.NORMAL:
            return False
        try:
            qwen_vocab.from_alphabet(token).decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    flags = [eligible(token, kind) for token, kind in zip(vocab.tokens, vocab.types, strict=True)]
    return np.where(flags, 1.0, 0.05).astype(np.float32)


# ---- safetensors ---------------------------------------------------------------------------------


def to_bf16(chunk: Floats) -> NDArray[np.uint16]:
    """Rounds to nearest even."""
    bits = np.ascontiguousarray(chunk).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


Source = Callable[[], Iterator[Floats]]


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], Source]]
) -> None:
    """Writes {name: (dtype F32 or BF16, shape, source of the values)} tensor by tensor."""
    header, offset = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        size = math.prod(shape) * (2 if dtype == "BF16" else 4)
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for dtype, _, source in tensors.values():
            for chunk in source():
                file.write((to_bf16(chunk) if dtype == "BF16" else chunk).tobytes())


def _write_shards(
    folder: Path, tensors: dict[str, tuple[str, tuple[int, ...], Source]], shards: int
) -> None:
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    names = list(tensors)
    weight_map = {}
    for index in range(shards):
        part = names[index::shards]
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index_json = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_json))


# ---- the model -----------------------------------------------------------------------------------


def _shapes(config: Qwen3_5Config | Qwen3_5TextConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes that transformers gives the model, without allocating it."""
    is_text = isinstance(config, Qwen3_5TextConfig)
    kind = Qwen3_5ForCausalLM if is_text else Qwen3_5ForConditionalGeneration
    with torch.device("meta"):
        model = kind(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _mtp_shapes(text: Qwen3_5TextConfig, trunk: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The prediction block: one full-attention layer, three norms and the projection."""
    hidden = text.hidden_size
    layer = next(name for name in trunk if name.endswith(".self_attn.q_proj.weight"))
    prefix = layer.removesuffix("self_attn.q_proj.weight")
    shapes: dict[str, tuple[int, ...]] = {
        "mtp.layers.0." + name.removeprefix(prefix): shape
        for name, shape in trunk.items()
        if name.startswith(prefix)
    }
    norms = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
    shapes |= {f"mtp.{name}.weight": (hidden,) for name in norms}
    return shapes | {"mtp.fc.weight": (hidden, 2 * hidden)}


def _dtype(name: str, dtype: str) -> str:
    """The published checkpoints are BF16 but for two kinds of vectors."""
    kept = name.endswith(("A_log", "linear_attn.norm.weight"))
    return "F32" if dtype == "float32" or kept else "BF16"


def _write(
    folder: Path,
    config: Qwen3_5Config | Qwen3_5TextConfig,
    vocab: qwen_vocab.QwenVocab,
    *,
    seed: int,
    mtp: bool,
    vision: bool,
    dtype: str,
    shards: int,
) -> None:
    text = config if isinstance(config, Qwen3_5TextConfig) else config.text_config
    tied = bool(config.tie_word_embeddings)
    shapes = _shapes(config)
    if tied:
        shapes.pop("lm_head.weight", None)
    if mtp:
        shapes |= _mtp_shapes(text, shapes)
    if not vision:
        shapes = {name: shape for name, shape in shapes.items() if "visual" not in name}
    scale = head_scale(vocab)
    tensors = {
        name: (
            _dtype(name, dtype),
            shape,
            functools.partial(
                values, name, shape, seed, row_scale=scale if _is_head(name, tied) else None
            ),
        )
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(folder, tensors, shards)
    content = config.to_dict()
    kind = "Qwen3_5ForCausalLM" if text is config else "Qwen3_5ForConditionalGeneration"
    content["architectures"] = [kind]
    content["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(content, indent=2))
    qwen_vocab.write_hf_files(folder, chat_template=True, vocab=vocab)


def _text_config(vocab: int, *, v_per_k: int, k_heads: int, **options: Any) -> Qwen3_5TextConfig:
    return Qwen3_5TextConfig(
        vocab_size=vocab,
        head_dim=256,
        linear_num_key_heads=k_heads,
        linear_num_value_heads=k_heads * v_per_k,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
        **options,
    )


def _full_config(
    text: Qwen3_5TextConfig, vocab: qwen_vocab.QwenVocab, vision: dict[str, int]
) -> Qwen3_5Config:
    ids = {f"{key}_token_id": vocab.id_of(f"<|{key}_pad|>") for key in ("image", "video")}
    ids |= {f"vision_{end}_token_id": vocab.id_of(f"<|vision_{end}|>") for end in ("start", "end")}
    return Qwen3_5Config(
        text_config=text.to_dict(),
        vision_config={
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": text.hidden_size,
            **vision,
        },
        tie_word_embeddings=text.tie_word_embeddings,
        **ids,
    )


# depth, hidden, ffn, heads, learned positions. The published towers of 0.8B, and of 9B with fewer
# layers: its heads of 72 and 4304 inner values are no multiples of 32.
TOWERS = {
    "small": (2, 64, 128, 4, 64),
    "0.8b": (12, 768, 3072, 12, 2304),
    "9b": (3, 1152, 4304, 16, 2304),
}


def _tower(depth: int, hidden: int, ffn: int, heads: int, positions: int) -> dict[str, int]:
    return {
        "depth": depth,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_heads": heads,
        "num_position_embeddings": positions,
    }


def build(
    folder: str | os.PathLike[str] | None = None,
    *,
    r: int = 1,
    tied: bool = True,
    layers: int = 4,
    hidden: int = 256,
    k_heads: int = 2,
    normal_tokens: int = 1024,
    seed: int = 0,
    causal_lm: bool = False,
    mtp: bool = True,
    vision: bool = True,
    tower: str = "small",
    dtype: str = "float32",
    shards: int = 1,
) -> Path:
    """A small checkpoint. r: value heads per key head of linear attention; tower: shape of the
    vision tower, see TOWERS; dtype: of storage, `float32` or `bfloat16`. Without `folder` it goes
    to a temporary one, shared by calls with equal options.
    """
    options = {key: value for key, value in locals().items() if key != "folder"}
    if folder is None:
        return _cached(options)
    folder = Path(folder)
    vocab = qwen_vocab.small(normal_tokens, -(-(normal_tokens + 64) // 32) * 32)
    text = _text_config(
        len(vocab.tokens),
        v_per_k=r,
        k_heads=k_heads,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        eos_token_id=vocab.id_of("<|im_end|>"),
    )
    config = text if causal_lm else _full_config(text, vocab, _tower(*TOWERS[tower]))
    _write(folder, config, vocab, seed=seed, mtp=mtp, vision=vision, dtype=dtype, shards=shards)
    return folder


def _cached(options: dict[str, Any]) -> Path:
    key = json.dumps(options, sort_keys=True)
    if key not in _CACHE:
        name = "qwen35-checkpoint-" + hashlib.sha256(key.encode()).hexdigest()[:12]
        holder = tempfile.TemporaryDirectory(prefix=name)
        _KEEP.append(holder)
        _CACHE[key] = build(Path(holder.name) / "model", **options)
    return _CACHE[key]


_KEEP: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


# hidden, ffn, layers, heads, kv heads, value heads per key head, tied; then the vision tower:
# depth, hidden, ffn, heads.
_SIZES = {
    "0.8b": ((1024, 3584, 24, 8, 2, 1, True), (12, 768, 3072, 12)),
    "2b": ((2048, 6144, 24, 8, 2, 1, True), (24, 1024, 4096, 16)),
    "4b": ((2560, 9216, 32, 16, 4, 2, True), (24, 1024, 4096, 16)),
    "9b": ((4096, 12288, 32, 16, 4, 2, False), (27, 1152, 4304, 16)),
}


def full_size(folder: str | os.PathLike[str], size: str = "0.8b", seed: int = 0) -> Path:
    """A BF16 checkpoint in the exact shapes of a published model, with the real vocabulary."""
    (hidden, ffn, layers, heads, kv_heads, r, tied), tower = _SIZES[size]
    vocab = qwen_vocab.load()
    text = _text_config(
        qwen_vocab.VOCAB_SIZE,
        v_per_k=r,
        k_heads=16,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=262_144,
        tie_word_embeddings=tied,
        eos_token_id=vocab.id_of("<|endoftext|>"),
    )
    folder = Path(folder)
    config = _full_config(text, vocab, _tower(*tower, 2304))
    _write(folder, config, vocab, seed=seed, mtp=True, vision=True, dtype="bfloat16", shards=1)
    _write_processors(folder)
    return folder


def _write_processors(folder: Path) -> None:
    """What transformers needs to show the model pictures in a chat."""
    shared: dict[str, Any] = {
        "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor",
    }  # fmt: skip
    images = {"image_processor_type": "Qwen2VLImageProcessorFast"}
    videos = {"video_processor_type": "Qwen3VLVideoProcessor"}
    for name, least, most, kind in (
        ("preprocessor_config.json", 65_536, 16_777_216, images),
        ("video_preprocessor_config.json", 4_096, 25_165_824, videos),
    ):
        content = {"size": {"shortest_edge": least, "longest_edge": most}, **shared, **kind}
        (folder / name).write_text(json.dumps(content, indent=1))
    template = Path(__file__).with_name("chat_template.jinja")
    (folder / "chat_template.jinja").write_bytes(template.read_bytes())


if __name__ == "__main__":
    full_size(sys.argv[1], *sys.argv[2:3])
