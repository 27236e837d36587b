"""Decoding at depth: this generation in this engine, the one before in llama.cpp.

The question of somebody who changes both: what does a step cost behind a long text? Ours is a 2B
with every cache type, plain and with drafts of an imposed acceptance (see drafts.py); theirs has
the shapes of Qwen3-1.7B and the f16 cache that is its default. Both files are Q4_K_M with random
weights. Both caches are filled with the entries of a short text, again and again (see deep.py and
peer_native.py); --read has llama.cpp read its tokens instead.

    python bench/generations.py OURS.gguf --peer-python PEER/bin/python
        [--previous qwen3.gguf] [--depths 0,8192,32768,131072] [--csv FILE]

OURS comes from `synthetic.py 2b q4_k_m --mtp`; the previous file is written when it does not exist.
Depths at which the peer's cache would not fit into the free memory (115 KB a token), or beyond
--peer-depth, are fitted for the peer: the cost of a token is a line in its depth. Engines take
turns, the better round counts; the peer's rounds alternate OMP_WAIT_POLICY.

An estimate for two cores and 18 GB of free memory is seven minutes. --rounds 1 halves that; with
--read a round takes as long as the peer needs to read the deepest text: lower --peer-depth then.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
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


# ---- measuring -----------------------------------------------------------------------------------

PEER = "llama.cpp"
PEER_TOKEN = LAYERS * 2 * KV_HEADS * HEAD_DIM * 2  # bytes of a token in its cache of f16
BESIDES = 1_500_000_000  # bytes that it takes besides weights and cache, and some to spare
LEARNING = 48  # tokens after which a session knows what drafts cost


@dataclass(frozen=True)
class Result:
    """Seconds of a token behind `depth` others."""

    engine: str  # PEER or the type of our cache
    drafts: bool
    depth: int
    seconds: float
    how: str = "filled"  # the cache; or read, or fitted


def measure_ours(args: argparse.Namespace, kv: str, depths: list[int]) -> list[Result]:
    """This engine, plain and, where the file has an MTP layer, with drafts."""
    import deep
    import drafts

    from qwen35cpp import _handles

    model = _handles.Model(bytes(args.ours), n_threads=args.threads)
    greedy = _handles.Sampler(
        model, _handles.Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={}
    )
    kinds = ["off", "mtp"] if model.info.n_mtp_layer and args.impose else ["off"]
    results = []
    for kind in kinds:
        warm, wanted = (LEARNING, args.draft_tokens) if kind == "mtp" else (1, args.tokens)
        session = _handles.Session(
            model,
            n_ctx=max(depths) + warm + wanted + 32,
            kv_type=_handles.KV_TYPES[kv],
            draft=_handles.DRAFTS[kind],
        )
        if kind == "mtp":
            session.impose_acceptance(drafts.conditional(args.impose))
        for depth in depths:
            deep.fill(session, depth)
            token = 5
            for most in (warm, wanted):
                made, start = 0, time.perf_counter()
                while made < most:
                    drawn = session.decode([token], greedy, (), 8)
                    token, made = drawn[-1][0], made + len(drawn)
                seconds = (time.perf_counter() - start) / made
            results.append(Result(kv, kind == "mtp", depth, seconds))
        session.close()
    model.close()
    return results


def run_ours(args: argparse.Namespace, kv: str, depths: list[int]) -> list[Result]:
    """measure_ours in a process of its own."""
    command = [sys.executable, __file__, str(args.ours), "--one", kv, "--impose", args.impose,
               "--depths", ",".join(map(str, depths)), "--tokens", str(args.tokens),
               "--draft-tokens", str(args.draft_tokens),
               "--threads", str(args.threads)]  # fmt: skip
    return [Result(**row) for row in json.loads(_output(command, dict(os.environ)))]


def run_peer(args: argparse.Namespace, depths: list[int], round_: int) -> list[Result]:
    """llama.cpp in a process of its own."""
    command = [args.peer_python, str(ROOT / "peer_native.py"), str(args.previous),
               "--depths", ",".join(map(str, depths)), "--prompt", "8", "--new", str(args.tokens),
               "--threads", str(args.threads), *([] if args.read else ["--fill"])]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if round_ % 2:
        environment["OMP_WAIT_POLICY"] = "active"
    rows = [json.loads(line) for line in _output(command, environment).splitlines()]
    how = "read" if args.read else "filled"
    return [Result(PEER, False, row["depth"], 1 / row["decode"], how) for row in rows]


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def free_memory() -> int:
    """Bytes that programs may still take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def peer_depths(args: argparse.Namespace, depths: list[int]) -> list[int]:
    """The depths that the peer is measured at."""
    weights = args.previous.stat().st_size
    room = (free_memory() - weights - BESIDES) / PEER_TOKEN
    most = min(room, args.peer_depth or room)
    return [depth for depth in depths if depth <= most]


# ---- the comparison ------------------------------------------------------------------------------


def fitted(results: list[Result], depth: int) -> float:
    """The peer's seconds at a depth, on the line through those at others."""
    known = [r for r in results if r.engine == PEER and r.depth != depth]
    slope, start = np.polyfit([r.depth for r in known], [r.seconds for r in known], 1)
    return float(start + slope * depth)


def show(results: list[Result], depths: list[int]) -> None:
    """Markdown: tokens/s at every depth, and what the ratio at the last one consists of."""
    found = {(r.engine, r.drafts, r.depth): r for r in results}
    engines = list(dict.fromkeys((r.engine, r.drafts) for r in results))
    names = [f"{engine}{' + drafts' if drafts else ''}" for engine, drafts in engines]
    print(f"| tokens before | {' | '.join(names)} | best / llama.cpp |")
    print("|---:|" + "---:|" * (len(engines) + 1))
    for depth in depths:
        row = [found[(*engine, depth)] for engine in engines]
        cells = [f"{1 / r.seconds:.2f}{' (fitted)' if r.how == 'fitted' else ''}" for r in row]
        best = min(r.seconds for r in row if r.engine != PEER)
        print(
            f"| {depth:,} | {' | '.join(cells)} | {found[PEER, False, depth].seconds / best:.2f} |"
        )
    at = depths[-1]
    here = [r for r in results if r.depth == at]
    peer = found[PEER, False, at]
    ours = [r for r in here if r.engine != PEER]
    plain = min((r for r in ours if not r.drafts), key=lambda r: r.seconds)
    best = min(ours, key=lambda r: r.seconds)
    print(f"\n| behind {at:,} tokens | tokens/s | times |\n|---|---:|---:|")
    steps = [(f"llama.cpp, Qwen3-1.7B, f16 cache ({peer.how})", peer)]
    if ("f16", False, at) in found:
        steps.append(("this engine and generation, f16 cache", found["f16", False, at]))
    steps.append((f"cache of {plain.engine}", plain))
    if best.drafts:
        steps.append((f"with drafts, cache of {best.engine}", best))
    last = peer.seconds
    for name, result in steps:
        print(f"| {name} | {1 / result.seconds:.2f} | {last / result.seconds:.2f} |")
        last = result.seconds
    print(f"| all together | | {peer.seconds / last:.2f} |")
    if peer.how != "fitted" and sum(r.engine == PEER for r in results) > 2:
        line = fitted(results, at)
        print(f"\nThe line through llama.cpp's other depths gives {1 / line:.2f} tokens/s there.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("ours", type=Path)
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    parser.add_argument("--previous", type=Path, default=Path("qwen3-1.7b-q4_k_m.gguf"))
    parser.add_argument("--depths", default="0,8192,32768,131072", help="ascending")
    parser.add_argument("--peer-depth", type=int, help="deepest for the peer; default: what fits")
    parser.add_argument("--read", action="store_true", help="the peer reads instead of filling")
    parser.add_argument("--kv", default="f16,q8_0,iq4_nl")
    parser.add_argument("--impose", default=".85,.70,.55", help="as in drafts.py; empty: no drafts")
    parser.add_argument("--tokens", type=int, default=16, help="of a measurement without drafts")
    parser.add_argument("--draft-tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    depths = [int(n) for n in args.depths.split(",")]
    if args.one:
        print(json.dumps([asdict(r) for r in measure_ours(args, args.one, depths)]))
        return
    if not args.peer_python:
        parser.error("--peer-python is needed")
    if not args.previous.exists():
        write_previous(args.previous)
    theirs = peer_depths(args, depths)
    if len(theirs) < min(2, len(depths)):
        parser.error("the peer needs two depths to fit a line: free memory or lower --depths")
    best: dict[tuple[str, bool, int], Result] = {}
    start = time.perf_counter()
    for round_ in range(args.rounds):
        for engine in (PEER, *args.kv.split(",")):
            peer = engine == PEER
            rows = run_peer(args, theirs, round_) if peer else run_ours(args, engine, depths)
            for row in rows:
                key = (row.engine, row.drafts, row.depth)
                best[key] = min(best.get(key, row), row, key=lambda r: r.seconds)
            spent = time.perf_counter() - start
            print(f"{spent:.0f} s: round {round_ + 1}, {engine}", file=sys.stderr, flush=True)
    results = list(best.values())
    results += [
        Result(PEER, False, depth, fitted(results, depth), "fitted")
        for depth in depths
        if depth not in theirs
    ]
    show(results, depths)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["engine", "drafts", "depth", "seconds_a_token", "how"])
            writer.writerows(asdict(r).values() for r in results)


if __name__ == "__main__":
    main()
