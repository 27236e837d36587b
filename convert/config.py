"""config.json of a checkpoint, validated: the shape of the text model and of the vision tower.

Accepts `Qwen3_5ForConditionalGeneration` (text and vision configuration nested) and
`Qwen3_5ForCausalLM` (text configuration at the top). Every field is checked for type and range, and
against the others, before any size is computed from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import CheckpointError

MULTIMODAL, CAUSAL_LM = "Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"
MAX_JSON_BYTES = 256 << 20  # a tokenizer.json of this family has 13 MB


@dataclass(frozen=True)
class RopeScaling:
    """YaRN: stretches the rotary frequencies for contexts beyond the native one."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text model; names as in config.json, shortened where the field is long."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rms_eps: float
    k_heads: int
    v_heads: int
    linear_dim: int  # of key and value heads of linear attention
    conv_kernel: int
    interval: int
    recurrent: tuple[bool, ...]  # per trunk layer: Gated DeltaNet
    rope_theta: float
    rotary_dims: int
    rope_sections: tuple[int, int, int]
    rope_scaling: RopeScaling | None
    tied: bool

    @property
    def q_dim(self) -> int:
        """Channels of all query heads of full attention."""
        return self.heads * self.head_dim

    @property
    def query_gate(self) -> int:
        """Outputs of q_proj: per head the query, then its gate."""
        return 2 * self.q_dim

    @property
    def kv_dim(self) -> int:
        """Channels of all key (or value) heads of full attention."""
        return self.kv_heads * self.head_dim

    @property
    def hidden_pair(self) -> int:
        """Inputs of the MTP projection: an embedding and a hidden state."""
        return 2 * self.hidden

    @property
    def k_dim(self) -> int:
        """Channels of all linear-attention key heads."""
        return self.k_heads * self.linear_dim

    @property
    def v_dim(self) -> int:
        """Channels of all linear-attention value heads."""
        return self.v_heads * self.linear_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the causal convolution: q, k and v of linear attention."""
        return 2 * self.k_dim + self.v_dim


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the vision tower."""

    depth: int
    hidden: int
    ffn: int
    heads: int
    out_hidden: int
    patch: int
    temporal_patch: int
    merge: int
    channels: int
    positions: int
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def grid(self) -> int:
        """Side of the square grid of learned positions."""
        return math.isqrt(self.positions)


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says."""

    architecture: str
    text: TextConfig
    vision: VisionConfig | None
    raw: dict[str, Any]


class _Section:
    """Typed access to one JSON object; messages name file and field."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: expected an object, found {type(values).__name__}")
        self.values: Mapping[str, Any] = values
        self.where = where

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value: Any = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"an integer in {low}..{high}", value)
        return int(value)

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value: Any = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.wrong(key, f"a number in {low}..{high}", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false", value)
        return value

    def constant(self, key: str, expected: Any, default: Any) -> None:
        value = self.values.get(key, default)
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            raise self.wrong(key, repr(expected), value)

    def wrong(self, key: str, expected: str, found: object) -> CheckpointError:
        text = "nothing" if found is None else repr(found)[:80]
        return CheckpointError(f"{self.where}: {key}: expected {expected}, found {text}")


def read_json(path: Path) -> Any:
    """Parses a JSON file of the checkpoint; every failure is a CheckpointError naming the file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: {path.name} is missing", hint="give the folder of a full checkpoint"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {str(error)[:120]}") from None


def read_config(folder: Path) -> CheckpointConfig:
    """Reads and checks `folder`/config.json (and the image normalisation beside it)."""
    path = folder / "config.json"
    raw = read_json(path)
    top = _Section(raw, path.name)
    architecture = _architecture(top)
    if architecture == MULTIMODAL:
        text_section = _Section(raw.get("text_config"), "config.json: text_config")
        vision = _vision(_Section(raw.get("vision_config"), "config.json: vision_config"), folder)
    else:
        nested = raw.get("text_config")
        text_section = top if nested is None else _Section(nested, "config.json: text_config")
        vision = None
    tied = text_section.flag("tie_word_embeddings", False)
    text = _text(text_section, top.flag("tie_word_embeddings", tied))
    if vision is not None and vision.out_hidden != text.hidden:
        raise CheckpointError(
            "config.json: vision_config: out_hidden_size: "
            f"expected {text.hidden} (hidden_size of the text), found {vision.out_hidden}"
        )
    return CheckpointConfig(architecture, text, vision, raw)


def _architecture(top: _Section) -> str:
    names = top.values.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in (MULTIMODAL, CAUSAL_LM):
        raise CheckpointError(
            f"config.json: architectures: expected [{MULTIMODAL!r}] or [{CAUSAL_LM!r}], "
            f"found {repr(names)[:80]}",
            hint="only the dense Qwen 3.5 models can be converted",
        )
    if "quantization_config" in top.values:
        raise CheckpointError(
            "config.json: quantization_config: the weights are already quantised",
            hint="convert the original BF16 checkpoint",
        )
    return str(names[0])


def _text(section: _Section, tied: bool) -> TextConfig:
    section.constant("hidden_act", "silu", "silu")
    section.constant("attn_output_gate", True, True)
    section.constant("attention_bias", False, False)
    section.constant("mtp_use_dedicated_embeddings", False, False)
    layers = section.integer("num_hidden_layers", 1, 1024)
    interval = section.integer("full_attention_interval", 1, 1024, 4)
    heads = section.integer("num_attention_heads", 1, 1024)
    kv_heads = section.integer("num_key_value_heads", 1, 1024)
    k_heads = section.integer("linear_num_key_heads", 1, 1024)
    v_heads = section.integer("linear_num_value_heads", 1, 1024)
    linear_dim = section.integer("linear_key_head_dim", 1, 4096)
    section.constant("linear_value_head_dim", linear_dim, None)
    head_dim = section.integer("head_dim", 2, 4096)
    for key, value, divisor in (
        ("num_attention_heads", heads, kv_heads),
        ("linear_num_value_heads", v_heads, k_heads),
    ):
        if value % divisor:
            raise section.wrong(key, f"a multiple of {divisor}", value)
    rope = _Section(section.values.get("rope_parameters"), f"{section.where}: rope_parameters")
    context = section.integer("max_position_embeddings", 1, 1 << 31)
    return TextConfig(
        hidden=section.integer("hidden_size", 32, 1 << 20),
        ffn=section.integer("intermediate_size", 32, 1 << 20),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=section.integer("vocab_size", 1, 1 << 22),
        context=context,
        rms_eps=section.number("rms_norm_eps", 0.0, 1.0, 1e-6),
        k_heads=k_heads,
        v_heads=v_heads,
        linear_dim=linear_dim,
        conv_kernel=section.integer("linear_conv_kernel_dim", 1, 16),
        interval=interval,
        recurrent=_recurrent(section, layers, interval),
        rope_theta=rope.number("rope_theta", 1.0, 1e12),
        rotary_dims=_rotary_dims(rope, head_dim),
        rope_sections=_sections(rope, head_dim),
        rope_scaling=_scaling(rope, context),
        tied=tied,
    )


def _recurrent(section: _Section, layers: int, interval: int) -> tuple[bool, ...]:
    rule = tuple((index + 1) % interval != 0 for index in range(layers))
    names = section.values.get("layer_types")
    if names is None:
        return rule
    expected = ["linear_attention" if recurrent else "full_attention" for recurrent in rule]
    if names != expected:
        raise section.wrong("layer_types", f"full attention in every {interval}th layer", names)
    return rule


def _rotary_dims(rope: _Section, head_dim: int) -> int:
    return int(head_dim * rope.number("partial_rotary_factor", 0.0, 1.0, 0.25))


def _sections(rope: _Section, head_dim: int) -> tuple[int, int, int]:
    sections = rope.values.get("mrope_section", [11, 11, 10])
    rope.constant("mrope_interleaved", True, True)
    valid = isinstance(sections, list) and len(sections) == 3
    if not valid or any(type(item) is not int or item < 0 for item in sections):
        raise rope.wrong("mrope_section", "three counts", sections)
    half = _rotary_dims(rope, head_dim) // 2
    if sum(sections) != half:
        raise rope.wrong("mrope_section", f"counts whose sum is {half}", sections)
    return (sections[0], sections[1], sections[2])


def _scaling(rope: _Section, context: int) -> RopeScaling | None:
    kind = rope.values.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "yarn":
        raise rope.wrong("rope_type", "'default' or 'yarn'", kind)
    return RopeScaling(
        factor=rope.number("factor", 1.0, 64.0),
        original_context=rope.integer(
            "original_max_position_embeddings", 1, 1 << 31, min(context, 262144)
        ),
        beta_fast=rope.number("beta_fast", 0.0, 1e6, 32.0),
        beta_slow=rope.number("beta_slow", 0.0, 1e6, 1.0),
    )


def _vision(section: _Section, folder: Path) -> VisionConfig:
    section.constant("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    if section.values.get("deepstack_visual_indexes"):
        found = section.values["deepstack_visual_indexes"]
        raise section.wrong("deepstack_visual_indexes", "an empty list", found)
    config = VisionConfig(
        depth=section.integer("depth", 1, 1024),
        hidden=section.integer("hidden_size", 8, 1 << 16),
        ffn=section.integer("intermediate_size", 8, 1 << 18),
        heads=section.integer("num_heads", 1, 1024),
        out_hidden=section.integer("out_hidden_size", 8, 1 << 20),
        patch=section.integer("patch_size", 1, 256, 16),
        temporal_patch=section.integer("temporal_patch_size", 2, 2, 2),
        merge=section.integer("spatial_merge_size", 1, 16, 2),
        channels=section.integer("in_channels", 3, 3, 3),
        positions=section.integer("num_position_embeddings", 1, 1 << 24),
        **_normalisation(folder),
    )
    if config.grid**2 != config.positions:
        raise section.wrong("num_position_embeddings", "a square number", config.positions)
    if config.hidden % config.heads:
        raise section.wrong("hidden_size", f"a multiple of {config.heads} heads", config.hidden)
    return config


def _normalisation(folder: Path) -> dict[str, tuple[float, ...]]:
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return {}
    section = _Section(read_json(path), path.name)
    result = {}
    for key in ("image_mean", "image_std"):
        values = section.values.get(key)
        if values is None:
            continue
        valid = isinstance(values, list) and len(values) == 3
        if not valid or any(not isinstance(item, int | float) for item in values):
            raise section.wrong(key, "three numbers", values)
        result[key] = tuple(float(item) for item in values)
    return result
