"""Decoding at depth: this generation in this engine, the one before in llama.cpp.

The question of somebody who changes both: what does a step cost behind a long text? Ours is a 2B,
theirs has the shapes of Qwen3-1.7B, both Q4_K_M with random weights. Both caches are filled with
the entries of a short text, again and again (see deep.py); llama.cpp takes them as the saved state
of a sequence. Its cache is f16, its default.

    python bench/generations.py OURS.gguf [--previous qwen3.gguf] [--depths 0,8192,32768]
        [--kv f16,q8_0] [--at 131072]

The previous file is written when it does not exist. Where a depth does not fit into memory, the
peer's time is fitted as a line: its cost grows by the same for every entry.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent

# Qwen3-1.7B, from its published config.json
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2048, 6144, 28, 16, 8, 128, 151_936


# ---- the previous generation's file --------------------------------------------------------------


def write_previous(path: Path) -> None:
    """A file of architecture qwen3 with random weights in the Q4_K_M mix."""
    import synthetic
    from qwen35cpp.convert import metadata as md
    from qwen35cpp.convert.ggml_types import FileType
    from qwen35cpp.convert.ggml_types import TensorType as T
    from qwen35cpp.convert.model_metadata import general_metadata
    from qwen35cpp.convert.recipes import more_bits
    from qwen35cpp.convert.tokenizer import CONTROL, NORMAL, Tokenizer
    from qwen35cpp.convert.writer import GgufWriter, TensorSpec

    specs = [
        TensorSpec("token_embd.weight", (HIDDEN, VOCAB), T.Q6_K),
        TensorSpec("output_norm.weight", (HIDDEN,), T.F32),
    ]
    for i in range(LAYERS):
        wide = T.Q6_K if more_bits(i, LAYERS) else T.Q4_K
        layer = {
            "attn_norm": ((HIDDEN,), T.F32),
            "attn_q": ((HIDDEN, HEADS * HEAD_DIM), T.Q4_K),
            "attn_k": ((HIDDEN, KV_HEADS * HEAD_DIM), T.Q4_K),
            "attn_v": ((HIDDEN, KV_HEADS * HEAD_DIM), wide),
            "attn_q_norm": ((HEAD_DIM,), T.F32),
            "attn_k_norm": ((HEAD_DIM,), T.F32),
            "attn_output": ((HEADS * HEAD_DIM, HIDDEN), T.Q4_K),
            "ffn_norm": ((HIDDEN,), T.F32),
            "ffn_gate": ((HIDDEN, FFN), T.Q4_K),
            "ffn_up": ((HIDDEN, FFN), T.Q4_K),
            "ffn_down": ((FFN, HIDDEN), wide),
        }
        for name, (shape, kind) in layer.items():
            specs.append(TensorSpec(f"blk.{i}.{name}.weight", shape, kind))
    words = synthetic.placeholder_tokenizer()
    tokens = [*words.tokens[: VOCAB - 2], "<|endoftext|>", "<|im_end|>"]
    types = [NORMAL] * (VOCAB - 2) + [CONTROL] * 2
    tokenizer = Tokenizer(tokens, types, ["a b"], VOCAB - 1, VOCAB - 2, VOCAB - 2, None)
    count = sum(math.prod(spec.ne) for spec in specs)
    metadata = general_metadata("qwen3", "model", "random weights", FileType.Q4_K_M, count)
    metadata |= {
        "qwen3.block_count": md.u32(LAYERS),
        "qwen3.context_length": md.u32(1 << 18),
        "qwen3.embedding_length": md.u32(HIDDEN),
        "qwen3.feed_forward_length": md.u32(FFN),
        "qwen3.attention.head_count": md.u32(HEADS),
        "qwen3.attention.head_count_kv": md.u32(KV_HEADS),
        "qwen3.attention.key_length": md.u32(HEAD_DIM),
        "qwen3.attention.value_length": md.u32(HEAD_DIM),
        "qwen3.attention.layer_norm_rms_epsilon": md.f32(1e-6),
        "qwen3.rope.freq_base": md.f32(1e6),
    }
    metadata |= tokenizer.metadata() | {"tokenizer.ggml.pre": md.string("qwen2")}
    rng = np.random.Generator(np.random.SFC64(7))
    with GgufWriter(path, metadata, specs) as writer:
        for spec in specs:
            if spec.type is T.F32:
                writer.write(np.ones(spec.ne[0], np.float32))
            else:
                synthetic._write_matrix(writer, spec, 1 / math.sqrt(spec.ne[0]), rng)


# ---- llama.cpp, through the C functions that its wheel exports -----------------------------------


class Opaque(ctypes.Structure):
    """A struct of theirs that is passed by value; larger than any of them."""

    _fields_ = (("words", ctypes.c_uint32 * 128),)


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in
          ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    )  # fmt: skip


class Peer:
    """One context of llama.cpp."""

    def __init__(self, path: Path, n_ctx: int, threads: int) -> None:
        import xllamacpp

        lib = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
        for name, result in (
            ("llama_model_default_params", Opaque), ("llama_context_default_params", Opaque),
            ("llama_model_load_from_file", ctypes.c_void_p),
            ("llama_init_from_model", ctypes.c_void_p), ("llama_batch_get_one", Batch),
            ("llama_state_seq_get_size", ctypes.c_size_t),
            ("llama_state_seq_get_data", ctypes.c_size_t),
            ("llama_state_seq_set_data", ctypes.c_size_t),
            ("llama_get_memory", ctypes.c_void_p),
        ):  # fmt: skip
            getattr(lib, name).restype = result
        self.lib = lib
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(os.fsencode(path), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        words = params.words
        words[0], words[1], words[2] = n_ctx, 512, 512  # n_ctx, n_batch, n_ubatch
        # n_threads and n_threads_batch: the only neighbours that are both 4.
        place = next(i for i in range(3, 12) if words[i] == words[i + 1] == 4)
        words[place] = words[place + 1] = threads
        self.context = ctypes.c_void_p(lib.llama_init_from_model(ctypes.c_void_p(model), params))
        if not self.context:
            raise MemoryError("llama.cpp could not open a context")

    def eval(self, tokens: list[int]) -> None:
        """Evaluates tokens behind those before."""
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError("llama_decode failed")

    def fill(self, depth: int) -> None:
        """Makes the sequence `depth` tokens long with the entries of a short one."""
        seed = 64
        lib, context = self.lib, self.context
        lib.llama_memory_clear(ctypes.c_void_p(lib.llama_get_memory(context)), True)
        self.eval([1 + i % 90 for i in range(seed)])
        if depth <= seed:
            return
        small = np.empty(lib.llama_state_seq_get_size(context, 0), np.uint8)
        lib.llama_state_seq_get_data(context, small.ctypes.data_as(ctypes.c_void_p), small.size, 0)
        data = np.frombuffer(_longer(small.tobytes(), seed, depth), np.uint8)
        lib.llama_memory_clear(ctypes.c_void_p(lib.llama_get_memory(context)), True)
        took = lib.llama_state_seq_set_data(
            context, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(data.size), 0
        )
        if took != data.size:
            raise RuntimeError("llama.cpp did not take the state")


def _longer(state: bytes, seed: int, depth: int) -> bytes:
    """The state of a sequence of `depth` tokens out of one of `seed`.

    Magic, sequence, n_stream, n_cells; for each cell its position, number of sequences and
    sequence; whether values are transposed, n_layer, two words; for each layer's keys, then
    values: type, bytes of a row, rows.
    """
    at = 16
    known = struct.unpack_from("=IIiIi", state, 8) == (1, seed, 0, 1, 0)
    assert known, "an unknown layout of saved states"
    out = [state[:12], struct.pack("=I", depth)]
    out.append(b"".join(struct.pack("=iIi", i, 1, 0) for i in range(depth)))
    at += 12 * seed
    transposed, layers = struct.unpack_from("=II", state, at)
    assert not transposed, "saved values are transposed: flash attention is off"
    out.append(state[at : at + 16])
    at += 16
    for _ in range(2 * layers):
        row = struct.unpack_from("=Q", state, at + 4)[0]
        out.append(state[at : at + 12])
        rows = state[at + 12 : at + 12 + row * seed]
        out.append(rows * (depth // seed) + rows[: depth % seed * row])
        at += 12 + row * seed
    assert at == len(state), "an unknown layout of saved states"
    return b"".join(out)


# ---- the comparison ------------------------------------------------------------------------------


def time_steps(
    fill: Callable[[int], None], eval_: Callable[[list[int]], None], depths: list[int], tokens: int
) -> dict[int, float]:
    """Seconds of a step at each depth."""
    steps: dict[int, float] = {}
    for depth in depths:
        fill(depth)
        eval_([5])
        times = []
        for i in range(tokens):
            start = time.perf_counter()
            eval_([6 + i])
            times.append(time.perf_counter() - start)
        steps[depth] = statistics.median(times)
    return steps


def measure_peer(path: Path, depths: list[int], tokens: int, threads: int) -> dict[int, float]:
    """Steps of llama.cpp."""
    peer = Peer(path, max(depths) + tokens + 256, threads)
    return time_steps(peer.fill, peer.eval, depths, tokens)


def measure_ours(
    path: Path, depths: list[int], tokens: int, threads: int, kv: str
) -> dict[int, float]:
    """Steps of this engine."""
    import deep

    from qwen35cpp import _handles

    model = _handles.Model(bytes(path), n_threads=threads)
    kind = _handles.KV_TYPES[kv]
    session = _handles.Session(model, n_ctx=max(depths) + tokens + 8, kv_type=kind)
    return time_steps(lambda depth: deep.fill(session, depth), session.eval, depths, tokens)


def _run(args: argparse.Namespace, engine: str) -> dict[int, float]:
    command = [sys.executable, __file__, str(args.ours), "--previous", str(args.previous),
               "--one", engine, "--depths", args.depths, "--tokens", str(args.tokens),
               "--threads", str(args.threads)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {int(k): v for k, v in json.loads(done.stdout.splitlines()[-1]).items()}


def _line(steps: dict[int, float], depth: int) -> float:
    """The seconds at a depth, on the line through the measured ones."""
    slope, start = np.polyfit(list(steps), list(steps.values()), 1)
    return float(start + slope * depth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("ours", type=Path)
    parser.add_argument("--previous", type=Path, default=Path("qwen3-1.7b-q4_k_m.gguf"))
    parser.add_argument("--depths", default="0,8192,32768")
    parser.add_argument("--kv", default="f16,q8_0,iq4_nl")
    parser.add_argument("--at", type=int, default=131_072, help="depth of the last line")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="engines in turn; the least counts")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    depths = [int(n) for n in args.depths.split(",")]
    if args.one == "llama.cpp":
        steps = measure_peer(args.previous, depths, args.tokens, args.threads)
        print(json.dumps(steps))
        return
    if args.one:
        print(json.dumps(measure_ours(args.ours, depths, args.tokens, args.threads, args.one)))
        return
    if not args.previous.exists():
        write_previous(args.previous)
    engines = ["llama.cpp", *args.kv.split(",")]
    best = {engine: dict.fromkeys(depths, math.inf) for engine in engines}
    for _ in range(args.rounds):
        for engine in engines:
            for depth, seconds in _run(args, engine).items():
                best[engine][depth] = min(best[engine][depth], seconds)
    ours = engines[1:]
    print(f"| depth | llama.cpp, previous | {' | '.join(ours)} | ratios |")
    print("|---|---|" + "---|" * len(ours) + "---|")
    rows = [(f"{depth}", {e: best[e][depth] for e in engines}) for depth in depths]
    if args.at not in depths:
        rows.append((f"{args.at}, fitted", {e: _line(best[e], args.at) for e in engines}))
    for name, step in rows:
        cells = [f"{1 / step[engine]:.2f}" for engine in engines]
        ratios = ", ".join(f"{step['llama.cpp'] / step[engine]:.1f}" for engine in ours)
        print(f"| {name} | {' | '.join(cells)} | {ratios} |")


if __name__ == "__main__":
    main()
