"""Pictures in this engine, in llama.cpp and in OpenVINO, side by side.

    python bench/synthetic.py 0.8b q4_0 -o text.gguf
    python bench/synthetic.py 0.8b f16 -o mmproj.gguf --tower
    python bench/vision.py text.gguf mmproj.gguf --sizes 512x512 1024x768 --rounds 3

Seconds in the tower and to the first token, and memory. Every measurement is a process of its own;
engines take turns, so that a noisy machine hurts all. First token is the time from a prompt of a
few words and the picture to its logits, without loading; CPU are the seconds of all threads in that
time, and memory is how far the process grew while it worked. Prints a Markdown table of medians.

llama.cpp is the server of the wheel (its time in the tower is that to the first token less that of
as many tokens of text), or with --peer-python a build for the machine, see peer_native.py, which
says it itself. OpenVINO (--openvino-python, --openvino-model) needs a folder that was exported from
a checkpoint; peer_openvino.py says how. Convert the same checkpoint for the others:

    qwen35cpp convert CHECKPOINT -o text.gguf --type q4_0    # and mmproj-text.gguf, F16
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from peer_server import complete, serving
from PIL import Image
from process import Watch

HERE = Path(__file__).resolve().parent
ENGINES = ("ours", "llama.cpp", "openvino")
WORDS = 16  # tokens of text before the picture, about as many as the peer's template makes
WARM = (256, 256)  # pixels of a picture that all see first
Figures = dict[str, float]


def pixels(width: int, height: int) -> np.ndarray:
    """Smooth colours with noise, as photos have."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.sin(x[..., None] / [9.0, 17.0, 31.0] + y[..., None] / 20)
    return np.clip(127 + 90 * waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def measure_ours(args: argparse.Namespace, width: int, height: int) -> Figures:
    """One picture here, in this process."""
    from qwen35cpp import Llama
    from qwen35cpp.vision import Picture, PicturePrompt

    def prompt_of(size: tuple[int, int]) -> PicturePrompt:
        words = list(range(100, 100 + WORDS))
        return PicturePrompt.build([*words, 0, 5], [(WORDS, Picture.open(pixels(*size)))])

    with Llama(args.model, n_ctx=8192, n_threads=args.threads, mmproj=args.mmproj[0]) as llm:
        tower = llm._engine.tower()
        with llm._engine.hold_first() as held:
            warm, prompt = prompt_of(WARM), prompt_of((width, height))
            held.slot.begin(warm.ids, spans=warm.spans)
            held.slot.reset()
            watch, start = Watch(), time.perf_counter()
            rows = tower.rows(prompt.spans[0].picture)
            encoded = time.perf_counter()
            held.slot.begin(prompt.ids, spans=prompt.spans)
            end = time.perf_counter()
            figures = watch.figures()
    assert np.isfinite(rows).all()
    return {"encode": encoded - start, "first": end - start, **figures}


def measure_server(args: argparse.Namespace, mmproj: str, width: int, height: int) -> Figures:
    """One picture in the server of llama.cpp's wheel."""
    options = [
        "--mmproj", mmproj, "--threads", str(args.threads), "--parallel", "1", "--ctx", "8192",
        "--forget",
    ]  # fmt: skip
    with serving(args.model, *options) as (url, pid):

        def ask(size: tuple[int, int]) -> int:
            """Returns the number of tokens of the prompt."""
            out = io.BytesIO()
            Image.fromarray(pixels(*size)).save(out, "PNG")
            data = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
            content = [
                {"type": "image_url", "image_url": {"url": data}},
                {"type": "text", "text": "?"},
            ]
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
            return int(_post(f"{url}/v1/chat/completions", body)["usage"]["prompt_tokens"])

        ask(WARM)
        watch, start = Watch(pid), time.perf_counter()
        tokens = ask((width, height))
        first, figures = time.perf_counter() - start, watch.figures()
        # With a projector it takes prompts as text only.
        timings = complete(url, "7 " * (tokens // 2), 1, cache_prompt=False)["timings"]
        text = timings["prompt_ms"] / 1000 * tokens / timings["prompt_n"]
    return {"encode": first - text, "first": first, **figures}


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(body | {"cache_prompt": False}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


def run(engine: str, mmproj: str, size: str, args: argparse.Namespace) -> Figures:
    """One measurement in a fresh process."""
    width, height = (int(side) for side in size.split("x"))
    threads = ["--threads", str(args.threads)]
    if engine == "ours":
        return _output(
            sys.executable, __file__, args.model, mmproj, "--one", "--sizes", size, *threads
        )
    if engine == "llama.cpp" and not args.peer_python:
        return measure_server(args, mmproj, width, height)
    with tempfile.TemporaryDirectory() as folder:
        shown = []
        for name, sides in (("image", (width, height)), ("warm", WARM)):
            shown.append(str(Path(folder) / f"{name}.npy"))
            np.save(shown[-1], pixels(*sides))
        image, warm = shown
        if engine == "openvino":
            script = (args.openvino_python, HERE / "peer_openvino.py", args.openvino_model, image)
            return _output(*script, "--warm", warm, *threads)
        native = (args.peer_python, HERE / "peer_native.py", args.model, "--mmproj", mmproj)
        return _output(*native, "--image", image, "--warm", warm, *threads)


def _output(*command: str | Path) -> Figures:
    """The JSON object that a program prints last."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(mmproj: str, size: str, args: argparse.Namespace) -> None:
    """Prints the rows of one projector and one size."""
    results: dict[str, list[Figures]] = {engine: [] for engine in args.engines}
    for _ in range(args.rounds):
        for engine in args.engines:
            results[engine].append(run(engine, mmproj, size, args))
    for engine, found in results.items():
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        file = args.openvino_model if engine == "openvino" else mmproj
        print(
            f"| {Path(file).name} | {size} | {engine} | {middle['encode']:.2f} | "
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
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="default: all that are given")
    parser.add_argument("--peer-python", help="an interpreter with llama-cpp-python")
    parser.add_argument("--openvino-python", help="an interpreter with openvino-genai")
    parser.add_argument("--openvino-model", help="the folder of the exported model")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        width, height = (int(side) for side in args.sizes[0].split("x"))
        print(json.dumps(measure_ours(args, width, height)))
        return
    has_openvino = bool(args.openvino_python and args.openvino_model)
    args.engines = args.engines or [*ENGINES[:2], *(ENGINES[2:] if has_openvino else ())]
    if "openvino" in args.engines and not has_openvino:
        parser.error("openvino needs --openvino-python and --openvino-model")
    print("| projector | pixels | engine | encode s | first token s | CPU s | memory MiB |")
    print("|---|---|---|---|---|---|---|")
    for mmproj in args.mmproj:
        for size in args.sizes:
            compare(mmproj, size, args)


if __name__ == "__main__":
    main()
