"""Small random qwen35 models as GGUF files, written with the `gguf` package.

`build(path, **options)` writes a file with every key and tensor of the architecture and returns the
values that a reader must see, decoded to float32. All numbers follow from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind

from qwen_tokens import SPECIAL_TOKENS, VISIBLE_TOKENS

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

CONTROL, USER_DEFINED, UNUSED, NORMAL = 3, 4, 5, 1

MERGES = (
    "Ġ Ġ", "ĠĠ ĠĠ", "i n", "Ġ t", "e r", "Ġ a", "h e", "o n", "r e", "Ġt he", "l l", "o r",
    "a t", "Ġ s", "e n", "in g", "o w", "l d", "Ġ w", "or ld", "Ġw orld", "H e", "He ll", "Hell o",
    "Ã ©", "æ Ĺ", "æĹ ¥",
)  # fmt: skip

# Where a block keeps its f16 scale, and for types with a minimum where that is and the mean of the
# values q it offsets. Random bytes elsewhere are valid blocks.
SCALE_AT = {
    Type.Q2_K: 80, Type.Q3_K: 108, Type.Q4_K: 0, Type.Q5_K: 0, Type.Q6_K: 208, Type.IQ2_XXS: 0,
    Type.IQ2_XS: 0, Type.IQ3_XXS: 0, Type.IQ1_S: 0, Type.IQ4_NL: 0, Type.IQ3_S: 0, Type.IQ2_S: 0,
    Type.IQ4_XS: 0,
}  # fmt: skip
MIN_AT = {Type.Q2_K: (82, 1.5), Type.Q4_K: (2, 7.5), Type.Q5_K: (2, 15.5)}


@dataclass(frozen=True)
class Options:
    """Shape and content of a model; the defaults exercise every kind of layer and tensor."""

    n_embd: int = 256
    n_ff: int = 512
    n_layer: int = 4
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    n_rot: int = 0  # 0: a quarter of head_dim
    lin_k_heads: int = 2
    lin_v_heads: int = 4
    lin_head_dim: int = 64
    full_attention_interval: int = 4
    n_ctx: int = 4096
    mtp: bool = False
    tied: bool = True
    type: Type | str = Type.F32
    # Tensor types by part of the name, tried in order before `type`, e.g. {"ffn_down": "Q6_K"}.
    types: Mapping[str, Type | str] = field(default_factory=dict)
    vector_type: Type | str = Type.F32
    n_vocab: int = 0  # 0: the tokens below, padded to a multiple of 32
    list_recurrent: bool = False  # write attention.recurrent_layers
    vision: bool = False  # add an embedded vision tower of the smallest shape
    shard_tensors: int = 0  # tensors per file; 0: one file
    alignment: int = 32
    seed: int = 0
    # Keys to add or replace: (value, kind), or None to leave the key out.
    metadata: Mapping[str, tuple[Any, Kind] | None] = field(default_factory=dict)
    # Tensors to add or replace in their stored form, or None to leave the tensor out.
    tensors: Mapping[str, FloatArray | None] = field(default_factory=dict)

    @property
    def rotary(self) -> int:
        return self.n_rot or self.head_dim // 4

    @property
    def conv_channels(self) -> int:
        return (2 * self.lin_k_heads + self.lin_v_heads) * self.lin_head_dim

    def is_recurrent(self, layer: int) -> bool:
        return layer < self.n_layer and (layer + 1) % self.full_attention_interval != 0


REAL_HEADS: Mapping[str, int] = {"head_dim": 256, "lin_head_dim": 128}
"""Options that give the head sizes of the published models."""


@dataclass(frozen=True)
class TinyModel:
    """What was written: the file to open, and tensors by GGUF name as a reader decodes them."""

    path: Path
    options: Options
    tensors: dict[str, FloatArray]
    tokens: list[str]
    token_types: list[int]
    merges: list[str]


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes, in the order of their token ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary(size: int = 0) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types and merges; padded with unused tokens to `size`."""
    tokens = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    types = [NORMAL] * len(tokens)
    for token in SPECIAL_TOKENS:
        tokens.append(token)
        types.append(USER_DEFINED if token in VISIBLE_TOKENS else CONTROL)
    size = size or -(-len(tokens) // 32) * 32
    if size < len(tokens):
        raise ValueError(f"n_vocab must be at least {len(tokens)}")
    types += [UNUSED] * (size - len(tokens))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), size)]
    return tokens, types, list(MERGES)


def rope_sections(n_rot: int) -> list[int]:
    """Frequencies per axis, as even as the published 11, 11, 10."""
    half = n_rot // 2
    time = -(-half // 3)
    height = -(-(half - time) // 2)
    return [time, height, half - time - height, 0]


def metadata(options: Options, arch: str = "qwen35") -> dict[str, tuple[Any, Kind]]:
    """Every key of the architecture, in the order of the converter."""
    o = options
    tokens, types, merges = vocabulary(o.n_vocab)
    n_block = o.n_layer + int(o.mtp)
    keys: dict[str, tuple[Any, Kind]] = {
        "general.name": ("tiny", Kind.STRING),
        "general.file_type": (0, Kind.UINT32),
        "general.quantization_version": (2, Kind.UINT32),
        f"{arch}.block_count": (n_block, Kind.UINT32),
        f"{arch}.context_length": (o.n_ctx, Kind.UINT32),
        f"{arch}.embedding_length": (o.n_embd, Kind.UINT32),
        f"{arch}.feed_forward_length": (o.n_ff, Kind.UINT32),
        f"{arch}.attention.head_count": (o.n_head, Kind.UINT32),
        f"{arch}.attention.head_count_kv": (o.n_head_kv, Kind.UINT32),
        f"{arch}.attention.key_length": (o.head_dim, Kind.UINT32),
        f"{arch}.attention.value_length": (o.head_dim, Kind.UINT32),
        f"{arch}.attention.layer_norm_rms_epsilon": (1e-6, Kind.FLOAT32),
        f"{arch}.full_attention_interval": (o.full_attention_interval, Kind.UINT32),
        f"{arch}.rope.freq_base": (1e7, Kind.FLOAT32),
        f"{arch}.rope.dimension_count": (o.rotary, Kind.UINT32),
        f"{arch}.rope.dimension_sections": (rope_sections(o.rotary), Kind.ARRAY),
        f"{arch}.ssm.conv_kernel": (4, Kind.UINT32),
        f"{arch}.ssm.state_size": (o.lin_head_dim, Kind.UINT32),
        f"{arch}.ssm.group_count": (o.lin_k_heads, Kind.UINT32),
        f"{arch}.ssm.time_step_rank": (o.lin_v_heads, Kind.UINT32),
        f"{arch}.ssm.inner_size": (o.lin_v_heads * o.lin_head_dim, Kind.UINT32),
        "tokenizer.ggml.model": ("gpt2", Kind.STRING),
        "tokenizer.ggml.pre": ("qwen35", Kind.STRING),
        "tokenizer.ggml.tokens": (tokens, Kind.ARRAY),
        "tokenizer.ggml.token_type": (types, Kind.ARRAY),
        "tokenizer.ggml.merges": (merges, Kind.ARRAY),
        "tokenizer.ggml.eos_token_id": (tokens.index("<|im_end|>"), Kind.UINT32),
        "tokenizer.ggml.padding_token_id": (tokens.index("<|endoftext|>"), Kind.UINT32),
        "tokenizer.ggml.add_bos_token": (False, Kind.BOOL),
        "tokenizer.chat_template": ("{{ messages }}", Kind.STRING),
    }
    if o.vision:
        keys |= _tower_metadata(o)
    if o.mtp:
        keys[f"{arch}.nextn_predict_layers"] = (1, Kind.UINT32)
    if o.list_recurrent:
        listed = [o.is_recurrent(i) for i in range(n_block)]
        keys[f"{arch}.attention.recurrent_layers"] = (listed, Kind.ARRAY)
    return keys


def tensor_shapes(options: Options) -> dict[str, tuple[int, ...]]:
    """Every tensor in (rows, columns) order; vectors have one extent."""
    o = options
    n_vocab = len(vocabulary(o.n_vocab)[0])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, o.n_embd)}
    for layer in range(o.n_layer + int(o.mtp)):
        part = _recurrent_shapes(o) if o.is_recurrent(layer) else _attention_shapes(o)
        if layer >= o.n_layer:
            part |= {
                "nextn.eh_proj.weight": (o.n_embd, 2 * o.n_embd),
                "nextn.enorm.weight": (o.n_embd,),
                "nextn.hnorm.weight": (o.n_embd,),
                "nextn.shared_head_norm.weight": (o.n_embd,),
            }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in part.items()}
    shapes["output_norm.weight"] = (o.n_embd,)
    if not o.tied:
        shapes["output.weight"] = (n_vocab, o.n_embd)
    return shapes | _tower_shapes(o) if o.vision else shapes


TOWER_EMBD, TOWER_FF, TOWER_GRID = 16, 48, 3


def _tower_shapes(o: Options) -> dict[str, tuple[int, ...]]:
    """One layer with two heads."""
    e, merged = TOWER_EMBD, 4 * TOWER_EMBD
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (e, 3, 16, 16),
        "v.patch_embd.weight.1": (e, 3, 16, 16),
        "v.patch_embd.bias": (e,),
        "v.position_embd.weight": (TOWER_GRID**2, e),
    }
    for name, rows, cols in (
        ("v.blk.0.attn_qkv", 3 * e, e),
        ("v.blk.0.attn_out", e, e),
        ("v.blk.0.ffn_up", TOWER_FF, e),
        ("v.blk.0.ffn_down", e, TOWER_FF),
        ("mm.0", merged, merged),
        ("mm.2", o.n_embd, merged),
    ):
        shapes |= {f"{name}.weight": (rows, cols), f"{name}.bias": (rows,)}
    for name in ("v.blk.0.ln1", "v.blk.0.ln2", "v.post_ln"):
        shapes |= {f"{name}.weight": (e,), f"{name}.bias": (e,)}
    return shapes


def _tower_metadata(o: Options) -> dict[str, tuple[Any, Kind]]:
    numbers = {
        "image_size": 16 * TOWER_GRID, "patch_size": 16, "embedding_length": TOWER_EMBD,
        "feed_forward_length": TOWER_FF, "block_count": 1, "attention.head_count": 2,
        "projection_dim": o.n_embd, "spatial_merge_size": 2,
    }  # fmt: skip
    keys: dict[str, tuple[Any, Kind]] = {
        f"clip.vision.{name}": (value, Kind.UINT32) for name, value in numbers.items()
    }
    return keys | {
        "clip.projector_type": ("qwen3vl_merger", Kind.STRING),
        "clip.vision.attention.layer_norm_epsilon": (1e-6, Kind.FLOAT32),
        "clip.vision.image_mean": ([0.5, 0.5, 0.5], Kind.ARRAY),
        "clip.vision.image_std": ([0.5, 0.5, 0.5], Kind.ARRAY),
        "clip.vision.is_deepstack_layers": ([False], Kind.ARRAY),
    }


def _common_shapes(o: Options) -> dict[str, tuple[int, ...]]:
    return {
        "attn_norm.weight": (o.n_embd,),
        "post_attention_norm.weight": (o.n_embd,),
        "ffn_gate.weight": (o.n_ff, o.n_embd),
        "ffn_up.weight": (o.n_ff, o.n_embd),
        "ffn_down.weight": (o.n_embd, o.n_ff),
    }


def _attention_shapes(o: Options) -> dict[str, tuple[int, ...]]:
    return _common_shapes(o) | {
        "attn_q.weight": (2 * o.n_head * o.head_dim, o.n_embd),
        "attn_k.weight": (o.n_head_kv * o.head_dim, o.n_embd),
        "attn_v.weight": (o.n_head_kv * o.head_dim, o.n_embd),
        "attn_output.weight": (o.n_embd, o.n_head * o.head_dim),
        "attn_q_norm.weight": (o.head_dim,),
        "attn_k_norm.weight": (o.head_dim,),
    }


def _recurrent_shapes(o: Options) -> dict[str, tuple[int, ...]]:
    inner = o.lin_v_heads * o.lin_head_dim
    return _common_shapes(o) | {
        "attn_qkv.weight": (o.conv_channels, o.n_embd),
        "attn_gate.weight": (inner, o.n_embd),
        "ssm_alpha.weight": (o.lin_v_heads, o.n_embd),
        "ssm_beta.weight": (o.lin_v_heads, o.n_embd),
        "ssm_out.weight": (o.n_embd, inner),
        "ssm_conv1d.weight": (o.conv_channels, 4),
        "ssm_dt.bias": (o.lin_v_heads,),
        "ssm_a": (o.lin_v_heads,),
        "ssm_norm.weight": (o.lin_head_dim,),
    }


def encode(
    values: FloatArray, kind: Type, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], FloatArray]:
    """The stored form of `values` and what it decodes to.

    Types that the gguf package cannot write become random blocks with the spread of `values`.
    """
    if kind == Type.F32:
        return values, values
    if kind == Type.F16:
        half = values.astype(np.float16)
        return half, half.astype(np.float32)
    if kind in SCALE_AT or kind == Type.IQ1_M:
        raw = _random_blocks(values.shape, kind, float(values.std()), rng)
    else:
        raw = gguf.quants.quantize(values, kind)
    decoded: FloatArray = gguf.quants.dequantize(raw, kind).astype(np.float32)
    return raw, decoded


def _random_blocks(
    shape: tuple[int, ...], kind: Type, spread: float, rng: np.random.Generator
) -> ByteArray:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, cols = shape
    if cols % block_size:
        raise ValueError(f"{cols} columns are not a multiple of {kind.name}'s {block_size}")
    blocks = rng.integers(0, 256, (rows * cols // block_size, block_bytes), dtype=np.uint8)
    _set_scale(blocks, kind, 1.0)
    unit = gguf.quants.dequantize(blocks[:64], kind)
    _set_scale(blocks, kind, spread / float(unit.std()))
    return blocks.reshape(rows, -1)


def _set_scale(blocks: ByteArray, kind: Type, scale: float) -> None:
    def half(value: float) -> ByteArray:
        return np.frombuffer(np.float16(value).tobytes(), np.uint8)

    if kind == Type.IQ1_M:  # four bits of the f16 scale on top of each of four 16-bit words
        bits = int(np.float16(scale).view(np.uint16))
        for i in range(4):
            high = blocks[:, 49 + 2 * i]
            blocks[:, 49 + 2 * i] = (high & 0x0F) | ((bits >> (4 * i)) & 0xF) << 4
        return
    at = SCALE_AT[kind]
    blocks[:, at : at + 2] = half(scale)
    if kind in MIN_AT:
        at, mean = MIN_AT[kind]
        blocks[:, at : at + 2] = half(scale * mean)


def _random_values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("ssm_a"):
        values = -np.exp(noise)
    elif name.endswith("ssm_dt.bias"):
        values = noise
    elif name.endswith("conv1d.weight"):
        values = noise * 0.5
    elif "norm" in name:
        values = 1 + noise * 0.2
    elif name == "token_embd.weight":
        values = noise * 0.5
    else:
        values = noise * (1.5 * shape[-1] ** -0.5)
    return values.astype(np.float32)


def is_vector(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor stays in float whatever the file's type."""
    return len(shape) == 1 or name.endswith("ssm_conv1d.weight")


def _type_of(name: str, shape: tuple[int, ...], options: Options) -> Type:
    chosen: Type | str = options.type
    if name.startswith(("v.", "mm.")):
        return Type.F32
    if is_vector(name, shape):
        chosen = options.vector_type
    else:
        chosen = next((t for part, t in options.types.items() if part in name), chosen)
    return Type[chosen] if isinstance(chosen, str) else chosen


def write(
    path: Path,
    keys: Mapping[str, tuple[Any, Kind] | None],
    tensors: Sequence[tuple[str, npt.NDArray[Any], Type]],
    *,
    arch: str = "qwen35",
    alignment: int = 32,
    shard_tensors: int = 0,
) -> Path:
    """Writes a GGUF file and returns the path to open (the first shard of several)."""
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=shard_tensors)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for key, entry in keys.items():
        if entry is not None:
            writer.add_key_value(key, entry[0], entry[1])
    for name, array, kind in tensors:
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shards = sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))
    return path if path.exists() or not shards else shards[0]


def build(path: str | Path, **options: Any) -> TinyModel:
    """Writes a model with the given `Options` to `path`."""
    known = {f.name for f in fields(Options)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"unknown options: {', '.join(unknown)}")
    o = Options(**options)
    rng = np.random.default_rng(o.seed)
    values: dict[str, FloatArray] = {}
    stored: list[tuple[str, npt.NDArray[Any], Type]] = []
    for name, shape in tensor_shapes(o).items():
        kind = _type_of(name, shape, o)
        raw, values[name] = encode(_random_values(name, shape, rng), kind, rng)
        stored.append((name, raw, kind))
    for name, replacement in o.tensors.items():
        stored = [entry for entry in stored if entry[0] != name]
        values.pop(name, None)
        if replacement is not None:
            stored.append((name, replacement, Type.F32))
            values[name] = replacement
    keys: dict[str, tuple[Any, Kind] | None] = {**metadata(o), **o.metadata}
    opened = write(Path(path), keys, stored, alignment=o.alignment, shard_tensors=o.shard_tensors)
    tokens, types, merges = vocabulary(o.n_vocab)
    return TinyModel(opened, o, values, tokens, types, merges)
