"""`qwen35cpp fit MODEL --ctx N`: how much memory a model will take, before it is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .. import _memory
from .._handles import Model
from .._header import Header
from .._lazy_tower import find_tower
from .._load import Estimate, Wanted, rope_factor, tower_shape
from ..errors import ModelNotFound
from ._common import (
    Commands,
    add_draft,
    add_kv,
    add_model,
    add_rope,
    human_bytes,
    positive,
    print_json,
    rope_scaling,
)

_PARTS = {
    "weights": "weights",
    "vision": "vision tower",
    "encoding": "scratch for a picture",
    "kv": "keys and values",
    "state": "recurrent state",
    "scratch": "scratch",
    "cache": "prefix cache, at most",
    "pictures": "kept pictures, at most",
    "process": "process and vocabulary",
}


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("fit", parents=[common], help="how much memory a model takes")
    add_model(parser)
    parser.add_argument(
        "-c", "--ctx", type=positive, metavar="N", help="tokens of context (default: the native)"
    )
    parser.add_argument(
        "--parallel", type=positive, default=1, metavar="N", help="contexts in use at once"
    )
    parser.add_argument("--mmproj", metavar="FILE", help="the vision tower (default: looked for)")
    add_kv(parser)
    add_rope(parser)
    add_draft(parser, "auto")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    if not Path(args.model).exists():
        raise ModelNotFound(f"there is no file {args.model!r}")
    path, mmproj = Path(args.model), None if args.mmproj is None else Path(args.mmproj)
    tower = tower_shape(lambda: find_tower(path, mmproj))
    header = Header.read(os.fsencode(path))
    wanted = Wanted(n_threads=args.threads, n_parallel=args.parallel, draft=args.draft)
    factor = rope_factor(rope_scaling(args))
    model = Model(os.fsencode(path), vocab_only=1, rope_factor=factor)
    try:
        estimate = Estimate(model, header, tower, wanted)
        n_ctx = args.ctx or model.info.n_ctx_train
        exact = "f32" if header.float32 else "f16"
        needs = estimate.needs(exact if args.kv == "auto" else args.kv, n_ctx)
        others = [estimate.needs(kind, n_ctx) for kind in _memory.KV_CHOICES]
    finally:
        model.close()
    total, available = _memory.memory()
    # What this process has already counts as available.
    available += needs.process
    fits = needs.total <= available
    smaller = {} if fits else _choices([needs, *others], available)
    if args.json:
        report = {**asdict(needs), "total": needs.total, "available": available, "fits": fits}
        print_json({**report, "choices": smaller})
        return 0
    print(f"{Path(args.model).name}, {needs.n_ctx} tokens, keys and values as {needs.kv_type}:\n")
    for field, name in _PARTS.items():
        size = getattr(needs, field)
        if size:
            print(f"  {name:24} {human_bytes(size):>10}")
    print(f"  {'together':24} {human_bytes(needs.total):>10}")
    print(f"\n{human_bytes(available)} available of {human_bytes(total)}: ", end="")
    print("it fits" if fits else "it does not fit")
    for kind, n_ctx in smaller.items():
        print(f"  --kv {kind} --ctx {n_ctx} would" if n_ctx else f"  --kv {kind}: no context fits")
    return 0


def _choices(needs: Sequence[_memory.Needs], have: int) -> dict[str, int]:
    """For each way to store keys and values, the longest context that fits."""
    return {each.kv_type: _memory.largest_context(each, have) for each in needs}
