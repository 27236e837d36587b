"""`qwen35cpp fit MODEL --ctx N`: how much memory a model will take, before it is loaded."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from .. import _memory
from ..errors import ModelNotFound
from ._common import Commands, add_kv, add_model, human_bytes, positive, print_json

_PARTS = {
    "weights": "weights",
    "vision": "vision tower",
    "kv": "keys and values",
    "state": "recurrent state",
    "scratch": "scratch",
    "cache": "prefix cache, at most",
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
    parser.add_argument("--mmproj", metavar="FILE", help="the vision tower")
    add_kv(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    if not Path(args.model).exists():
        raise ModelNotFound(f"there is no file {args.model!r}")
    needs = estimate(args, args.kv)
    total, available = _memory.memory()
    # What this process has already counts as available.
    available += needs.process
    fits = needs.total <= available
    smaller = {} if fits else _choices(args, needs, available)
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


def estimate(args: argparse.Namespace, kv_type: str) -> _memory.Needs:
    """The memory of the model that the arguments describe."""
    from .._handles import DRAFTS, KV_TYPES, Model
    from .._load import draft_sources

    model = Model(os.fsencode(args.model), vocab_only=1)
    try:
        n_ctx = args.ctx or model.info.n_ctx_train
        process = _memory.resident()
        draft = DRAFTS[draft_sources("auto", model.info)]
        sizes = model.estimate(args.threads, n_ctx=n_ctx, kv_type=KV_TYPES[kv_type], draft=draft)
    finally:
        model.close()
    from ..convert import info  # behind the measurement: it is not part of a process that generates

    return _memory.Needs(
        n_ctx=n_ctx,
        kv_type="f16" if kv_type == "auto" else kv_type,
        weights=info(args.model).tensor_bytes,
        kv=sizes.kv * args.parallel,
        state=sizes.state * args.parallel,
        scratch=sizes.scratch,
        vision=info(args.mmproj).tensor_bytes if args.mmproj else 0,
        cache=_memory.default_cache(n_ctx, sizes.state),
        process=process,
    )


def _choices(args: argparse.Namespace, needs: _memory.Needs, have: int) -> dict[str, int]:
    """For each smaller way to store keys and values, the longest context that fits."""
    found = {needs.kv_type: _memory.largest_context(needs, have)}
    for kind in _memory.KV_CHOICES:
        if kind not in found:
            found[kind] = _memory.largest_context(estimate(args, kind), have)
    return found
