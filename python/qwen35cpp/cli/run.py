"""`qwen35cpp run MODEL [PROMPT]`: continues a prompt and streams the text."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import Any

from ..errors import InvalidArgument
from ..types import Text
from ._common import Commands, Progress, add_kv, add_model, positive, print_json


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("run", parents=[common], help="continue a prompt")
    add_model(parser)
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="the text; - or nothing reads standard input"
    )
    parser.add_argument("-n", "--max-tokens", type=positive, metavar="N", help="tokens at most")
    parser.add_argument("--temp", type=float, metavar="T", help="temperature; 0 is greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="0 is off")
    parser.add_argument("--top-p", type=float, metavar="P", help="1 is off")
    parser.add_argument("--min-p", type=float, metavar="P", help="0 is off")
    parser.add_argument("--presence-penalty", type=float, metavar="X")
    parser.add_argument("--frequency-penalty", type=float, metavar="X")
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help="1 is off")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed, the same text")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the text here")
    parser.add_argument("-c", "--ctx", type=positive, metavar="N", help="tokens of context")
    parser.add_argument("--logprobs", type=int, metavar="N", help="with --json: N alternatives")
    parser.add_argument(
        "--special", action="store_true", help="recognise control tokens in the prompt"
    )
    parser.add_argument("--stats", action="store_true", help="figures on standard error")
    add_kv(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from ..llama import Llama

    prompt = _read_prompt(args.prompt)
    with Llama(args.model, n_ctx=args.ctx, n_threads=args.threads, kv_type=args.kv) as llama:
        progress = Progress("reading the prompt", quiet=args.quiet)
        options: dict[str, Any] = {
            "max_tokens": args.max_tokens,
            "temperature": args.temp,
            "top_k": args.top_k,
            "top_p": args.top_p,
            "min_p": args.min_p,
            "presence_penalty": args.presence_penalty,
            "frequency_penalty": args.frequency_penalty,
            "repetition_penalty": args.repetition_penalty,
            "seed": args.seed,
            "stop": args.stop,
            "special": args.special,
            "progress": progress,
        }
        if args.json:
            text = llama.generate(prompt, logprobs=args.logprobs, **options)
            progress.clear()
            print_json(_as_json(text))
        else:
            text = _stream(llama, prompt, options, progress)
    if args.stats:
        print(_figures(text), file=sys.stderr)
    return 0


def _read_prompt(given: str | None) -> bytes:
    if given is not None and given != "-":
        return os.fsencode(given)  # the bytes as typed, whatever the locale made of them
    if given is None and sys.stdin.isatty():
        raise InvalidArgument("there is no prompt", hint="give it as an argument or in a pipe")
    return sys.stdin.buffer.read()


def _stream(llama: Any, prompt: bytes, options: dict[str, Any], progress: Progress) -> Text:
    last = ""
    with llama.generate(prompt, stream=True, **options) as stream:
        try:
            for piece in stream:
                progress.clear()
                sys.stdout.write(piece)
                sys.stdout.flush()
                last = piece or last
        finally:
            progress.clear()
            if not last.endswith("\n"):
                sys.stdout.write("\n")
                sys.stdout.flush()
    result: Text = stream.result
    return result


def _as_json(text: Text) -> dict[str, Any]:
    return {
        "text": str(text),
        "tokens": text.tokens,
        "finish_reason": text.finish_reason,
        "stop_reason": text.stop_reason,
        "seed": text.seed,
        "usage": dataclasses.asdict(text.usage),
        "timings": dataclasses.asdict(text.timings),
        "logprobs": None
        if text.logprobs is None
        else [
            {
                "token": entry.token,
                "text": entry.piece.decode("utf-8", "replace"),
                "logprob": entry.logprob,
                "top": [{"token": t.token, "logprob": t.logprob} for t in entry.top],
            }
            for entry in text.logprobs
        ],
    }


def _figures(text: Text) -> str:
    timings = text.timings
    return (
        f"prompt {timings.prefill_tokens} tokens at {timings.prefill_per_second:.1f}/s, "
        f"answer {timings.decode_tokens} tokens at {timings.decode_per_second:.1f}/s, "
        f"seed {text.seed}"
    )
