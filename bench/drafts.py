"""Decoding with drafts against plain decoding: what a round costs, how often drafts are right.

    python bench/drafts.py                                      # the model of the package, by skill
    python bench/drafts.py 0.8b-mtp.gguf 2b-mtp.gguf --impose .85,.70,.55 .55,.40,.30 --peer
        [--peer-python PEER/bin/python]                         # random weights
    python bench/drafts.py 2b-mtp.gguf --roll-back              # what taking drafts back costs

All ways of decoding take turns. With --impose, the first 1, 2, .. drafts of a pass are all right as
often as the rates say, because random weights draft nothing that is right: everything is computed
as usual, only the verdict is drawn. --peer has llama.cpp's server take turns with the same file,
plain and with drafts of its own at the same rates (its --spec-synth-rates); --peer-python a
llama.cpp that was built for the machine (peer_native.py), plain. On a busy machine --threads 1 has
the skills compared by CPU time; "off again" differs from 1 by nothing but noise. Speeds are tokens
per second of decoding. Files come from `synthetic.py 2b q4_k_m --mtp`; the estimate for two files,
two rates and both peers is seven minutes. "extract, schema" holds the answers to the schema that
the prompt tells: what it leaves no choice about is then forced, and not drafted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import peer_server

from qwen35cpp import Llama, _handles
from qwen35cpp.types import DraftStatistics, ModelInfo, Text

ROOT = Path(__file__).resolve().parent.parent
SKILLS = ("story", "chat", "passage", "extract", "extract, schema", "tools", "copy")


@dataclass
class Speeds:
    """Tokens/s of every way to decode, a value for each round."""

    rounds: dict[str, list[float]]

    def middle(self, name: str) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds[name])

    def ratio(self, *others: str) -> float:
        """How many times as fast as the fastest of others our drafts are, rounds compared."""
        best = [max(values) for values in zip(*(self.rounds[o] for o in others), strict=True)]
        return statistics.median(d / o for d, o in zip(self.rounds[DRAFTS], best, strict=True))


PLAIN, DRAFTS, PEER, PEER_DRAFTS, PEER_NATIVE = (
    "plain", "drafts", "llama.cpp", "llama.cpp drafts", "llama.cpp built here",
)  # fmt: skip


def conditional(rates: str) -> list[float]:
    """The chance of each draft when those before it were right.

    rates: ".85,.70,.55": how often a pass has its first 1, 2, .. drafts right, as llama.cpp's
    --spec-synth-rates are meant. Such passes give 1 + .85 + .70 + .55 tokens.
    """
    values = [float(rate) for rate in rates.split(",")]
    if not all(1 >= a >= b > 0 for a, b in pairwise([1.0, *values])):
        raise SystemExit(f"{rates}: expected rates from 1 to 0 that do not rise")
    return [rate / before for before, rate in pairwise([1.0, *values])]


def statistics_of(llama: Llama) -> DraftStatistics:
    """What the session of a Llama has drafted."""
    return llama._engine.slots[0].draft_statistics()


def parts(before: DraftStatistics, after: DraftStatistics, seconds: float) -> list[str]:
    """Rows of a table: what a round consists of. seconds: of all the rounds between the two."""
    passes = max(1, after.passes - before.passes)
    steps = after.steps - before.steps
    in_steps = after.step_seconds - before.step_seconds
    in_passes = after.pass_seconds - before.pass_seconds
    rows = [("step of the MTP layer with its head", steps, in_steps)]
    for i in range(8):
        n, spent = after.rows[i] - before.rows[i], after.row_seconds[i] - before.row_seconds[i]
        rows.append((f"pass of {i + 1} rows", n, spent))
    rows.append(("sampling, lookups, Python", passes, seconds - in_steps - in_passes))
    drawn = after.drawn - before.drawn
    return [
        f"A round gives {drawn / passes:.2f} tokens and takes {1e3 * seconds / passes:.1f} ms:\n",
        "| part | in a round | ms each | share of the time |\n|---|---:|---:|---:|",
        *(
            f"| {name} | {n / passes:.2f} | {1e3 * spent / n:.2f} | {spent / seconds:.0%} |"
            for name, n, spent in rows
            if n
        ),
    ]


def some_ids(n: int, info: ModelInfo) -> list[int]:
    """Some ids of a vocabulary, n of them."""
    return [i * 7919 % min(50_000, info.n_vocab) for i in range(1, n + 1)]


def impose(path: str, rates: str, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """Full-size random weights with an imposed acceptance: a row of the table, and the parts."""
    n_ctx = arguments.depth + arguments.tokens + 16
    options = {"n_ctx": n_ctx, "n_threads": arguments.threads, "prefix_cache": False}
    with (
        Llama(path, draft="off", **options) as plain,
        Llama(path, draft="mtp", **options) as mtp,
        contextlib.ExitStack() as stack,
    ):
        prompt = some_ids(arguments.depth, mtp.info)
        mtp._engine.slots[0].session.impose_acceptance(conditional(rates))
        peers: dict[str, str] = {}
        if arguments.peer:
            given = ("--threads", str(plain.n_threads), "--ctx", str(n_ctx), "--parallel", "1")
            for name, more in ((PEER, ()), (PEER_DRAFTS, ("--drafts", rates))):
                server = peer_server.serving(path, *given, *more)
                peers[name], _ = stack.enter_context(server)
        names = [PLAIN, DRAFTS, *peers, *([PEER_NATIVE] if arguments.peer_python else [])]
        speeds = Speeds({name: [] for name in names})
        before, seconds = statistics_of(mtp), 0.0
        for round_ in range(arguments.rounds + 1):
            found: dict[str, float] = {}
            for name, llama in ((PLAIN, plain), (DRAFTS, mtp)):
                text = llama.generate(
                    prompt, max_tokens=arguments.tokens + 1, temperature=0, ignore_eos=True
                )
                found[name] = arguments.tokens / text.timings.decode_seconds
            seconds += text.timings.decode_seconds
            for name, url in peers.items():
                told = {"ignore_eos": True, "cache_prompt": False}
                answer = peer_server.complete(url, prompt, arguments.tokens + 1, **told)
                found[name] = answer["timings"]["predicted_per_second"]
            if arguments.peer_python:
                found[PEER_NATIVE] = native(path, plain.n_threads, arguments)
            if round_:  # the first one learns
                for name, speed in found.items():
                    speeds.rounds[name].append(speed)
            else:
                before, seconds = statistics_of(mtp), 0.0
        others = [name for name in names if name not in (PLAIN, DRAFTS)]
        cells = [Path(path).stem, "/".join(rates.split(","))]
        cells += [f"{speeds.middle(name):.1f}" for name in (PLAIN, DRAFTS)]
        cells.append(f"{speeds.ratio(PLAIN):.2f}")
        cells += [f"{speeds.middle(name):.1f}" for name in others]
        if others:
            cells.append(f"{speeds.ratio(*others):.2f}")
        return f"| {' | '.join(cells)} |", parts(before, statistics_of(mtp), seconds)


def native(path: str, threads: int, arguments: argparse.Namespace) -> float:
    """Tokens/s of plain decoding of llama.cpp in the environment of --peer-python."""
    command = [arguments.peer_python, str(ROOT / "bench" / "peer_native.py"), path, "--threads",
               str(threads), "--prompt", str(arguments.depth), "--new",
               str(arguments.tokens)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["decode"])


def imposed(arguments: argparse.Namespace) -> None:
    """The table of all files and rates, and then what the rounds of each consist of."""
    peers = [PEER, PEER_DRAFTS] if arguments.peer else []
    peers += [PEER_NATIVE] if arguments.peer_python else []
    columns = ["plain t/s", "drafts t/s", "ratio", *peers, *(["drafts / best peer"] * bool(peers))]
    print(f"| file | acceptance | {' | '.join(columns)} |")
    print("|---|---|" + "---:|" * len(columns), flush=True)
    details = []
    for path in arguments.models:
        for rates in arguments.impose:
            row, rows = impose(path, rates, arguments)
            print(row, flush=True)
            details.append("\n".join([f"\n{Path(path).stem}, {rates}. {rows[0]}", *rows[1:]]))
    print("\n".join(details))


def roll_back(path: str, arguments: argparse.Namespace) -> None:
    """Passes whose drafts are all wrong or all right, and copies of the state beside them.

    After right drafts the next pass applies their log to the recurrent state; without a log the
    state would be copied before every pass, and back where a draft was wrong.
    """
    model = _handles.Model(path.encode(), n_threads=arguments.threads)
    greedy = _handles.Sampler(
        model, _handles.Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={}
    )
    always = _handles.DRAFTS["mtp"] | _handles.lib.QWEN35_DRAFT_ALWAYS
    session = _handles.Session(model, n_ctx=arguments.depth + 4096, draft=always)
    prompt = some_ids(arguments.depth, model.info)
    print(f"\n{Path(path).stem}, ms of a pass:\n")
    print("| drafts | all wrong | all right | applying the log |")
    print("|---:|---:|---:|---:|")
    for n in (1, 2, 3, 5, 7):
        found: dict[float, list[float]] = {0.0: [], 1.0: []}
        for chance in (0.0, 1.0) * 4:  # in turns: the machine's pace drifts by more
            session.reset()
            session.impose_acceptance([chance] * n)
            session.eval(prompt)
            token, times = 5, []
            for _ in range(arguments.tokens // (n + 1) + 4):
                before = session.draft_statistics()
                token = session.decode([token], greedy, (), n + 1)[-1][0]
                after = session.draft_statistics()
                times.append(after.pass_seconds - before.pass_seconds)
            found[chance].append(1e3 * statistics.median(sorted(times)[: len(times) // 2]))
        wrong, right = (statistics.median(values) for values in found.values())
        print(f"| {n} | {wrong:.2f} | {right:.2f} | {right - wrong:+.2f} |", flush=True)
    snapshot, copies = session.snapshot(), []
    for _ in range(20):
        start = time.perf_counter()
        session.restore(snapshot)
        copies.append(time.perf_counter() - start)
    print(
        f"\nA copy of the state ({session.state_bytes / 1e6:.0f} MB): {1e3 * min(copies):.2f} ms."
    )
    session.close()
    model.close()


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


MODES = {"off": "off", "off again": "off", "mtp": "mtp", "lookup": "lookup", "both": "both"}


@dataclass
class Skill:
    """What the modes took for the prompts of a skill, and what they drafted."""

    tokens: int
    seconds: dict[str, float]  # the best of the rounds, summed over the prompts
    drafted: dict[str, float]  # a token
    right: dict[str, float]  # of what was drafted


def measure_skills(arguments: argparse.Namespace, turn: int) -> dict[str, Skill]:
    """Every skill once by every mode, in turns. turn: which mode loads and decodes first"""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import cases

    modes = [*MODES][turn % len(MODES) :] + [*MODES][: turn % len(MODES)]
    options = {"n_ctx": 2048, "n_threads": arguments.threads, "prefix_cache": False}
    llamas = {mode: Llama.tiny(draft=MODES[mode], **options) for mode in modes}
    found = {}
    for skill in arguments.skills:
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
        seconds = dict.fromkeys(modes, 0.0)
        drafted, accepted, made = dict.fromkeys(modes, 0), dict.fromkeys(modes, 0), 0
        for prompt, schema in prompts:
            times: dict[str, list[float]] = {mode: [] for mode in modes}
            for _ in range(arguments.rounds):
                for mode, llama in llamas.items():
                    took, text = decode(llama, prompt, schema, arguments.temperature)
                    times[mode].append(took)
                    drafted[mode] += text.timings.drafted_tokens
                    accepted[mode] += text.timings.accepted_tokens
            for mode in modes:
                seconds[mode] += min(times[mode])
            made += len(text.tokens)
        found[skill] = Skill(
            made,
            seconds,
            {mode: drafted[mode] / made / arguments.rounds for mode in modes},
            {mode: accepted[mode] / max(1, drafted[mode]) for mode in modes},
        )
    return found


def skills(arguments: argparse.Namespace) -> None:
    """The trained model of the package: real acceptance and speed by skill.

    Two engines of one process differ by up to a tenth, by where their memory came to lie, so the
    ratios are medians over processes.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        turns = range(arguments.processes)
        runs = list(pool.map(measure_skills, [arguments] * len(turns), turns))
    names = [f"{mode}: right, speed" for mode in MODES if MODES[mode] != "off"]
    print(f"| skill | tokens | off again | {' | '.join(names)} |")
    print("|---|---:|---:|" + "---|" * len(names))
    for skill in arguments.skills:
        of_runs = [run[skill] for run in runs]
        cells = [skill, str(of_runs[0].tokens)]
        for mode, draft in [*MODES.items()][1:]:
            ratios = [run.seconds["off"] / run.seconds[mode] for run in of_runs]
            middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
            speed = f"{middle:.2f}x ({least:.2f}-{most:.2f})"
            right = statistics.median(run.right[mode] for run in of_runs)
            rate = statistics.median(run.drafted[mode] for run in of_runs)
            cells.append(speed if draft == "off" else f"{right:.0%} of {rate:.2f}, {speed}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", help="files with an MTP layer; none: by skill")
    parser.add_argument(
        "--impose", nargs="+", default=[".85,.70,.55"], metavar="RATES",
        help="how often the first 1, 2, .. drafts are right",
    )  # fmt: skip
    parser.add_argument("--roll-back", action="store_true", help="the cost of taking drafts back")
    parser.add_argument("--tokens", type=int, default=96, help="tokens generated")
    parser.add_argument("--depth", type=int, default=64, help="tokens before them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=12, help="prompts of a skill")
    parser.add_argument("--skills", nargs="+", default=SKILLS, choices=SKILLS, metavar="SKILL")
    parser.add_argument("--processes", type=int, default=5, help="that all skills are run in")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", action="store_true", help="llama.cpp's server beside it")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    arguments = parser.parse_args()
    if not arguments.models:
        skills(arguments)
        return
    if not arguments.roll_back:
        imposed(arguments)
        return
    for path in arguments.models:
        roll_back(path, arguments)


if __name__ == "__main__":
    main()
