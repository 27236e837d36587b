"""The small model: its shape, its MTP module, and a fast forward pass for training on packed rows.

Weights live in `transformers`' own modules, so a checkpoint is an ordinary Hugging Face folder.
What is written again here is the forward pass of training, because the reference one
 - cannot pack several documents into a row: here every document starts with an empty state;
 - walks the delta rule row by row inside a chunk: here one triangular solve does it, with a
   hand-written gradient, and the value heads of a key head share their products;
 - is not fused: here each kind of layer is one compiled function.
tests/tiny/test_training.py holds the two against each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm

from tiny import vocabulary

CHUNK = 64  # tokens of a chunk of the delta rule
SCANNED = 64  # chunks of a row from which a GPU scans them; a scan moves log2 N times the states
K_HEADS, HEAD = 1, 128  # key heads of linear attention, and their width
ROTARY = 64
LOOKING_BACK = (0, 1, 4, 6)  # layers, see look_back
_FORGET = -30.0  # log decay at the start of a document: nothing before it is left


def config() -> Qwen3_5Config:
    """Real head shapes and layer pattern; width, depth and vocabulary reduced."""
    rope = {
        "rope_type": "default",
        "rope_theta": 10_000_000,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    }
    special = vocabulary.SPECIAL_IDS
    text = {
        "vocab_size": vocabulary.SIZE,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": K_HEADS,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": HEAD,
        "linear_value_head_dim": HEAD,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4,
        "max_position_embeddings": 262_144,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "attn_output_gate": True,
        "eos_token_id": special["<|endoftext|>"],
        "bos_token_id": None,
        "pad_token_id": None,
    }
    vision = {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_heads": 3,
        "out_hidden_size": 256,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [],
    }
    return Qwen3_5Config(
        text_config=text,
        vision_config=vision,
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )


class Mtp(nn.Module):
    """The multi-token-prediction layer (the convention of Qwen 3.5: embedding half first, trunk
    state after the final norm, its own output fed back when drafts are chained).
    """

    def __init__(self, text: Any) -> None:
        super().__init__()
        one = type(text)(**{**text.to_dict(), "num_hidden_layers": 1, "layer_types": None})
        one.layer_types = ["full_attention"]
        one._attn_implementation = "sdpa"
        hidden, eps = text.hidden_size, text.rms_norm_eps
        self.fc = nn.Linear(2 * hidden, hidden, bias=False)
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(one, 0)])
        self.pre_fc_norm_embedding = Qwen3_5RMSNorm(hidden, eps)
        self.pre_fc_norm_hidden = Qwen3_5RMSNorm(hidden, eps)
        self.norm = Qwen3_5RMSNorm(hidden, eps)


class TinyModel(nn.Module):
    """`transformers`' model and the MTP layer that it does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.hf = Qwen3_5ForConditionalGeneration(config())
        self.mtp = Mtp(self.hf.config.text_config)
        _initialise(self)

    @property
    def text(self) -> Any:
        """The trunk: embeddings, layers, final norm."""
        return self.hf.model.language_model

    @property
    def visual(self) -> Any:
        """The vision tower."""
        return self.hf.model.visual


@torch.no_grad()
def _initialise(model: TinyModel) -> None:
    """Uniform over fan-in; outputs that are added to the residual start at a small scale."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if "embed_tokens" in name or "pos_embed" in name or "lm_head" in name:
            parameter.normal_(std=0.02)
        elif "conv1d" in name:
            parameter.uniform_(-0.5, 0.5)
        else:
            scale = (
                0.2
                if name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight"))
                else 1
            )
            parameter.normal_(std=scale * (parameter.numel() // parameter.shape[0]) ** -0.5)
    for index, layer in enumerate(model.text.layers):
        if hasattr(layer, "linear_attn"):
            layer.linear_attn.A_log.copy_(torch.tensor([0.001, 0.03]).log())
            if index in LOOKING_BACK:
                look_back(layer.linear_attn)


@torch.no_grad()
def look_back(m: Any) -> None:
    """Lets a linear layer begin as what in-context recall needs: the key of a token is the one
    before it, and queries are made as keys are, so a token finds what followed it last time.
    """
    width = m.key_dim
    weight, taps = m.in_proj_qkv.weight, m.conv1d.weight
    weight[width : 2 * width] = weight[:width]
    taps.zero_()
    taps[:, 0, 3] = 1
    taps[width : 2 * width, 0, 3] = 0
    taps[width : 2 * width, 0, 2] = 1


@torch.no_grad()
def join_forms(table: Tensor, forms: list[list[int]], share: float = 0.8) -> None:
    """Moves the embeddings of a word's forms towards each other and keeps their lengths.

    Answers repeat words of the context in another form (` Lima` as `Lima`). With unrelated
    embeddings, copying has to be learnt for every word by itself.
    """
    for ids in forms:
        rows = table[ids]
        moved = rows.lerp(rows.mean(0).expand_as(rows), share)
        table[ids] = moved * (rows.norm(dim=1) / moved.norm(dim=1))[:, None]


# ---- checkpoints ---------------------------------------------------------------------------------

# Limits in pixels: of an image, and of all frames of a video; as published with the family.
PROCESSORS = {
    "preprocessor_config.json": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
    "video_preprocessor_config.json": {"shortest_edge": 4_096, "longest_edge": 25_165_824},
}
_KINDS = {
    "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessorFast"},
    "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor"},
}
_PROCESSING = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
}


def save(model: TinyModel, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes config.json and model.safetensors in the layout of the published checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.to(torch.float32 if _keeps_f32(name) else dtype).contiguous()
        for name, tensor in model.hf.state_dict().items()
        if name != "lm_head.weight"
    }
    for name, tensor in model.mtp.state_dict().items():
        tensors[f"mtp.{name}"] = tensor.to(dtype).contiguous()
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    partial = folder / "model.safetensors.part"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
    for name, edges in PROCESSORS.items():
        settings = {**_PROCESSING, "size": edges, **_KINDS[name]}
        (folder / name).write_text(json.dumps(settings, indent=2) + "\n")
    content = model.hf.config.to_dict()
    content["architectures"] = ["Qwen3_5ForConditionalGeneration"]
    content["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _keeps_f32(name: str) -> bool:
    return name.endswith(("A_log", "linear_attn.norm.weight"))


def load(folder: Path) -> TinyModel:
    """Reads a folder written by `save`; values are widened to float32."""
    model = TinyModel()
    tensors = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    mtp = {n.removeprefix("mtp."): t for n, t in tensors.items() if n.startswith("mtp.")}
    trunk = {n: t for n, t in tensors.items() if not n.startswith("mtp.")}
    trunk["lm_head.weight"] = trunk["model.language_model.embed_tokens.weight"]
    model.hf.load_state_dict(trunk)
    model.mtp.load_state_dict(mtp)
    return model


# ---- the forward pass of training ----------------------------------------------------------------


def _rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight)


class _UnitLowerInverse(torch.autograd.Function):
    """(I + A)^-1 of strictly lower triangular A [..., C, C]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
        inverse = torch.linalg.solve_triangular(a, eye, upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        transposed = inverse.transpose(-1, -2)
        return -(transposed @ grad @ transposed).tril(-1)


def delta_chunks(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    """What chunks of tokens have in them before they meet a state, as [Hk, R, N, C, D] for N
    chunks: new values and keys of the erasing, queries and keys as they meet the state, products
    inside a chunk [.., C, C], decay of a whole chunk [.., N].

    q, k: [T, Hk, D] normalised (q scaled); v: [T, Hk, R, D] with R value heads of each key head; g
    (log decay) and beta: [T, Hk, R]; T is a multiple of CHUNK.
    """
    length, heads, dim = q.shape
    ratio, n = v.shape[2], length // CHUNK
    q = q.view(n, CHUNK, heads, dim).permute(2, 0, 1, 3)  # [Hk, N, C, D]
    k = k.view(n, CHUNK, heads, dim).permute(2, 0, 1, 3)
    v = v.view(n, CHUNK, heads, ratio, dim).permute(2, 3, 0, 1, 4)  # [Hk, R, N, C, D]
    g = g.view(n, CHUNK, heads, ratio).permute(2, 3, 0, 1)
    beta = beta.view(n, CHUNK, heads, ratio).permute(2, 3, 0, 1)

    decay = g.cumsum(-1)  # [Hk, R, N, C]
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    between = (decay[..., :, None] - decay[..., None, :]).masked_fill(~lower, -1e4).exp()
    kk = (k @ k.transpose(-1, -2))[:, None]
    qk = (q @ k.transpose(-1, -2))[:, None]
    inverse = _UnitLowerInverse.apply((beta[..., None] * between * kk).tril(-1))
    weighted = inverse * beta[..., None, :]
    start = decay.exp()
    return (
        weighted @ v,
        (weighted * start[..., None, :]) @ k[:, None],
        q[:, None] * start[..., None],
        k[:, None] * (decay[..., -1:] - decay).exp()[..., None],
        qk * between,
        start[..., -1],
    )


def delta_rule(*chunks: Tensor) -> Tensor:
    """The gated delta rule over rows from an empty state, chunk after chunk.

    chunks: what `delta_chunks` makes, with the chunks of each of B rows apart, [Hk, R, B, N, C, D].
    Returns the outputs in the same shape.
    """
    u = chunks[0]
    state = torch.zeros(*u.shape[:3], u.shape[-1], u.shape[-1], dtype=u.dtype, device=u.device)
    outputs = []
    # Unbound, not indexed: the gradient of an index is a tensor of zeros as large as the whole.
    for u_i, w_i, q_i, k_i, inside_i, total_i in zip(*(t.unbind(3) for t in chunks), strict=True):
        delta = u_i - w_i @ state
        outputs.append(q_i @ state + inside_i @ delta)
        state = state * total_i[..., None, None] + k_i.transpose(-1, -2) @ delta
    return torch.stack(outputs, dim=3)


def delta_scan(*chunks: Tensor) -> Tensor:
    """The same as `delta_rule` in log2 N steps: what a chunk does to the state is linear, so what
    two neighbours do is a product. More arithmetic, but a GPU is never idle.
    """
    u, w, q, k, inside, total = chunks
    dim = u.shape[-1]
    back = k.transpose(-1, -2)
    eye = torch.eye(dim, dtype=u.dtype, device=u.device)
    kept, state = total[..., None, None] * eye - back @ w, back @ u
    n, step = u.shape[3], 1
    while step < n:  # state and kept of chunk i now cover chunks i - step + 1 .. i
        early, late, moved = state[:, :, :, :step], state[:, :, :, step:], kept[:, :, :, step:]
        before = (state[:, :, :, :-step], kept[:, :, :, :-step])
        state = torch.cat([early, late + moved @ before[0]], 3)
        kept = torch.cat([kept[:, :, :, :step], moved @ before[1]], 3)
        step *= 2
    state = F.pad(state[:, :, :, :-1], (0, 0, 0, 0, 1, 0))
    return q @ state + inside @ (u - w @ state)


def _conv_inputs(x: Tensor, same: Tensor) -> list[Tensor]:
    """X shifted by 3, 2, 1, 0 tokens; what belongs to another document is zero. same: [3, T]."""
    shifted = [F.pad(x, (0, 0, s, 0))[: x.shape[0]] * same[s - 1, :, None] for s in (3, 2, 1)]
    return [*shifted, x]


def linear_in(
    x: Tensor, starts: Tensor, same: Tensor, norm: Tensor, qkv: Tensor, taps: Tensor, b: Tensor,
    a: Tensor, log_a: Tensor, dt: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What the delta rule takes, and the normed input. starts: [T], 1 where a document begins."""
    length = x.shape[0]
    ratio = log_a.shape[0] // K_HEADS
    h = _rms(x, norm)
    mixed = sum(u * taps[:, j] for j, u in enumerate(_conv_inputs(F.linear(h, qkv), same)))
    width = K_HEADS * HEAD
    q, k, v = F.silu(mixed).split([width, width, ratio * width], dim=-1)
    q, k = q.view(length, K_HEADS, HEAD), k.view(length, K_HEADS, HEAD)
    q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + 1e-6) * HEAD**-0.5
    k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + 1e-6)
    v = v.view(length, K_HEADS, ratio, HEAD)
    beta = F.linear(h, b).float().sigmoid().view(length, K_HEADS, ratio)
    g = -log_a.exp() * F.softplus(F.linear(h, a) + dt)
    g = g * (1 - starts[:, None]) + _FORGET * starts[:, None]
    return q, k, v, g.view_as(beta), beta, h


def linear_out(
    x: Tensor, h: Tensor, o: Tensor, z: Tensor, norm: Tensor, out: Tensor, *ffn: Tensor
) -> Tensor:
    """The gated norm and output projection of Gated DeltaNet, then the feed-forward part."""
    gate = F.linear(h, z).view_as(o)
    o = norm * o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-6) * F.silu(gate)
    return feed_forward(x + F.linear(o.flatten(1), out), *ffn)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [.., D]; cos, sin: [.., 64], broadcast over heads."""
    turned, rest = x[..., :ROTARY], x[..., ROTARY:]
    half = torch.cat([-turned[..., ROTARY // 2 :], turned[..., : ROTARY // 2]], -1)
    return torch.cat([turned * cos + half * sin, rest], -1)


def attention_in(
    x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, wq: Tensor, wk: Tensor, wv: Tensor,
    q_norm: Tensor, k_norm: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Queries, keys and values [T, heads, D] and the gate [T, heads * D] of gated attention."""
    length, dim = x.shape[0], q_norm.shape[0]
    h = _rms(x, norm)
    q, gate = F.linear(h, wq).view(length, -1, 2 * dim).chunk(2, -1)
    k = F.linear(h, wk).view(length, -1, dim)
    v = F.linear(h, wv).view(length, -1, dim)
    q, k = _rotate(_rms(q, q_norm), cos, sin), _rotate(_rms(k, k_norm), cos, sin)
    return q, k, v, gate.flatten(1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    """Causal attention within rows, [T, heads * D]. mask: [B, 1, T / B, T / B], true where a token
    may look; none where a row is one document.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    device = q.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
    q, k, v = (t.to(dtype).unflatten(0, (rows, -1)).transpose(1, 2) for t in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return o.transpose(1, 2).flatten(0, 1).flatten(1)


def seek(q: Tensor, k: Tensor, seeking: Tensor, sought: Tensor, starts: Tensor) -> Tensor:
    """Mean surprise of the seeking head, the first one of the last KV head, at where the tokens
    stand that it should look at.

    seeking, sought: [n] tokens; starts: [T], 1 where a document begins.
    """
    head = q.shape[1] - q.shape[1] // k.shape[1]
    scores = F.linear(q[seeking, head], k[:, -1]).float() * q.shape[-1] ** -0.5
    document = starts.cumsum(0)
    seen = document[seeking, None] == document
    seen &= torch.arange(len(starts), device=q.device) <= seeking[:, None]
    return F.cross_entropy(scores.masked_fill(~seen, float("-inf")), sought)


def attention_out(x: Tensor, o: Tensor, gate: Tensor, out: Tensor, *ffn: Tensor) -> Tensor:
    """Gate and output projection of attention, then the feed-forward part."""
    return feed_forward(x + F.linear(o * gate.sigmoid(), out), *ffn)


def feed_forward(x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU with its norm and residual."""
    h = _rms(x, norm)
    return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)


def _ffn_weights(layer: Any) -> tuple[Tensor, ...]:
    m = layer.mlp
    matrices = (m.gate_proj.weight, m.up_proj.weight, m.down_proj.weight)
    return (layer.post_attention_layernorm.weight, *matrices)


class PackedForward:
    """Hidden states of packed rows.

    Called with embeddings [B, T, h] and the geometry of documents [B, T] (a number of each token's
    document) and positions [3, B, T]; T is a multiple of CHUNK. Returns the states after the final
    norm.

    Inside, rows lie behind each other. Only the states of the delta rule and attention need to know
    where a row ends, and both stay outside of the compiled functions: so these are compiled once,
    for B * T tokens, whatever the length of rows.
    """

    def __init__(self, model: TinyModel, *, compiled: bool = True) -> None:
        self.model = model
        wrap: Any = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self._linear_in, self._linear_out, self._chunks = map(
            wrap, (linear_in, linear_out, delta_chunks)
        )
        self._attention_in, self._attention_out = map(wrap, (attention_in, attention_out))

    def linear(self, layer: Any, x: Tensor, geo: dict[str, Any]) -> Tensor:
        """One layer with Gated DeltaNet."""
        m = layer.linear_attn
        q, k, v, g, beta, h = self._linear_in(
            x, geo["starts"], geo["same"], layer.input_layernorm.weight, m.in_proj_qkv.weight,
            m.conv1d.weight[:, 0], m.in_proj_b.weight, m.in_proj_a.weight, m.A_log, m.dt_bias,
        )  # fmt: skip
        with torch.autocast(x.device.type, enabled=False):  # states add up over a whole document
            chunks = self._chunks(q, k, v, g, beta)
            chunks = tuple(t.unflatten(2, (geo["rows"], -1)) for t in chunks)
            scanned = x.is_cuda and chunks[0].shape[3] >= SCANNED
            o = (delta_scan if scanned else delta_rule)(*chunks)
        o = o.permute(2, 3, 4, 0, 1, 5).flatten(0, 2)  # [T, Hk, R, D]
        weights = (m.in_proj_z.weight, m.norm.weight, m.out_proj.weight)
        return self._linear_out(x, h, o, *weights, *_ffn_weights(layer))

    def attention(self, layer: Any, x: Tensor, geo: dict[str, Any]) -> Tensor:
        """One layer with gated attention."""
        m = layer.self_attn
        q, k, v, gate = self._attention_in(
            x, geo["cos"], geo["sin"], layer.input_layernorm.weight, m.q_proj.weight,
            m.k_proj.weight, m.v_proj.weight, m.q_norm.weight, m.k_norm.weight,
        )  # fmt: skip
        if "lesson" in geo:
            first, later, looked = geo["lesson"]  # of the first layer with attention, of others
            looked.append(seek(q, k, *(later if looked else first), geo["starts"]))
        o = attend(q, k, v, geo["mask"], geo["rows"])
        return self._attention_out(x, o, gate, m.o_proj.weight, *_ffn_weights(layer))

    def geometry(
        self, documents: Tensor, positions: Tensor, *, alone: bool = False
    ) -> dict[str, Any]:
        """What all layers share: document starts, neighbours, rotary tables, attention mask.

        alone: every row is one document and padding, so attention needs no mask.
        """
        rows, length = documents.shape
        same = torch.stack(
            [F.pad(documents, (s, 0), value=-1)[:, :length] == documents for s in (1, 2, 3)]
        )
        freqs = positions.flatten(1)[..., None].float() * self.model.text.rotary_emb.inv_freq
        axes = torch.arange(ROTARY // 2, device=documents.device) % 3  # sections 11, 11, 10
        angle = torch.where(axes == 1, freqs[1], torch.where(axes == 2, freqs[2], freqs[0]))
        angle = torch.cat([angle, angle], -1)[:, None]
        mask = None
        if not alone:
            mask = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
        same = same.flatten(1).float()
        return {
            "rows": rows,
            "starts": 1 - same[0],
            "same": same,
            "cos": angle.cos(),
            "sin": angle.sin(),
            "mask": mask,
        }

    def __call__(self, x: Tensor, geo: dict[str, Any]) -> Tensor:
        text, shape = self.model.text, x.shape
        x = x.flatten(0, 1)
        for layer in text.layers:
            mix = self.linear if hasattr(layer, "linear_attn") else self.attention
            x = mix(layer, x, geo)
        return _rms(x, text.norm.weight).view(shape)

    def draft(self, hidden: Tensor, embedded: Tensor, geo: dict[str, Any]) -> Tensor:
        """MTP states: `embedded` is the token after that of `hidden`, both [B, T, h]."""
        m = self.model.mtp
        pair = [
            _rms(embedded, m.pre_fc_norm_embedding.weight),
            _rms(hidden, m.pre_fc_norm_hidden.weight),
        ]
        x = F.linear(torch.cat(pair, -1).flatten(0, 1), m.fc.weight)
        x = self.attention(m.layers[0], x, geo)
        return _rms(x, m.norm.weight).view(hidden.shape)
