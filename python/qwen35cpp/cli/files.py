"""`convert`, `quantize` and `verify`: commands on model files, done by qwen35cpp.convert."""

from __future__ import annotations

import argparse
from typing import Any

from ._common import Commands, Progress, add_model_file, print_json

_PROBLEMS = 1  # the exit code of `verify` when it finds any

_TYPE_HELP = "such as q4_k_m, q8_0, bf16 or f16"
_VISION_HELP = "of the vision tower's matrices: f32, f16, bf16 or q8_0"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the three commands."""
    convert = commands.add_parser(
        "convert", parents=[common], help="make a GGUF file of a Hugging Face checkpoint"
    )
    convert.add_argument("source", metavar="FOLDER", help="config.json, tokenizer and safetensors")
    convert.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    convert.add_argument("--type", required=True, metavar="TYPE", help=_TYPE_HELP)
    convert.add_argument(
        "--vision",
        choices=("separate", "embed", "none"),
        default="separate",
        help="where the vision tower goes (default: a file of its own beside the model)",
    )
    convert.add_argument(
        "--vision-type",
        metavar="TYPE",
        help=f"{_VISION_HELP} (default: f16, or TYPE itself if it is a float type)",
    )
    convert.add_argument(
        "--no-mtp", action="store_true", help="leave out the multi-token-prediction layer"
    )
    convert.set_defaults(run=run_convert)

    quantize = commands.add_parser(
        "quantize", parents=[common], help="change the tensor types of a GGUF file"
    )
    quantize.add_argument("source", metavar="IN", help="a GGUF file, best in F32, BF16 or F16")
    quantize.add_argument("output", metavar="OUT", help="the file to write")
    quantize.add_argument("type", metavar="TYPE", help=_TYPE_HELP)
    quantize.add_argument(
        "--vision-type", metavar="TYPE", help=f"{_VISION_HELP} (default: as they are)"
    )
    quantize.add_argument("--imatrix", metavar="FILE", help="importance of the columns")
    quantize.add_argument(
        "--allow-requantize", action="store_true", help="accept a file of less than 8 bits"
    )
    quantize.set_defaults(run=run_quantize)

    verify = commands.add_parser("verify", parents=[common], help="check a GGUF file")
    add_model_file(verify)
    verify.set_defaults(run=run_verify)


def run_convert(args: argparse.Namespace) -> int:
    """Converts a checkpoint."""
    from ..convert import convert

    progress = Progress("converting", quiet=args.quiet)
    result = convert(
        args.source,
        args.output,
        args.type,
        vision=args.vision,
        vision_type=args.vision_type,
        mtp=not args.no_mtp,
        progress=progress,
    )
    return _written(args, progress, result)


def run_quantize(args: argparse.Namespace) -> int:
    """Requantises a file."""
    from ..convert import quantize

    progress = Progress("quantising", quiet=args.quiet)
    result = quantize(
        args.source,
        args.output,
        args.type,
        vision_type=args.vision_type,
        imatrix=args.imatrix,
        allow_requantize=args.allow_requantize,
        progress=progress,
    )
    return _written(args, progress, result)


def _written(args: argparse.Namespace, progress: Progress, result: Any) -> int:
    progress.clear()
    paths = [str(path) for path in result.paths]
    if args.json:
        print_json({"paths": paths, "type": result.file_type.name, "bytes": result.file_bytes})
    else:
        print("\n".join(paths))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Lists the problems of a file; fails when there are any."""
    from ..convert import verify

    problems = verify(args.model)
    if args.json:
        print_json({"file": args.model, "problems": problems})
    else:
        print("\n".join(problems) or f"{args.model}: no problems found")
    return _PROBLEMS if problems else 0
