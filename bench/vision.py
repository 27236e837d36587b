"""Pictures in this engine and in llama.cpp, side by side: encode, first token, memory.

    python bench/synthetic.py 0.8b q4_0 -o text.gguf
    python bench/synthetic.py 0.8b f16 -o mmproj.gguf --tower
    python bench/vision.py text.gguf mmproj.gguf --sizes 512x512 1024x768 --rounds 3

Every measurement is a process of its own; engines take turns, so that a noisy machine hurts both.
Encode is the tower alone (for llama.cpp: the time to the first token less that of as many tokens
of text), first token the time from a prompt of a few words
and the picture to its logits, without loading; CPU are the seconds of all threads in that time, and
memory is how far the process grew while it worked. Prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("ours", "llama.cpp")
WORDS = 16  # tokens of text before the picture, about as many as the peer's template makes
WARM = (256, 256)  # pixels of a picture that both see first


def pixels(width: int, height: int) -> np.ndarray:
    """Smooth colours with noise, as photos have."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.sin(x[..., None] / [9.0, 17.0, 31.0] + y[..., None] / 20)
    return np.clip(127 + 90 * waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def _status(key: str) -> float:
    """A line of /proc/self/status in MiB; 0 where there is none."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure_ours(args: argparse.Namespace, width: int, height: int) -> dict[str, float]:
    """One picture here."""
    from qwen35cpp import Llama
    from qwen35cpp.vision import Picture, PicturePrompt

    def prompt_of(size: tuple[int, int]) -> PicturePrompt:
        words = list(range(100, 100 + WORDS))
        return PicturePrompt.build([*words, 0, 5], [(WORDS, Picture.open(pixels(*size)))])

    with Llama(args.model, n_ctx=8192, n_threads=args.threads, mmproj=args.mmproj) as llm:
        tower = llm._engine.tower()
        with llm._engine.hold_first() as held:
            warm, prompt = prompt_of(WARM), prompt_of((width, height))
            held.slot.begin(warm.ids, spans=warm.spans)
            held.slot.reset()
            before, cpu = _status("VmRSS"), _cpu()
            start = time.perf_counter()
            rows = tower.rows(prompt.spans[0].picture)
            encoded = time.perf_counter()
            held.slot.begin(prompt.ids, spans=prompt.spans)
            end = time.perf_counter()
            grown, cpu = _status("VmHWM") - before, _cpu() - cpu
    assert np.isfinite(rows).all()
    return {"encode": encoded - start, "first": end - start, "cpu": cpu, "memory": grown}


def measure_peer(args: argparse.Namespace, width: int, height: int) -> dict[str, float]:
    """One picture in llama.cpp."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = args.model, args.mmproj
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 8192, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.warmup = params.fit_params = False
    params.cache_ram_mib = params.n_ctx_checkpoints = params.port = 0
    params.chat_template = "chatml"
    server = xllamacpp.Server(params)

    def answer_of(answer: Any) -> dict[str, Any]:
        said = json.loads(answer) if isinstance(answer, str | bytes) else dict(answer)
        if "error" in said:
            raise RuntimeError(said["error"])
        return said

    def ask(size: tuple[int, int]) -> int:
        """Returns the number of tokens of the prompt."""
        out = io.BytesIO()
        Image.fromarray(pixels(*size)).save(out, "PNG")
        url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
        request = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        answer = server.handle_chat_completions(request | {"cache_prompt": False, "stream": False})
        return int(answer_of(answer)["usage"]["prompt_tokens"])

    ask(WARM)
    before, cpu = _status("VmRSS"), _cpu()
    start = time.perf_counter()
    tokens = ask((width, height))
    first, cpu = time.perf_counter() - start, _cpu() - cpu
    grown = _status("VmHWM") - before
    # With a projector it takes prompts as text only.
    request = {"prompt": "7 " * (tokens // 2), "n_predict": 1, "cache_prompt": False}
    timings = answer_of(server.handle_completions(request | {"stream": False}))["timings"]
    text = timings["prompt_ms"] / 1000 * tokens / timings["prompt_n"]
    return {"encode": first - text, "first": first, "cpu": cpu, "memory": grown}


def run(engine: str, mmproj: str, size: str, args: argparse.Namespace) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [
        sys.executable, __file__, args.model, mmproj, "--one", engine, "--sizes", size,
        "--threads", str(args.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{engine} on {mmproj} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(mmproj: str, size: str, args: argparse.Namespace) -> None:
    """Prints the rows of one projector and one size."""
    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in args.engines}
    for _ in range(args.rounds):
        for engine in args.engines:
            results[engine].append(run(engine, mmproj, size, args))
    for engine, found in results.items():
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        print(
            f"| {Path(mmproj).name} | {size} | {engine} | {middle['encode']:.2f} | "
            f"{middle['first']:.2f} | {middle['cpu']:.2f} | {middle['memory']:.0f} |",
            flush=True,
        )


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("mmproj", nargs="+", help="projector files")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1024x768", "1600x1200"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        args.mmproj = args.mmproj[0]
        width, height = (int(side) for side in args.sizes[0].split("x"))
        measure = measure_ours if args.one == "ours" else measure_peer
        print(json.dumps(measure(args, width, height)))
        return
    print("| projector | pixels | engine | encode s | first token s | CPU s | memory MiB |")
    print("|---|---|---|---|---|---|---|")
    for mmproj in args.mmproj:
        for size in args.sizes:
            compare(mmproj, size, args)


if __name__ == "__main__":
    main()
