"""`qwen35cpp info FILE`: what is in a GGUF file, without reading its weights."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound
from ._common import Commands, add_model_file, human_bytes, print_json

_LONGEST_VALUE = 100  # characters of a metadata value to show


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("info", parents=[common], help="show what a file holds")
    add_model_file(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from ..convert import info

    if not Path(args.model).exists():
        raise ModelNotFound(f"there is no file {args.model!r}")
    file = info(args.model)
    content: dict[str, Any] = {
        "architecture": file.architecture,
        "file_type": file.file_type,
        "file_bytes": file.file_bytes,
        "tensor_bytes": file.tensor_bytes,
        "parameters": file.parameters,
        "bits_per_weight": file.bits_per_weight,
        "metadata": file.metadata,
        "tensors": {
            name: {"count": count, "bytes": size}
            for name, (count, size) in sorted(file.types.items(), key=lambda item: -item[1][1])
        },
    }
    if file.architecture == "qwen35":
        content["model"] = _shape(args.model)
    if args.json:
        print_json(content)
    else:
        _print(content)
    return 0


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
    print(
        f"\n{content['parameters'] / 1e9:.3f} B parameters in "
        f"{human_bytes(content['tensor_bytes'])}, {content['bits_per_weight']:.2f} bits each"
    )
    model = content.get("model")
    if model:
        print(
            f"{model['n_layer']} layers, hidden size {model['n_embd']}, "
            f"{model['n_vocab']} tokens, context {model['n_ctx_train']}"
        )
