"""The tensor table: every tensor of a checkpoint, its name in GGUF and how its values change.

Each row of the tables names the Hugging Face suffix, the GGUF suffix, the role (recipes.py turns
roles into types) and the shape. What the formats differ in:

- Norm weights are stored as w and used as 1 + w in the checkpoint; GGUF stores 1 + w. The gated
  norm of linear attention is used as it is.
- `A_log` becomes -exp(A_log), the factor that multiplies softplus.
- Value heads of linear attention: head `g * r + j` reads key head g in the checkpoint, while GGUF
  numbers them `j * k_heads + g`, so that value head n reads key head n % k_heads. The order of rows
  (or of input columns, for the output projection) follows; nothing moves when r = 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from .config import TextConfig

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class Role(Enum):
    """What a tensor does; decides its type together with the recipe of the file."""

    VECTOR = auto()  # norms, biases, per-head scalars
    CONV = auto()
    DECAY_GATE = auto()  # ssm_alpha, ssm_beta
    EMBEDDING = auto()
    OUTPUT = auto()
    ATTN_Q = auto()
    ATTN_K = auto()
    ATTN_V = auto()
    ATTN_OUTPUT = auto()
    LINEAR_QKV = auto()
    LINEAR_GATE = auto()
    LINEAR_OUT = auto()
    FFN_GATE = auto()
    FFN_UP = auto()
    FFN_DOWN = auto()
    MTP_PROJECTION = auto()
    VISION_MATRIX = auto()
    VISION_PATCH = auto()


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output and where its values come from.

    The source is read as a matrix `source_rows` x `source_cols`. Output row i is source row
    `rows[i]` (i when None), output column j is source column `cols[j]`; `value` is applied last.
    """

    name: str
    ne: tuple[int, ...]
    role: Role
    layer: int | None  # block number; None outside blocks
    source: str
    source_shape: tuple[int, ...]
    rows: Indices | None = None
    cols: Indices | None = None
    value: Callable[[Floats], Floats] | None = None

    @property
    def source_cols(self) -> int:
        """Row length of the source seen as a matrix: all of a vector, else all but dimension 0."""
        if len(self.source_shape) == 1:
            return self.source_shape[0]
        return int(np.prod(self.source_shape[1:]))


def plus_one(values: Floats) -> Floats:
    """From w to 1 + w, in float32 as the reference adds it."""
    shifted: Floats = values + np.float32(1)
    return shifted


def decay_rate(values: Floats) -> Floats:
    """A_log to -exp(A_log), correctly rounded."""
    return (-np.exp(values.astype(np.float64))).astype(np.float32)


def v_head_order(config: TextConfig) -> Indices | None:
    """Checkpoint index of each GGUF value head; None when the orders agree."""
    ratio = config.v_heads // config.k_heads
    if ratio == 1:
        return None
    heads = np.arange(config.v_heads)
    return (heads % config.k_heads) * ratio + heads // config.k_heads


def _expand(order: Indices | None, width: int, start: int = 0) -> Indices | None:
    """Head order to channel order: blocks of `width`, after `start` channels that stay."""
    if order is None:
        return None
    channels = (order[:, None] * width + np.arange(width)).reshape(-1) + start
    return np.concatenate([np.arange(start), channels])


# Suffix in the checkpoint, suffix in GGUF, role, torch shape in fields of TextConfig.
_Row = tuple[str, str, Role, str]

TOP: list[_Row] = [
    ("embed_tokens.weight", "token_embd.weight", Role.EMBEDDING, "vocab hidden"),
    ("norm.weight", "output_norm.weight", Role.VECTOR, "hidden"),
]
HEAD: list[_Row] = [("lm_head.weight", "output.weight", Role.OUTPUT, "vocab hidden")]
BLOCK: list[_Row] = [
    ("input_layernorm.weight", "attn_norm.weight", Role.VECTOR, "hidden"),
    ("post_attention_layernorm.weight", "post_attention_norm.weight", Role.VECTOR, "hidden"),
    ("mlp.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "ffn hidden"),
    ("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "ffn hidden"),
    ("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden ffn"),
]
ATTENTION: list[_Row] = [  # q_proj gives query and gate, interleaved per head, in both formats
    ("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "query_gate hidden"),
    ("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_dim hidden"),
    ("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_dim hidden"),
    ("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden q_dim"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight", Role.VECTOR, "head_dim"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight", Role.VECTOR, "head_dim"),
]
LINEAR: list[_Row] = [
    ("linear_attn.in_proj_qkv.weight", "attn_qkv.weight", Role.LINEAR_QKV, "conv_channels hidden"),
    ("linear_attn.in_proj_z.weight", "attn_gate.weight", Role.LINEAR_GATE, "v_dim hidden"),
    ("linear_attn.in_proj_b.weight", "ssm_beta.weight", Role.DECAY_GATE, "v_heads hidden"),
    ("linear_attn.in_proj_a.weight", "ssm_alpha.weight", Role.DECAY_GATE, "v_heads hidden"),
    ("linear_attn.conv1d.weight", "ssm_conv1d.weight", Role.CONV, "conv_channels 1 conv_kernel"),
    ("linear_attn.dt_bias", "ssm_dt.bias", Role.VECTOR, "v_heads"),
    ("linear_attn.A_log", "ssm_a", Role.VECTOR, "v_heads"),
    ("linear_attn.norm.weight", "ssm_norm.weight", Role.VECTOR, "linear_dim"),
    ("linear_attn.out_proj.weight", "ssm_out.weight", Role.LINEAR_OUT, "hidden v_dim"),
]
MTP: list[_Row] = [  # the embedding half of fc comes first in both formats
    ("fc.weight", "nextn.eh_proj.weight", Role.MTP_PROJECTION, "hidden hidden_pair"),
    ("pre_fc_norm_embedding.weight", "nextn.enorm.weight", Role.VECTOR, "hidden"),
    ("pre_fc_norm_hidden.weight", "nextn.hnorm.weight", Role.VECTOR, "hidden"),
    ("norm.weight", "nextn.shared_head_norm.weight", Role.VECTOR, "hidden"),
]


def role_of(name: str) -> tuple[Role | None, int | None]:
    """Role and block number of a GGUF tensor name; (None, None) for names not in the tables."""
    match = re.fullmatch(r"(?:blk\.(\d{1,4})\.)?(.+)", name, re.DOTALL)
    if match is None:
        return None, None
    block = match[1]
    tables = TOP + HEAD if block is None else BLOCK + ATTENTION + LINEAR + MTP
    roles = {target: role for _, target, role, _ in tables}
    role = roles.get(match[2])
    return role, None if role is None or block is None else int(block)


def _shape(fields: str, config: TextConfig) -> tuple[int, ...]:
    return tuple(1 if name == "1" else int(getattr(config, name)) for name in fields.split())


def _ordering(suffix: str, config: TextConfig) -> tuple[Indices | None, Indices | None]:
    """Row and column order that the renumbering of value heads asks of a tensor."""
    order, width = v_head_order(config), config.linear_dim
    match suffix:
        case "linear_attn.in_proj_qkv.weight" | "linear_attn.conv1d.weight":
            return _expand(order, width, start=2 * config.k_dim), None
        case "linear_attn.in_proj_z.weight":
            return _expand(order, width), None
        case "linear_attn.in_proj_b.weight" | "linear_attn.in_proj_a.weight":
            return order, None
        case "linear_attn.A_log" | "linear_attn.dt_bias":
            return None, order
        case "linear_attn.out_proj.weight":
            return None, _expand(order, width)
    return None, None


def _value(suffix: str) -> Callable[[Floats], Floats] | None:
    if suffix == "linear_attn.A_log":
        return decay_rate
    if suffix == "linear_attn.norm.weight":
        return None
    is_norm = suffix.endswith("norm.weight") or suffix.startswith("pre_fc_norm")
    return plus_one if is_norm else None


def _ne(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GGUF dimensions of a torch shape: reversed, without the convolution's inner 1."""
    return tuple(size for size in reversed(shape) if size != 1 or len(shape) < 3)


def _plan(
    rows: list[_Row], prefix: str, block: int | None, config: TextConfig
) -> Iterator[PlannedTensor]:
    target = "" if block is None else f"blk.{block}."
    for suffix, name, role, fields in rows:
        shape = _shape(fields, config)
        row_order, col_order = _ordering(suffix, config)
        yield PlannedTensor(
            name=target + name,
            ne=_ne(shape),
            role=role,
            layer=block,
            source=prefix + suffix,
            source_shape=shape,
            rows=row_order,
            cols=col_order,
            value=_value(suffix),
        )


def plan_text(config: TextConfig, prefix: str, *, mtp: bool) -> list[PlannedTensor]:
    """All tensors of the text model in file order.

    prefix: of the trunk's names, e.g. `model.language_model.`. mtp: append the multi-token
    prediction block as block number `config.layers`.
    """
    plan = list(_plan(TOP, prefix, None, config))
    if not config.tied:
        plan += _plan(HEAD, "", None, config)
    for index, recurrent in enumerate(config.recurrent):
        rows = BLOCK + (LINEAR if recurrent else ATTENTION)
        plan += _plan(rows, f"{prefix}layers.{index}.", index, config)
    if mtp:
        plan += _plan(BLOCK + ATTENTION, "mtp.layers.0.", config.layers, config)
        plan += _plan(MTP, "mtp.", config.layers, config)
    return plan
