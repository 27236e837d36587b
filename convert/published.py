"""Shapes of the published sizes, for estimates and files without a checkpoint."""

from __future__ import annotations

from pathlib import Path

from . import metadata as md
from .config import TextConfig, VisionConfig
from .ggml_types import FileType
from .model_metadata import ARCHITECTURE, general_metadata, text_metadata
from .recipes import choose_type
from .tensor_map import plan_text
from .tokenizer import CONTROL, NORMAL, UNUSED, Tokenizer
from .writer import GgufWriter, TensorSpec

VOCAB = 248_320
# size: hidden, ffn, layers, heads, kv_heads, v_heads, tied
SIZES = {
    "0.8b": (1024, 3584, 24, 8, 2, 16, True),
    "2b": (2048, 6144, 24, 8, 2, 16, True),
    "4b": (2560, 9216, 32, 16, 4, 32, True),
    "9b": (4096, 12288, 32, 16, 4, 32, False),
}

# size: layers, hidden, ffn, heads of the vision tower
TOWERS = {
    "0.8b": (12, 768, 3072, 12),
    "2b": (24, 1024, 4096, 16),
    "4b": (24, 1024, 4096, 16),
    "9b": (27, 1152, 4304, 16),
}


def config_of(size: str) -> TextConfig:
    """The text configuration of a published size."""
    hidden, ffn, layers, heads, kv_heads, v_heads, tied = SIZES[size]
    return TextConfig(
        hidden=hidden,
        ffn=ffn,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=256,
        vocab=VOCAB,
        context=262_144,
        rms_eps=1e-6,
        k_heads=16,
        v_heads=v_heads,
        linear_dim=128,
        conv_kernel=4,
        interval=4,
        recurrent=tuple((index + 1) % 4 != 0 for index in range(layers)),
        rope_theta=1e7,
        rotary_dims=64,
        rope_sections=(11, 11, 10),
        rope_scaling=None,
        tied=tied,
    )


def tower_of(size: str) -> VisionConfig:
    """The configuration of the vision tower of a published size."""
    depth, hidden, ffn, heads = TOWERS[size]
    return VisionConfig(
        depth=depth,
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        out_hidden=SIZES[size][0],
        patch=16,
        temporal_patch=2,
        merge=2,
        channels=3,
        positions=48 * 48,
    )


def placeholder_tokenizer() -> Tokenizer:
    """A vocabulary of the right size without any merges, where the real one is not at hand."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]  # printable bytes stay themselves
    rest = [byte for byte in range(256) if byte not in keep]
    letters = {byte: chr(byte) for byte in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}
    tokens = [letters[byte] for byte in sorted(letters)]
    tokens += [f"token{index}" for index in range(256, 248_044)]
    tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), VOCAB)]
    types = [NORMAL] * 248_044 + [CONTROL] * 3 + [UNUSED] * (VOCAB - 248_047)
    return Tokenizer(tokens, types, [], 248_046, 248_044, 248_044, None)


def tensors(size: str, file_type: FileType) -> list[TensorSpec]:
    """The tensors that `convert` makes of a published size, without a prediction block."""
    config = config_of(size)
    return [
        TensorSpec(
            item.name,
            item.ne,
            choose_type(
                file_type, item.role, item.layer, config.layers, item.ne[0], tied=config.tied
            ),
        )
        for item in plan_text(config, "", mtp=False)
    ]


def write_header(path: Path, size: str, words: md.Metadata) -> None:
    """Writes a file that says what a published size is, with `words` for its vocabulary.

    It has no tensors: the engine opens it with `vocab_only` and calculates its memory.
    """
    values = general_metadata(ARCHITECTURE, "model", size, FileType.F16, 0)
    values |= text_metadata(config_of(size), mtp=False) | words
    with GgufWriter(path, values, []):
        pass
