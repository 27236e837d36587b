"""`qwen35cpp bench MODEL`: prompt and generation speed, and the memory they take."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._common import Commands, add_draft, add_kv, add_model, human_bytes, positive, print_json

if TYPE_CHECKING:
    from .._native import Machine
    from ..llama import Llama


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("bench", parents=[common], help="measure the speed")
    add_model(parser)
    parser.add_argument("-p", "--prompt", type=positive, default=512, metavar="N")
    parser.add_argument("-n", "--generate", type=positive, default=64, metavar="N")
    parser.add_argument("-d", "--depth", type=positive, metavar="N", help="generate after N tokens")
    parser.add_argument("-r", "--repeat", type=positive, default=3, metavar="N")
    add_kv(parser)
    add_draft(parser, "off")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Result:
    """One test: tokens per second of each repetition and what the median means."""

    test: str
    rates: list[float]
    gigabytes: float  # of weights read per second
    gigaops: float  # integer or float operations per second, two per multiply-accumulate
    drafted: int = 0  # drafts checked, in all repetitions
    accepted: int = 0  # drafts that were right

    @property
    def median(self) -> float:
        """The middle of the rates."""
        return _middle(self.rates)


def _middle(rates: list[float]) -> float:
    from statistics import median  # takes longer to import than the other commands altogether

    return median(rates)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from .._native import measure
    from ..llama import Llama

    depth = args.depth or 1
    n_ctx = max(args.prompt, depth + args.generate) + 1
    with Llama(
        args.model,
        n_threads=args.threads,
        n_ctx=n_ctx,
        kv_type=args.kv,
        prefix_cache=False,
        draft=args.draft,
    ) as llama:
        results = [
            _prefill(llama, args.prompt, args.repeat),
            _decode(llama, depth, args.generate, args.repeat),
        ]
        peak = peak_memory()
        limits = measure(llama.n_threads)
        if args.json:
            print_json(_as_json(llama, results, limits, peak))
        else:
            _print_table(llama, results, limits, peak)
    return 0


def _tokens(llama: Llama, n: int) -> list[int]:
    """Ordinary tokens, spread over the vocabulary so that embedding rows are not reused."""
    return [(i * 7919) % min(llama.n_vocab(), 50_000) for i in range(1, n + 1)]


def _prefill(llama: Llama, n: int, repeat: int) -> Result:
    tokens = _tokens(llama, n)
    rates = []
    for index in range(repeat + 1):
        text = llama.generate(tokens, max_tokens=1, temperature=0)
        if index:  # the first one touches the weights for the first time
            rates.append(n / text.timings.prefill_seconds)
    info = llama.info
    head = info.n_vocab * info.n_embd  # of the last token only
    per_token = info.step_macs - head * (1 - 1 / n)
    return Result(f"pp{n}", rates, 0.0, 2e-9 * per_token * _middle(rates))


def _decode(llama: Llama, depth: int, n: int, repeat: int) -> Result:
    tokens = _tokens(llama, depth)
    rates = []
    drafted = accepted = 0
    saved = llama._engine.model.head_statistics().bytes_saved
    for _ in range(repeat):
        # The first token is drawn from the prompt's logits: n steps give n + 1 tokens.
        text = llama.generate(tokens, max_tokens=n + 1, temperature=0, ignore_eos=True)
        rates.append(n / text.timings.decode_seconds)
        drafted += text.timings.drafted_tokens
        accepted += text.timings.accepted_tokens
    rate = _middle(rates)
    info = llama.info
    name = f"tg{n}" if depth == 1 else f"tg{n}@{depth}"
    # With drafts one reading of the weights gives several tokens.
    passes = rate * (1 - accepted / (repeat * n))
    saved = llama._engine.model.head_statistics().bytes_saved - saved
    bytes_ = info.step_bytes * passes - rate * saved / (repeat * n)
    macs = info.step_macs * passes
    return Result(name, rates, 1e-9 * bytes_, 2e-9 * macs, drafted, accepted)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; 0 where unknown."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _as_json(llama: Llama, results: list[Result], limits: Machine, peak: int) -> dict[str, Any]:
    return {
        "read_gigabytes_per_second": 1e-9 * limits.read_bytes_per_second,
        "int8_gigaops_per_second": 1e-9 * limits.int8_ops_per_second,
        "model": llama.model_path,
        "type": llama.info.matrix_type,
        "parameters": llama.info.n_params,
        "threads": llama.n_threads,
        "peak_memory": peak,
        "tests": [
            {
                "test": result.test,
                "tokens_per_second": result.median,
                "repetitions": result.rates,
                "gigabytes_per_second": result.gigabytes,
                "gigaops_per_second": result.gigaops,
                "drafted_tokens": result.drafted,
                "accepted_tokens": result.accepted,
            }
            for result in results
        ],
    }


def _print_table(llama: Llama, results: list[Result], limits: Machine, peak: int) -> None:
    info = llama.info
    read, int8 = 1e-9 * limits.read_bytes_per_second, 1e-9 * limits.int8_ops_per_second
    print(
        f"{llama.model_path}: {info.n_params / 1e9:.2f} B parameters, {info.matrix_type}, "
        f"{human_bytes(info.weight_bytes)}, {llama.n_threads} threads\n"
    )
    print("| test | tokens/s | spread | weights GB/s | of read limit | GOP/s | of int8 peak |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for result in results:
        spread = (max(result.rates) - min(result.rates)) / result.median
        reads = (
            f"{result.gigabytes:.1f} | {result.gigabytes / read:.0%}" if result.gigabytes else " | "
        )
        print(
            f"| {result.test} | {result.median:.2f} | {spread:.0%} | {reads} "
            f"| {result.gigaops:.1f} | {result.gigaops / int8:.0%} |"
        )
    for result in results:
        if result.drafted:
            print(f"\n{result.test}: {result.accepted} of {result.drafted} drafts right")
    print(f"\nread limit {read:.1f} GB/s, int8 peak {int8:.0f} GOP/s, both measured just now")
    print(f"peak memory {human_bytes(peak)}")
