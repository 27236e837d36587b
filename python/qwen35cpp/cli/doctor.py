"""`qwen35cpp doctor`: what this computer offers and which models fit into its memory."""

from __future__ import annotations

import argparse
import os
import platform
import re
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _native
from .._handles import Model, Tensor
from .._header import Header
from .._load import Estimate, Wanted
from .._memory import KV_CHOICES, largest_context, memory, resident
from ._common import Commands, human_bytes, print_json

if TYPE_CHECKING:
    from ..convert.metadata import Metadata

_CONTEXT = 8192  # tokens in the estimate
_TYPES = ("Q4_K_M", "Q8_0", "BF16")  # of files
_FOR_DEVELOPERS = {"test", "reference", "dev"}  # extras that give users no feature


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("doctor", parents=[common], help="check this computer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    estimators = _estimators()
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
        "models": {size: each.models() for size, each in estimators.items()},
        "contexts": {size: each.contexts(available) for size, each in estimators.items()},
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


class _Estimator:
    """What `fit` says about a file of a published size, which need not be here."""

    def __init__(self, size: str, folder: Path, words: Metadata, process: int) -> None:
        """`words`: metadata of a vocabulary; `process`: bytes of an interpreter without a model."""
        from ..convert import published

        path = folder / size
        published.write_header(path, size, words)
        before = resident()
        model = Model(bytes(path), vocab_only=1)
        process += resident() - before
        try:
            made = Estimate(model, _header(size, _TYPES[0]), None, Wanted(), process)
            self._native = {kind: made.needs(kind, model.info.n_ctx_train) for kind in KV_CHOICES}
        finally:
            model.close()
        self._weights = {kind: _header(size, kind).weights for kind in _TYPES}

    def models(self) -> dict[str, int]:
        """Bytes with a context of usual length, by the type of the file."""
        needs = self._native["f16"].with_context(_CONTEXT)
        return {
            kind: replace(needs, weights=weights, cache=0).total
            for kind, weights in self._weights.items()
        }

    def contexts(self, available: int) -> dict[str, int]:
        """The longest context of a Q4_K_M file in this memory, by the type of the cache."""
        return {
            kind: largest_context(replace(needs, cache=0), available)
            for kind, needs in self._native.items()
        }


def _header(size: str, kind: str) -> Header:
    """The header of a file, from the shapes of its tensors."""
    from ..convert import published
    from ..convert.ggml_types import FileType

    tensors = [
        Tensor(spec.name, spec.type, _four(spec.ne), spec.bytes)
        for spec in published.tensors(size, FileType[kind])
    ]
    return Header.of(tensors, {})


def _four(ne: Sequence[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = (*ne, 1, 1, 1)[:4]
    return first, second, third, fourth


def _estimators() -> dict[str, _Estimator]:
    process = resident()  # before the converter is imported
    from ..convert import published

    words = published.placeholder_tokenizer().metadata()
    with tempfile.TemporaryDirectory() as folder:
        return {
            size.upper(): _Estimator(size, Path(folder), words, process) for size in published.SIZES
        }


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
