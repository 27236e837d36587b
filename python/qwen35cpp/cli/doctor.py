"""`qwen35cpp doctor`: what this computer offers and which models fit into its memory."""

from __future__ import annotations

import argparse
import os
import platform
import re
import struct
from importlib import metadata
from typing import Any

from .. import _native
from .._memory import SMALLEST, memory
from ._common import Commands, human_bytes, print_json

# Tensor bytes without the multi-token-prediction layer, from the shapes of the four models.
_WEIGHTS = {
    "0.8B": {"Q4_K_M": 518_335_744, "Q8_0": 800_881_920, "BF16": 1_505_783_040},
    "2B": {"Q4_K_M": 1_263_435_008, "Q8_0": 2_001_050_880, "BF16": 3_764_747_520},
    "4B": {"Q4_K_M": 2_697_836_544, "Q8_0": 4_471_435_264, "BF16": 8_413_425_664},
    "9B": {"Q4_K_M": 5_618_141_184, "Q8_0": 9_516_533_760, "BF16": 17_909_729_280},
}
# Bytes of keys and values per token (f16) and of the recurrent state.
_CACHE = {"0.8B": (12_288, 20_201_472), "2B": (12_288, 20_201_472)}
_LARGE_CACHE = (32_768, 52_690_944)  # 4B, 9B
_CONTEXT = 8192  # tokens in the estimate
_NATIVE = 262_144  # the context that the models were trained for
# Bytes of 256 values in a cache of each type: f16; bytes and a scale; nibbles and a scale.
_CACHE_ROWS = {"f16": 512, "q8_0": 260, "iq4_nl": 132}
_FOR_DEVELOPERS = {"test", "reference", "dev"}  # extras that give users no feature
_WORKING = 200_000_000  # interpreter, vocabulary and scratch of a 512-token batch


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("doctor", parents=[common], help="check this computer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    total, available = memory()
    report: dict[str, Any] = {
        "version": _native.version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "bits": 8 * struct.calcsize("P"),
        "cpu": _native.system_info(),
        "usable_cores": _usable_cores(),
        "extras": extras(),
        "memory": {"total": total, "available": available},
        "models": {
            size: {kind: _need(size, kind) for kind in kinds} for size, kinds in _WEIGHTS.items()
        },
        "contexts": {
            size: {kv: _longest(size, kv, available) for kv in _CACHE_ROWS} for size in _WEIGHTS
        },
    }
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def extras() -> dict[str, bool]:
    """The optional features by the name of their extra, and whether their packages are here."""
    found: dict[str, bool] = {}
    try:
        requirements = metadata.requires("qwen35cpp") or []
    except metadata.PackageNotFoundError:  # a source tree on the path
        return found
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)[^;]*;.*extra == ['\"]([\w-]+)['\"]\)?", requirement)
        if match and match[2] not in _FOR_DEVELOPERS:
            found[match[2]] = found.get(match[2], True) and _installed(match[1])
    return dict(sorted(found.items()))


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _need(size: str, kind: str) -> int:
    per_token, state = _CACHE.get(size, _LARGE_CACHE)
    return _WEIGHTS[size][kind] + per_token * _CONTEXT + state + _WORKING


def _longest(size: str, kv: str, available: int) -> int:
    """The longest context of a Q4_K_M file in this memory, 0 when none of 512 tokens fits."""
    per_token, state = _CACHE.get(size, _LARGE_CACHE)
    left = available - _WEIGHTS[size]["Q4_K_M"] - state - _WORKING
    found = min(_NATIVE, left * _CACHE_ROWS["f16"] // (per_token * _CACHE_ROWS[kv]))
    return found if found >= SMALLEST else 0


def _print(report: dict[str, Any]) -> None:
    print(f"qwen35cpp {report['version']}, Python {report['python']}, {report['platform']}")
    cpu = report["cpu"]
    print(f"cpu       kernels {cpu.get('isa', '?')}, features {cpu.get('features', '?')}")
    print(f"cores     {cpu.get('cores', '?')} physical, {report['usable_cores']} usable")
    shown = [f"{name} {'+' if here else '-'}" for name, here in report["extras"].items()]
    if shown:
        print(f"extras    {', '.join(shown)} (+ installed; pip install 'qwen35cpp[NAME]')")
    total, available = report["memory"]["total"], report["memory"]["available"]
    print(f"memory    {human_bytes(available)} available of {human_bytes(total)}")
    print(f"\nmemory for a model with {_CONTEXT} tokens of context (+ fits now, - does not):\n")
    for size, kinds in report["models"].items():
        cells = [
            f"{kind} {human_bytes(need)} {'+' if need <= available else '-'}"
            for kind, need in kinds.items()
        ]
        print(f"  {size:5} " + "   ".join(f"{cell:20}" for cell in cells).rstrip())
    print("\nlongest context of a Q4_K_M file in it, by type of the cache (--kv):\n")
    for size, contexts in report["contexts"].items():
        cells = [f"{kv} {n_ctx:,}" if n_ctx else f"{kv} none" for kv, n_ctx in contexts.items()]
        print(f"  {size:5} " + "   ".join(f"{cell:20}" for cell in cells).rstrip())
    print("\nfor a file that is here: qwen35cpp fit MODEL --ctx N")
