"""File types: which tensor gets which type, and why.

Always F32: norms, biases and per-head scalars (a few kilobytes); the convolution (4 taps per
channel are no block); `ssm_alpha` and `ssm_beta`. The last two set how fast the recurrent state
forgets and how strongly it is overwritten: their error enters an exponential and is carried on
through every later token. They hold 0.1 % of the weights.

bench/sensitivity.py measures how errors travel: each role alone in Q4_K, KL divergence from F32 per
million weights, random models of the real head shapes: embedding and head 2.6; alpha and beta 2.3;
linear-attention gate 0.33, output 0.28, qkv 0.15; feed-forward 0.06 each. A bit spent on the
recurrent path buys several times what it buys in the feed-forward matrices. With the three steps
below, Q4_K_M files of these models lose a third less than with the plain mix (KL 1.5 against 2.2),
for 2 to 3.4 % more bytes in the published sizes:

- `high` for what every token passes through or what is tiny: the output head (also when it is the
  tied embedding), attention keys and values (a quarter of the layers hold all exact recall of the
  model, and with few KV heads they are 1 % of the weights), MTP's input projection, and `ffn_down`
  in the first and last eighth of the layers and every third one between, the choice that llama.cpp
  made and published: in trained models outliers of the SwiGLU product fall on its inputs.
- `raised` for the recurrent path, `attn_qkv`, `attn_gate` and `ssm_out`, and for `attn_output`, the
  end of the only other path between tokens.
- `base` for the rest: queries and the feed-forward matrices, whose errors are local to one token.

The MTP block takes `base` for its `ffn_down`: a draft is verified, so its error costs a little
speed and never text.
"""

from __future__ import annotations

from dataclasses import dataclass

from .ggml_types import BLOCKS, FileType, TensorType
from .tensor_map import Role


@dataclass(frozen=True)
class Recipe:
    """Types of one file type; `vision` is for the tower's matrices, unless another is asked for."""

    base: TensorType
    raised: TensorType
    high: TensorType
    vision: TensorType


def _uniform(kind: TensorType, vision: TensorType) -> Recipe:
    return Recipe(kind, kind, kind, vision)


_T = TensorType
# The vision tower runs once per image and its errors shift every later token: it keeps 16 bits in
# quantised files unless Q8_0 is asked for, half the size. F16 holds BF16 weights of usual size
# exactly and is the published form.
VISION_TYPES = (_T.F32, _T.F16, _T.BF16, _T.Q8_0)
RECIPES: dict[FileType, Recipe] = {
    FileType.F32: _uniform(_T.F32, _T.F32),
    FileType.BF16: _uniform(_T.BF16, _T.BF16),
    FileType.F16: _uniform(_T.F16, _T.F16),
    FileType.Q8_0: _uniform(_T.Q8_0, _T.F16),
    FileType.Q6_K: _uniform(_T.Q6_K, _T.F16),
    FileType.Q5_K_M: Recipe(_T.Q5_K, _T.Q6_K, _T.Q6_K, _T.F16),
    FileType.Q4_K_M: Recipe(_T.Q4_K, _T.Q5_K, _T.Q6_K, _T.F16),
    # Q4_0 is chosen for speed on small CPUs: one kernel for everything but the head.
    FileType.Q4_0: Recipe(_T.Q4_0, _T.Q4_0, _T.Q6_K, _T.F16),
    FileType.IQ4_XS: Recipe(_T.IQ4_XS, _T.Q5_K, _T.Q6_K, _T.F16),
}

_ALWAYS_F32 = {Role.VECTOR, Role.CONV, Role.DECAY_GATE}
_RAISED = {Role.LINEAR_QKV, Role.LINEAR_GATE, Role.LINEAR_OUT, Role.ATTN_OUTPUT}
_HIGH = {Role.OUTPUT, Role.ATTN_K, Role.ATTN_V, Role.MTP_PROJECTION}


def more_bits(layer: int, layers: int) -> bool:
    """First and last eighth of the layers, and every third one between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def parse_vision_type(name: str) -> TensorType:
    """`q8_0` or another type that the tower's matrices can have; ValueError names the choices."""
    for kind in VISION_TYPES:
        if kind.name == name.upper():
            return kind
    choices = ", ".join(kind.name.lower() for kind in VISION_TYPES)
    raise ValueError(f"unknown type of a vision tower {name!r}: choose one of {choices}")


def choose_type(
    file_type: FileType, role: Role, layer: int | None, layers: int, cols: int, *, tied: bool
) -> TensorType:
    """Type of a tensor of the text model with rows of `cols` values; `layers` counts the trunk."""
    recipe = RECIPES[file_type]
    if role in _ALWAYS_F32:
        return TensorType.F32
    if role is Role.EMBEDDING:
        wanted = recipe.high if tied else recipe.base
    elif role is Role.FFN_DOWN and layer is not None and layer < layers:
        wanted = recipe.high if more_bits(layer, layers) else recipe.base
    elif role in _HIGH:
        wanted = recipe.high
    else:
        wanted = recipe.raised if role in _RAISED else recipe.base
    return fit_type(wanted, cols)


def choose_vision_type(wanted: TensorType, role: Role, cols: int) -> TensorType:
    """Type of a tensor of the vision tower whose matrices are to be `wanted`.

    Rows that do not fill blocks, such as the 4304 values of the 9B tower's `ffn_down`, are F16.
    """
    if role is Role.VISION_MATRIX:
        return fit_type(wanted, cols)
    # llama.cpp convolves with F16 or F32 kernels only.
    is_half = role is Role.VISION_PATCH and wanted is TensorType.F16
    return TensorType.F16 if is_half else TensorType.F32


def fit_type(wanted: TensorType, cols: int) -> TensorType:
    """`wanted`, or the nearest type of at least its quality whose blocks fill a row."""
    for candidate in (wanted, TensorType.Q8_0, TensorType.F16):
        if cols % BLOCKS[candidate][0] == 0:
            return candidate
    raise AssertionError("F16 has blocks of one value")
