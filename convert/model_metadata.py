"""The architecture keys of the files: text model (`qwen35.*`) and vision tower (`clip.*`)."""

from __future__ import annotations

from . import metadata as md
from .config import TextConfig, VisionConfig
from .ggml_types import FileType

ARCHITECTURE = "qwen35"
PROJECTOR = "qwen3vl_merger"
_QUANTIZATION_VERSION = 2  # of the block layouts, as llama.cpp counts them


def general_metadata(
    architecture: str, kind: str, name: str, file_type: FileType, parameters: int
) -> md.Metadata:
    """Keys of every file. kind: `model` or `mmproj`; parameters: elements of all tensors."""
    return {
        "general.architecture": md.string(architecture),
        "general.type": md.string(kind),
        "general.name": md.string(name),
        "general.size_label": md.string(size_label(parameters)),
        "general.file_type": md.u32(file_type),
        "general.quantization_version": md.u32(_QUANTIZATION_VERSION),
    }


def size_label(parameters: int) -> str:
    """752,393,024 to `752M`, 4,205,751,296 to `4.2B`."""
    if parameters >= 10**9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M" if parameters >= 10**6 else f"{parameters / 1e3:.0f}K"


def text_metadata(config: TextConfig, *, mtp: bool) -> md.Metadata:
    """The `qwen35.*` keys; with mtp the block count includes the prediction block."""
    blocks = config.layers + int(mtp)
    values: md.Metadata = {
        "block_count": md.u32(blocks),
        "context_length": md.u32(config.context),
        "embedding_length": md.u32(config.hidden),
        "feed_forward_length": md.u32(config.ffn),
        "attention.head_count": md.u32(config.heads),
        "attention.head_count_kv": md.u32(config.kv_heads),
        "attention.key_length": md.u32(config.head_dim),
        "attention.value_length": md.u32(config.head_dim),
        "attention.layer_norm_rms_epsilon": md.f32(config.rms_eps),
        "attention.recurrent_layers": md.booleans([*config.recurrent, *[False] * int(mtp)]),
        "full_attention_interval": md.u32(config.interval),
        "rope.freq_base": md.f32(config.rope_theta),
        "rope.dimension_count": md.u32(config.rotary_dims),
        "rope.dimension_sections": md.i32s([*config.rope_sections, 0]),
        "ssm.conv_kernel": md.u32(config.conv_kernel),
        "ssm.state_size": md.u32(config.linear_dim),
        "ssm.group_count": md.u32(config.k_heads),
        "ssm.time_step_rank": md.u32(config.v_heads),
        "ssm.inner_size": md.u32(config.v_dim),
    }
    if mtp:
        values["nextn_predict_layers"] = md.u32(1)
    if config.rope_scaling is not None:
        values |= _yarn_metadata(config)
    return {f"{ARCHITECTURE}.{key}": value for key, value in values.items()}


def _yarn_metadata(config: TextConfig) -> md.Metadata:
    scaling = config.rope_scaling
    assert scaling is not None
    return {
        "rope.scaling.type": md.string("yarn"),
        "rope.scaling.factor": md.f32(scaling.factor),
        "rope.scaling.original_context_length": md.u32(scaling.original_context),
        "rope.scaling.yarn_beta_fast": md.f32(scaling.beta_fast),
        "rope.scaling.yarn_beta_slow": md.f32(scaling.beta_slow),
    }


def vision_metadata(config: VisionConfig, text: TextConfig) -> md.Metadata:
    """The `clip.*` keys of the vision tower."""
    vision = {
        "image_size": md.u32(config.grid * config.patch),
        "patch_size": md.u32(config.patch),
        "embedding_length": md.u32(config.hidden),
        "feed_forward_length": md.u32(config.ffn),
        "block_count": md.u32(config.depth),
        "attention.head_count": md.u32(config.heads),
        "attention.layer_norm_epsilon": md.f32(text.rms_eps),
        "projection_dim": md.u32(text.hidden),
        "image_mean": md.f32s(config.image_mean),
        "image_std": md.f32s(config.image_std),
        "spatial_merge_size": md.u32(config.merge),
        "is_deepstack_layers": md.booleans([False] * config.depth),
    }
    return {
        "clip.has_vision_encoder": md.boolean(True),
        "clip.projector_type": md.string(PROJECTOR),
        "clip.use_gelu": md.boolean(True),
    } | {f"clip.vision.{key}": value for key, value in vision.items()}
