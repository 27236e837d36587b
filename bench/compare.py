"""Tokens per second of this engine and of llama.cpp on the same files, side by side.

    python bench/compare.py model.gguf [more.gguf] --prompt 512 --new 64 --rounds 5

Every measurement is a process of its own; engines take turns, so that a noisy machine hurts both.
llama.cpp is the `xllamacpp` wheel, run with OMP_WAIT_POLICY unset and set to active; the better of
the two is the peer. Prints a Markdown table of medians and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("ours", "llama.cpp", "llama.cpp active")


def measure_ours(path: str, prompt: list[int], new: int, threads: int) -> tuple[float, float]:
    """Prefill and decode speed in tokens/s."""
    import time

    from qwen35cpp import Llama

    with Llama(path, n_ctx=len(prompt) + new + 8, n_threads=threads, draft="off") as llm:
        llm.eval(prompt[:16])  # touches the weights once, as the peer's load does
        llm.reset()
        start = time.perf_counter()
        llm.eval(prompt)
        middle = time.perf_counter()
        llm.reset()
        text = llm.generate(prompt, max_tokens=new, temperature=0.0, ignore_eos=True)
        return len(prompt) / (middle - start), text.timings.decode_per_second


def measure_peer(path: str, prompt: list[int], new: int, threads: int) -> tuple[float, float]:
    """The same, by llama.cpp's own clock."""
    sys.path.insert(0, str(ROOT / "tests" / "reference"))
    import llama_cpp_peer

    with llama_cpp_peer.open_model(path, threads, n_ctx=len(prompt) + new + 64) as peer:
        peer.timings(prompt[:16], 1)
        prefill = peer.timings(prompt, 1)["prompt_per_second"]
        decode = peer.timings(prompt, new)["predicted_per_second"]
    return prefill, decode


def run(engine: str, arguments: argparse.Namespace, path: str) -> tuple[float, float]:
    """One measurement in a fresh process."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if engine.endswith("active"):
        env["OMP_WAIT_POLICY"] = "active"
    command = [
        sys.executable, __file__, path, "--one", engine.split()[0],
        "--prompt", str(arguments.prompt), "--new", str(arguments.new),
        "--threads", str(arguments.threads),
    ]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{engine} on {path} failed:\n{done.stderr[-2000:]}")
    prefill, decode = json.loads(done.stdout.splitlines()[-1])
    return prefill, decode


def compare(path: str, arguments: argparse.Namespace) -> None:
    """Prints the rows of one file."""
    results: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(arguments.rounds):
        for engine in ENGINES:
            results[engine].append(run(engine, arguments, path))
    median = {
        engine: tuple(statistics.median(r[i] for r in rows) for i in (0, 1))
        for engine, rows in results.items()
    }
    peers = [median[engine] for engine in ENGINES[1:]]
    for i, name in enumerate((f"pp{arguments.prompt}", f"tg{arguments.new}")):
        best = max(peer[i] for peer in peers)
        values = " | ".join(f"{median[engine][i]:.1f}" for engine in ENGINES)
        ratio = median["ours"][i] / best
        print(f"| {Path(path).name} | {name} | {values} | {ratio:.2f} |", flush=True)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--prompt", type=int, default=512, help="prompt length in tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate after it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["ours", "llama.cpp"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import random

        prompt = [random.Random(i).randrange(100_000) for i in range(arguments.prompt)]
        measure = measure_ours if arguments.one == "ours" else measure_peer
        print(json.dumps(measure(arguments.models[0], prompt, arguments.new, arguments.threads)))
        return
    print("| file | test | " + " | ".join(ENGINES) + " | ratio to the better |")
    print("|---|---|" + "---|" * (len(ENGINES) + 1))
    for path in arguments.models:
        compare(path, arguments)


if __name__ == "__main__":
    main()
