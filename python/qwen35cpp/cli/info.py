"""`qwen35cpp info FILE`: what is in a GGUF file, without reading its weights."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound
from ._common import Commands, human_bytes, print_json

_LONGEST_VALUE = 100  # characters of a metadata value to show


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("info", parents=[common], help="show what a file holds")
    parser.add_argument("model", metavar="FILE", help="a GGUF file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from ..convert._engine import GgufFile

    if not Path(args.model).exists():
        raise ModelNotFound(f"there is no file {args.model!r}")
    with GgufFile(Path(args.model)) as file:
        metadata = {
            key: value.decode() if value.type.name != "ARRAY" or value.count <= 16 else
            f"{value.count} values"
            for key, value in file.metadata.items()
        }  # fmt: skip
        types = _types(file.tensors)
    content: dict[str, Any] = {"metadata": metadata, "tensors": types}
    if metadata.get("general.architecture") == "qwen35":
        content["model"] = _shape(args.model)
    if args.json:
        print_json(content)
    else:
        _print(content)
    return 0


def _types(tensors: list[Any]) -> dict[str, dict[str, int]]:
    """Number, values and bytes of the tensors of each type, most bytes first."""
    from .._native import type_name

    types: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        entry = types.setdefault(type_name(tensor.type), {"count": 0, "values": 0, "bytes": 0})
        entry["count"] += 1
        entry["values"] += tensor.elements
        entry["bytes"] += tensor.bytes
    return dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))


def _shape(path: str) -> dict[str, Any]:
    from ..llama import Llama

    with Llama(path, vocab_only=True) as llama:
        return dataclasses.asdict(llama.info)


def _print(content: dict[str, Any]) -> None:
    for key, value in content["metadata"].items():
        text = " ".join(str(value).split())
        print(f"{key:44} {text[:_LONGEST_VALUE]}{'...' if len(text) > _LONGEST_VALUE else ''}")
    print()
    for name, entry in content["tensors"].items():
        print(f"{entry['count']:5} tensors of {name:8} {human_bytes(entry['bytes']):>10}")
    model = content.get("model")
    if model:
        print(
            f"\n{model['n_params'] / 1e9:.3f} B text parameters, {model['n_layer']} layers, "
            f"hidden size {model['n_embd']}, {model['n_vocab']} tokens, "
            f"context {model['n_ctx_train']}"
        )
