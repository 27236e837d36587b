"""`qwen35cpp embed MODEL [FILE ...]`: vectors of texts, one for each line or each file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, InvalidArgument
from ._common import (
    Commands,
    Progress,
    add_kv,
    add_limit,
    add_model,
    open_llama,
    positive,
    print_json,
)
from ._files import replacing

if TYPE_CHECKING:
    from ..llama import Llama

_AT_ONCE = 64  # texts between two lines of output


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("embed", parents=[common], help="make vectors of texts")
    add_model(parser)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="text files; - or none reads standard input"
    )
    parser.add_argument(
        "--whole", action="store_true", help="a file is one text (default: each line is one)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write float32 [texts, hidden size] as .npy"
    )
    parser.add_argument(
        "--pooling", choices=("mean", "last"), default="mean", help="over the tokens of a text"
    )
    parser.add_argument(
        "--no-normalize", action="store_true", help="leave vectors as long as they are"
    )
    parser.add_argument(
        "--truncate", action="store_true", help="cut texts that the context does not hold"
    )
    parser.add_argument("-c", "--ctx", type=positive, metavar="N", help="tokens of context")
    add_kv(parser)
    add_limit(parser)
    parser.set_defaults(run=run, mmproj=None, cache_dir=None, draft="off")


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    texts = _texts(args.files or ["-"], args.whole)
    if not texts:
        raise InvalidArgument("there is no text to embed")
    with open_llama(args) as llama:
        if args.output is None and not args.json:
            _print_lines(llama, texts, args)
            return 0
        progress = Progress("embedding", quiet=args.quiet)
        vectors = llama.embed(texts, **_options(args), progress=progress)
        progress.clear()
        if args.output is not None:
            import numpy as np

            with replacing(Path(args.output), text=False) as file:
                np.save(file, vectors)
            if args.json:
                print_json({"file": args.output, "shape": list(vectors.shape)})
            elif not args.quiet:
                print(f"{len(texts)} vectors in {args.output}", file=sys.stderr)
            return 0
        data = [
            {"index": index, "text": text, "embedding": vector.tolist()}
            for index, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        print_json({"model": llama.model_path, "data": data})
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "pooling": args.pooling,
        "normalize": not args.no_normalize,
        "truncate": args.truncate,
    }


def _print_lines(llama: Llama, texts: list[str], args: argparse.Namespace) -> None:
    """A line of JSON for each text, as they are made."""
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        for text, vector in zip(part, llama.embed(part, **_options(args)), strict=True):
            line = {"text": text, "embedding": vector.tolist()}
            print(json.dumps(line, ensure_ascii=False), flush=True)


def _texts(files: list[str], whole: bool) -> list[str]:
    """The texts of all files; empty lines are none."""
    texts: list[str] = []
    for name in files:
        try:
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise FileError(f"cannot read {name}: {error.strerror or error}") from error
        text = data.decode("utf-8-sig", "replace")
        texts += [text] if whole else [line.rstrip("\r") for line in text.split("\n")]
    return [text for text in texts if text.strip()]
