"""Every figure of speed in one run: prefill, decode, a few tokens at once, depth, contention.

    python bench/speed.py 0.8b.gguf 2b.gguf --peer-python PEER/bin/python --csv a.csv --plot a.png

This engine and llama.cpp (peer_native.py in the environment of --peer-python) take turns, every
measurement in a process of its own; llama.cpp runs with OMP_WAIT_POLICY unset and active, the
better of the two is the peer. The limits of the machine are measured between the rounds. Prints a
Markdown table; the plot shows tokens/s against depth and needs matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS, PEER, PEER_ACTIVE = "ours", "llama.cpp", "llama.cpp active"
Result = dict[str, float]


@dataclass
class Row:
    """One line of the table; peer is the better of its settings, limit a share or nothing."""

    model: str
    test: str
    ours: float
    peer: float | None = None
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None


def measure_ours(path: str, depths: list[int], prompt: int, new: int, threads: int) -> None:
    """Prints a JSON object per depth, as peer_native.py does. Caches are filled, not read."""
    sys.path.insert(0, str(Path(__file__).parent))
    import deep

    from qwen35cpp import _handles

    model = _handles.Model(path.encode(), n_threads=threads)
    session = _handles.Session(model, n_ctx=max(depths) + prompt + new + 1)
    ids = [(7 * i + 11) % 100_000 for i in range(prompt)]
    session.eval(ids[:16])
    greedy = _handles.Sampler(
        model, _handles.Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={}
    )
    for depth in depths:
        spent = []
        for _ in range(2):
            session.reset()
            if depth:
                deep.fill(session, depth)
            start = time.perf_counter()
            session.eval(ids)
            spent.append(time.perf_counter() - start)
        token = session.decode((), greedy, (), 1)[0][0]
        saved = model.head_statistics().bytes_saved
        start = time.perf_counter()
        for _ in range(new):
            token = session.decode((token,), greedy, (), 1)[0][0]
        decode = time.perf_counter() - start
        saved = model.head_statistics().bytes_saved - saved
        found = {"depth": depth, "prefill": prompt / min(spent), "decode": new / decode}
        print(json.dumps({**found, "bytes": model.info.step_bytes - saved / new}))
    session.close()
    model.close()


class Runner:
    """Starts measurements."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments

    def engines(self) -> list[str]:
        return [OURS, PEER, PEER_ACTIVE] if self.arguments.peer_python else [OURS]

    def run(self, engine: str, path: str, depths: list[int], new: int) -> list[Result]:
        """The results of one process, a depth each."""
        env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if engine == PEER_ACTIVE:
            env["OMP_WAIT_POLICY"] = "active"
        if engine == OURS:
            command = [sys.executable, __file__, "--one"]
        else:
            command = [self.arguments.peer_python, str(ROOT / "bench" / "peer_native.py")]
        command += [
            path, "--depths", ",".join(map(str, depths)), "--prompt", str(self.arguments.prompt),
            "--new", str(new), "--threads", str(self.arguments.threads),
        ]  # fmt: skip
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{engine} on {path} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def limits(threads: int) -> tuple[float, float]:
    """Bytes read and int8 operations in a second, the machine's limits just now."""
    from qwen35cpp._native import measure

    machine = measure(threads)
    return machine.read_bytes_per_second, machine.int8_ops_per_second


def at_the_start(runner: Runner, path: str) -> Iterator[Row]:
    """Prefill and decode without depth, engines in turns."""
    from qwen35cpp import _handles

    arguments = runner.arguments
    found: dict[str, list[Result]] = {engine: [] for engine in runner.engines()}
    reads, ops = [], []
    for _ in range(arguments.rounds):
        read, int8 = limits(arguments.threads)
        reads.append(read)
        ops.append(int8)
        for engine in found:
            found[engine] += runner.run(engine, path, [0], arguments.new)
    model = _handles.Model(path.encode(), n_threads=arguments.threads)
    info = model.info
    model.close()
    name = Path(path).stem
    head = info.n_vocab * info.n_embd  # of the last token of a prompt only
    macs = info.step_macs - head * (1 - 1 / arguments.prompt)
    work = {
        "prefill": 2 * macs / statistics.median(ops),
        "decode": statistics.median(r["bytes"] for r in found[OURS]) / statistics.median(reads),
    }
    for what, label in (("prefill", f"pp{arguments.prompt}"), ("decode", f"tg{arguments.new}")):
        medians = {e: statistics.median(r[what] for r in rows) for e, rows in found.items()}
        ours = medians.pop(OURS)
        yield Row(name, label, ours, max(medians.values(), default=None), ours * work[what])


def few_tokens(runner: Runner, path: str) -> Iterator[Row]:
    """A step of several tokens relative to one."""
    import few_tokens as few

    from qwen35cpp import _handles

    model = _handles.Model(path.encode(), n_threads=runner.arguments.threads)
    best = few.shortest_steps(model, 40)
    model.close()
    for n in few.COUNTS[1:]:
        yield Row(Path(path).stem, f"step of {n} tokens, in steps of one", best[n] / best[1])


def at_depth(runner: Runner, path: str, rows: list[list[Any]]) -> Iterator[Row]:
    """Decode and prefill behind many tokens. Appends [model, engine, depth, decode, prefill]."""
    name, arguments = Path(path).stem, runner.arguments
    depths = [int(depth) for depth in arguments.depths.split(",") if depth]
    if not depths:
        return
    peer_depths = [d for d in depths if d <= arguments.peer_depth]
    found: dict[str, dict[int, Result]] = {}
    for engine in runner.engines():
        wanted = depths if engine == OURS else peer_depths
        # The peer has to read all the tokens, so only its better waiting policy could be told apart
        # at great cost: at depth it computes more than it waits.
        if engine == PEER_ACTIVE or not wanted:
            continue
        found[engine] = {int(r["depth"]): r for r in runner.run(engine, path, wanted, 16)}
        rows += [[name, engine, d, r["decode"], r["prefill"]] for d, r in found[engine].items()]
    for depth, ours in found[OURS].items():
        peer = found.get(PEER, {}).get(depth)
        for what, label in (("decode", "tg16"), ("prefill", f"pp{arguments.prompt}")):
            yield Row(name, f"{label} behind {depth:,}", ours[what], peer[what] if peer else None)


# Until whoever started it is gone.
COMPETITOR = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6): pass
"""


@contextmanager
def competitors(n: int) -> Iterator[None]:
    """Processes that do nothing but use a core."""
    busy = [subprocess.Popen([sys.executable, "-c", COMPETITOR]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def contended(runner: Runner, path: str) -> Iterator[Row]:
    """Decode with a busy competitor on every core, as a share of decode without."""
    engines = [engine for engine in runner.engines() if engine != PEER_ACTIVE]
    idle = {e: runner.run(e, path, [0], 32)[0]["decode"] for e in engines}
    with competitors(runner.arguments.threads):
        busy = {e: runner.run(e, path, [0], 32)[0]["decode"] for e in engines}
    share = {engine: busy[engine] / idle[engine] for engine in engines}
    yield Row(Path(path).stem, "decode kept beside busy cores", share[OURS], share.get(PEER))


def plot(path: str, rows: list[list[Any]]) -> None:
    """Tokens/s against depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for model in dict.fromkeys(row[0] for row in rows):
        for engine, style in ((OURS, "o-"), (PEER, "s--")):
            points = [(row[2], row[3]) for row in rows if row[0] == model and row[1] == engine]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=f"{model}, {engine}")
    axes.set_xlabel("tokens before the step")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def commit() -> str:
    """The commit at hand, with a mark when files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def show(rows: list[Row]) -> None:
    """The Markdown table."""
    print("| file | test | ours | llama.cpp | ratio | of limit |")
    print("|---|---|---:|---:|---:|---:|")
    for row in rows:
        peer = f"{row.peer:.2f}" if row.peer else ""
        ratio = f"{row.ratio:.2f}" if row.ratio else ""
        limit = f"{row.limit:.0%}" if row.limit else ""
        print(f"| {row.model} | {row.test} | {row.ours:.2f} | {peer} | {ratio} | {limit} |")


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--depths", default="2048,8192,16384,32768,131072")
    parser.add_argument("--peer-depth", type=int, default=8192, help="deepest for the peer")
    parser.add_argument("--csv", help="where to write all rows")
    parser.add_argument("--plot", help="where to write tokens/s against depth, a PNG")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        depths = [int(depth) for depth in arguments.depths.split(",")]
        (path,) = arguments.models
        measure_ours(path, depths, arguments.prompt, arguments.new, arguments.threads)
        return
    sys.path.insert(0, str(Path(__file__).parent))
    runner = Runner(arguments)
    rows: list[Row] = []
    by_depth: list[list[Any]] = []
    for path in arguments.models:
        rows += at_the_start(runner, path)
        rows += few_tokens(runner, path)
        rows += contended(runner, path)
        rows += at_depth(runner, path, by_depth)
    read, int8 = limits(arguments.threads)
    print(
        f"commit {commit()}, {platform.machine()}, {arguments.threads} threads; "
        f"read limit {read / 1e9:.1f} GB/s, int8 peak {int8 / 1e9:.0f} GOP/s\n"
    )
    show(rows)
    if arguments.csv:
        with Path(arguments.csv).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "test", "ours", "llama.cpp", "ratio", "of_limit"])
            for row in rows:
                writer.writerow([row.model, row.test, row.ours, row.peer, row.ratio, row.limit])
    if arguments.plot:
        plot(arguments.plot, by_depth)


if __name__ == "__main__":
    main()
