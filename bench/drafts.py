"""Decoding with drafts against plain decoding: what a round costs, how often drafts are right.

    python bench/drafts.py                                      # the model of the package, by skill
    python bench/drafts.py MODEL.gguf --impose .85,.70,.55      # random weights

Both kinds of decoding take turns. With --impose, draft i of a pass is taken for right with the
given probability, because random weights draft nothing that is right: everything is computed as
usual, only the verdict is drawn. --peer has llama.cpp's server take turns with the same file, plain
and with drafts of its own under the same chances. "extract, schema" holds the answers to the schema
that the prompt tells: what it leaves no choice about is then forced, and not drafted. On a busy
machine --threads 1 has the skills compared by CPU time. Speeds are tokens per second of decoding;
the parts are medians of means over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peer_server

from qwen35cpp import Llama
from qwen35cpp.types import DraftStatistics, Text

ROOT = Path(__file__).resolve().parent.parent
SKILLS = ("story", "chat", "passage", "extract", "extract, schema", "tools", "copy", "classify")


def statistics_of(llama: Llama) -> DraftStatistics:
    """What the session of a Llama has drafted."""
    return llama._engine.slots[0].draft_statistics()


def parts(before: DraftStatistics, after: DraftStatistics) -> str:
    """Milliseconds of the parts of a round, and how large the passes were."""
    passes = max(1, after.passes - before.passes)
    steps = after.steps - before.steps
    step = 1e3 * (after.step_seconds - before.step_seconds) / max(1, steps)
    rows = [
        f"{i + 1}: {1e3 * (after.row_seconds[i] - before.row_seconds[i]) / n:.2f} ms x{n}"
        for i in range(8)
        if (n := after.rows[i] - before.rows[i])
    ]
    drawn = after.drawn - before.drawn
    return (
        f"{drawn / passes:.2f} tokens a pass, {steps / passes:.2f} steps of {step:.2f} ms; "
        f"passes by rows {', '.join(rows)}"
    )


def impose(path: str, chances: Sequence[float], arguments: argparse.Namespace) -> None:
    """Full-size random weights with an imposed acceptance."""
    prompt = [(i * 7919) % 50_000 for i in range(1, arguments.depth + 1)]
    n_ctx = arguments.depth + arguments.tokens + 16
    options = {"n_ctx": n_ctx, "n_threads": arguments.threads, "prefix_cache": False}
    with (
        Llama(path, draft="off", **options) as plain,
        Llama(path, draft="mtp", **options) as mtp,
        contextlib.ExitStack() as stack,
    ):
        mtp._engine.slots[0].session.impose_acceptance(chances)
        speeds: dict[str, list[float]] = {"plain": [], "drafts": []}
        peers: dict[str, str] = {}
        if arguments.peer:
            given = ("--threads", str(plain.n_threads), "--ctx", str(n_ctx), "--parallel", "1")
            drafts = ("--drafts", arguments.impose)
            for name, more in (("llama.cpp", ()), ("llama.cpp drafts", drafts)):
                server = peer_server.serving(path, *given, *more)
                peers[name], _ = stack.enter_context(server)
                speeds[name] = []
        before = statistics_of(mtp)
        for round_ in range(arguments.rounds + 1):
            found: dict[str, float] = {}
            for name, llama in (("plain", plain), ("drafts", mtp)):
                text = llama.generate(
                    prompt, max_tokens=arguments.tokens + 1, temperature=0, ignore_eos=True
                )
                found[name] = arguments.tokens / text.timings.decode_seconds
            for name, url in peers.items():
                told = {"ignore_eos": True, "cache_prompt": False}
                answer = peer_server.complete(url, prompt, arguments.tokens + 1, **told)
                found[name] = answer["timings"]["predicted_per_second"]
            if round_:  # the first one learns
                for name, speed in found.items():
                    speeds[name].append(speed)
            else:
                before = statistics_of(mtp)
        middle = {name: statistics.median(values) for name, values in speeds.items()}
        ratios = [d / p for d, p in zip(speeds["drafts"], speeds["plain"], strict=True)]
        print(
            f"| {Path(path).stem} | {'/'.join(f'{c:.2f}' for c in chances)} "
            f"| {middle['plain']:.1f} | {middle['drafts']:.1f} | {statistics.median(ratios):.2f} |"
        )
        for name in peers:
            times = middle["drafts"] / middle[name]
            print(f"  {name}: {middle[name]:.1f} t/s, our drafts {times:.2f} times that")
        print(f"  {parts(before, statistics_of(mtp))}", flush=True)


def decode(llama: Llama, prompt: list[int], schema: Any, temperature: float) -> tuple[float, Text]:
    """Seconds from the first token to the last, of CPU time with one thread, and the text."""
    clock = time.process_time if llama.n_threads == 1 else time.perf_counter
    stream = llama.generate(
        prompt, schema=schema, max_tokens=150, temperature=temperature, seed=1, stream=True
    )
    next(stream, None)
    start = clock()
    text = stream.drain()
    return clock() - start, text


def told_schema(messages: Sequence[Mapping[str, Any]]) -> Any:
    """The schema that a prompt tells."""
    texts = [str(message["content"]) for message in messages]
    told = next(text for text in texts if "Schema: " in text).split("Schema: ")[1]
    return json.JSONDecoder().raw_decode(told)[0]


def skills(arguments: argparse.Namespace) -> None:
    """The trained model of the package: real acceptance and speed by skill."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import cases

    modes = ("off", "mtp", "lookup", "both")
    options = {"n_ctx": 2048, "n_threads": arguments.threads, "prefix_cache": False}
    llamas = {mode: Llama.tiny(draft=mode, **options) for mode in modes}
    print("| skill | tokens | " + " | ".join(f"{mode}: right, speed" for mode in modes[1:]) + " |")
    print("|---|---|" + "---|" * (len(modes) - 1))
    for skill in SKILLS:
        plain = llamas["off"]
        name, _, schemas = skill.partition(", ")
        if skill == "story":
            prompts = [
                (plain.tokenize(sample.text[:40]), None)
                for sample in cases.stories(arguments.count)
            ]
        else:
            samples = cases.SETS[name].cases(arguments.count)
            prompts = [
                (
                    list(plain.render_chat(sample.prompt, tools=sample.tools or None).ids),
                    told_schema(sample.prompt) if schemas else None,
                )
                for sample in samples
            ]
        seconds: dict[str, list[float]] = {mode: [] for mode in modes}
        drafted, accepted, made = dict.fromkeys(modes, 0), dict.fromkeys(modes, 0), 0
        for prompt, schema in prompts:
            for mode, llama in llamas.items():
                times = []
                for _ in range(arguments.rounds):
                    seconds_, text = decode(llama, prompt, schema, arguments.temperature)
                    times.append(seconds_)
                seconds[mode].append(min(times))
                drafted[mode] += text.timings.drafted_tokens
                accepted[mode] += text.timings.accepted_tokens
            made += len(text.tokens)
        cells = [
            f"{accepted[mode] / max(1, drafted[mode]):.0%} of {drafted[mode] / made:.2f}, "
            f"{sum(seconds['off']) / sum(seconds[mode]):.2f}x"
            for mode in modes[1:]
        ]
        print(f"| {skill} | {made} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", help="files with an MTP layer; none: by skill")
    parser.add_argument("--impose", default=".85,.70,.55", help="acceptance by position")
    parser.add_argument("--tokens", type=int, default=96, help="tokens generated")
    parser.add_argument("--depth", type=int, default=64, help="tokens before them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=12, help="prompts of a skill")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", action="store_true", help="llama.cpp's server beside it")
    arguments = parser.parse_args()
    if not arguments.models:
        skills(arguments)
        return
    chances = [float(part) for part in arguments.impose.split(",")]
    print("| file | acceptance | plain t/s | drafts t/s | ratio |\n|---|---|---|---|---|")
    for path in arguments.models:
        impose(path, chances, arguments)


if __name__ == "__main__":
    main()
