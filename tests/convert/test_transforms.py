"""Every tensor of a converted file against the checkpoint, transforms written a second time.

The files are read with the `gguf` package and the checkpoints with `safetensors`, so nothing of the
converter's own reading code takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from qwen35cpp.convert.tensor_map import decay_rate
from safetensors import safe_open

import checkpoints

Array = NDArray[np.float32]
HIDDEN, LAYERS, K_HEADS, DIM = 256, 4, 2, 128

# GGUF suffix: checkpoint suffix, and whether 1 is added.
BLOCK = {
    "attn_norm.weight": ("input_layernorm.weight", True),
    "post_attention_norm.weight": ("post_attention_layernorm.weight", True),
    "ffn_gate.weight": ("mlp.gate_proj.weight", False),
    "ffn_up.weight": ("mlp.up_proj.weight", False),
    "ffn_down.weight": ("mlp.down_proj.weight", False),
}
ATTENTION = {
    "attn_q.weight": ("self_attn.q_proj.weight", False),
    "attn_k.weight": ("self_attn.k_proj.weight", False),
    "attn_v.weight": ("self_attn.v_proj.weight", False),
    "attn_output.weight": ("self_attn.o_proj.weight", False),
    "attn_q_norm.weight": ("self_attn.q_norm.weight", True),
    "attn_k_norm.weight": ("self_attn.k_norm.weight", True),
}
MTP = {
    "nextn.eh_proj.weight": ("mtp.fc.weight", False),
    "nextn.enorm.weight": ("mtp.pre_fc_norm_embedding.weight", True),
    "nextn.hnorm.weight": ("mtp.pre_fc_norm_hidden.weight", True),
    "nextn.shared_head_norm.weight": ("mtp.norm.weight", True),
}


def source_tensors(folder: Path) -> dict[str, Array]:
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensors[name] = file.get_tensor(name).float().numpy()
    return tensors


def file_tensors(path: Path) -> dict[str, Array]:
    """Name to values, in torch order."""
    reader = gguf.GGUFReader(path)
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            [int(size) for size in reversed(tensor.shape)]
        )
        for tensor in reader.tensors
    }


def ungrouped(values: Array, r: int, width: int) -> Array:
    """Leading dimension in checkpoint order (key head major) to GGUF order (key head minor)."""
    shape = values.shape
    heads = values.reshape(K_HEADS, r, width, *shape[1:])
    return np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(shape)


def linear_layer(hf: dict[str, Array], prefix: str, r: int) -> dict[str, Array]:
    """Expected tensors of a linear-attention layer."""
    keys = 2 * K_HEADS * DIM
    qkv, conv = hf[prefix + "in_proj_qkv.weight"], hf[prefix + "conv1d.weight"][:, 0]

    def channels(values: Array) -> Array:
        return np.concatenate([values[:keys], ungrouped(values[keys:], r, DIM)])

    return {
        "attn_qkv.weight": channels(qkv),
        "ssm_conv1d.weight": channels(conv),
        "attn_gate.weight": ungrouped(hf[prefix + "in_proj_z.weight"], r, DIM),
        "ssm_beta.weight": ungrouped(hf[prefix + "in_proj_b.weight"], r, 1),
        "ssm_alpha.weight": ungrouped(hf[prefix + "in_proj_a.weight"], r, 1),
        "ssm_dt.bias": ungrouped(hf[prefix + "dt_bias"], r, 1),
        "ssm_a": -np.exp(ungrouped(hf[prefix + "A_log"], r, 1)),
        "ssm_norm.weight": hf[prefix + "norm.weight"],
        "ssm_out.weight": ungrouped(hf[prefix + "out_proj.weight"].T, r, DIM).T,
    }


def expected_tensors(hf: dict[str, Array], prefix: str, r: int, tied: bool) -> dict[str, Array]:
    def rows(table: dict[str, tuple[str, bool]], source: str, target: str) -> dict[str, Array]:
        return {target + g: hf[source + h] + np.float32(plus) for g, (h, plus) in table.items()}

    result = {
        "token_embd.weight": hf[prefix + "embed_tokens.weight"],
        "output_norm.weight": hf[prefix + "norm.weight"] + 1,
    }
    if not tied:
        result["output.weight"] = hf["lm_head.weight"]
    for layer in range(LAYERS):
        source, target = f"{prefix}layers.{layer}.", f"blk.{layer}."
        result |= rows(BLOCK, source, target)
        if layer % 4 == 3:
            result |= rows(ATTENTION, source, target)
        else:
            linear = linear_layer(hf, source + "linear_attn.", r)
            result |= {target + name: values for name, values in linear.items()}
    if "mtp.fc.weight" in hf:
        result |= rows(BLOCK | ATTENTION, "mtp.layers.0.", f"blk.{LAYERS}.")
        result |= rows(MTP, "", f"blk.{LAYERS}.")
    return result


@pytest.mark.parametrize(
    ("r", "tied", "causal_lm", "dtype", "shards"),
    [
        (1, True, False, "float32", 1),
        (2, True, False, "bfloat16", 3),
        (3, False, True, "float32", 1),
        (2, False, True, "bfloat16", 2),
    ],
)
def test_every_tensor(
    converted: Callable[..., Path], r: int, tied: bool, causal_lm: bool, dtype: str, shards: int
) -> None:
    options = {
        "r": r,
        "tied": tied,
        "causal_lm": causal_lm,
        "dtype": dtype,
        "shards": shards,
        "vision": not causal_lm,
    }
    hf = source_tensors(checkpoints.build(**options))
    prefix = "model." if causal_lm else "model.language_model."
    expected = expected_tensors(hf, prefix, r, tied)
    found = file_tensors(converted("f32", **options))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if name.endswith("ssm_a"):  # exp in two libraries
            np.testing.assert_allclose(found[name], values, rtol=3e-7)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_head_order_matters() -> None:
    """The expectation above can tell the two orders apart."""
    values = np.arange(6 * DIM, dtype=np.float32)[:, None]
    assert not np.array_equal(ungrouped(values, 3, DIM), values)
    assert np.array_equal(ungrouped(values[: 2 * DIM], 1, DIM), values[: 2 * DIM])
    # Two key heads with three value heads each: GGUF head 1 is the first value head of key head 1.
    assert ungrouped(values, 3, DIM)[DIM, 0] == 3 * DIM


def test_decay_rate_is_correctly_rounded() -> None:
    logs = np.linspace(-8, 4, 1001, dtype=np.float32)
    exact = [-float(np.exp(np.longdouble(value))) for value in logs]
    np.testing.assert_array_equal(decay_rate(logs), np.array(exact, np.float32))


def test_vision_tower(converted: Callable[..., Path]) -> None:
    source = checkpoints.build()
    hf = source_tensors(source)
    text = converted("f32")
    found = file_tensors(text.with_name(f"mmproj-{text.name}"))
    prefix = "model.visual."
    kernel = hf[prefix + "patch_embed.proj.weight"]
    expected = {
        "v.patch_embd.weight": kernel[:, :, 0],
        "v.patch_embd.weight.1": kernel[:, :, 1],
        "v.patch_embd.bias": hf[prefix + "patch_embed.proj.bias"],
        "v.position_embd.weight": hf[prefix + "pos_embed.weight"],
    }
    pairs = {"v.post_ln": "merger.norm", "mm.0": "merger.linear_fc1", "mm.2": "merger.linear_fc2"}
    names = {
        "ln1": "norm1",
        "ln2": "norm2",
        "attn_qkv": "attn.qkv",
        "attn_out": "attn.proj",
        "ffn_up": "mlp.linear_fc1",
        "ffn_down": "mlp.linear_fc2",
    }
    pairs |= {f"v.blk.{n}.{g}": f"blocks.{n}.{h}" for n in range(2) for g, h in names.items()}
    for target, origin in pairs.items():
        for part in ("weight", "bias"):
            expected[f"{target}.{part}"] = hf[f"{prefix}{origin}.{part}"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_sharding_changes_nothing(converted: Callable[..., Path]) -> None:
    one, three = converted("bf16", dtype="bfloat16"), converted("bf16", dtype="bfloat16", shards=3)
    found, expected = file_tensors(three), file_tensors(one)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("type_name", ["bf16", "f16"])
def test_half_types_round_to_nearest_even(converted: Callable[..., Path], type_name: str) -> None:
    import torch

    dtype = torch.bfloat16 if type_name == "bf16" else torch.float16
    exact, rounded = file_tensors(converted("f32")), file_tensors(converted(type_name))
    for name in ("token_embd.weight", "blk.0.attn_qkv.weight", "blk.3.attn_q.weight"):
        expected = torch.from_numpy(exact[name].copy()).to(dtype).float().numpy()
        np.testing.assert_array_equal(rounded[name], expected, err_msg=name)


# Largest error of a value relative to the largest value of its row block, from the step sizes:
# 8 bits 1/254, 6 bits 1/63 over a signed range, 5 and 4 bits over groups with 6-bit scales.
TOLERANCE = {
    "q8_0": 0.005,
    "q6_k": 0.04,
    "q5_k_m": 0.08,
    "q4_k_m": 0.16,
    "q4_0": 0.16,
    "iq4_xs": 0.2,
}


@pytest.mark.parametrize("type_name", list(TOLERANCE))
def test_quantised_values_are_close(converted: Callable[..., Path], type_name: str) -> None:
    exact = file_tensors(converted("f32", r=2, tied=False))
    quantised = file_tensors(converted(type_name, r=2, tied=False))
    assert quantised.keys() == exact.keys()
    for name, values in exact.items():
        difference = np.abs(quantised[name] - values).max()
        assert difference <= TOLERANCE[type_name] * np.abs(values).max(), name
